"""A reader's side of a pool: wait for samples, choose the generation of an epoch, note what was served."""

from __future__ import annotations

import logging
import os

from wlshard import clock, seeds
from wlshard.errors import PoolStarved, StoreUnavailable
from wlshard.pool.manifest import Manifest
from wlshard.pool.names import this_host
from wlshard.pool.pool import Pool

log = logging.getLogger(__name__)

POLL_S = 0.05  # a commit is seen so much later at most; a look costs one failed open
REMOTE_POLL_S = 0.5
TELL_S = 10.0


class Follower:
    """One reader of a pool. `named`: the one generation it is to read; `follow=False`: the first it chose."""

    def __init__(self, pool: Pool, named: int | None, *, follow: bool, timeout_s: float) -> None:
        self.pool = pool
        self.moves = named is None and follow
        self.reader = f"{this_host()}-{os.getpid()}-{seeds.fresh_seed():016x}"
        self._named = named
        self._timeout_s = timeout_s
        self._note = (-1, 0, 0.0)  # generation, served, waited_s

    def choose(self, generation: int | None = None) -> Manifest:
        """Give the generation named, or else this one, or else the newest, waited for while it is empty.

        Errors: NotFound for a generation or a pool that is not there; PoolStarved.
        """
        number = generation if self._named is None else self._named
        return wait_for_samples(self.pool, self._timeout_s) if number is None else self.pool.manifest(number)

    def urls(self, manifest: Manifest) -> list[str]:
        """List the URLs of a generation's shards."""
        return [self.pool.shard_url(shard.name) for shard in manifest.shards]

    def served(self, generation: int, samples: int, waited_s: float) -> None:
        """Note in the pool that so many more samples were given to the consumer, and how long it waited.

        A store that is full or away is told, not raised. A small write: not for every batch.
        """
        of, served, waited = self._note
        if of != generation:
            served, waited = 0, 0.0
        self._note = generation, served + samples, waited + waited_s
        try:
            self.pool.record_served(self.reader, *self._note)
        except StoreUnavailable as error:
            log.warning("what is served is not counted for now: %s", error)


def wait_for_samples(pool: Pool, timeout_s: float) -> Manifest:
    """Give the newest generation as soon as it holds a sample.

    Blocks up to `timeout_s`, saying so at once and then with growing gaps. Errors: NotFound
    where there is no pool, or no more; PoolStarved.
    """
    began, tell = clock.monotonic(), 0.0
    can = pool.store.can
    poll_s = POLL_S if can.local or not can.shared else REMOTE_POLL_S
    while True:
        manifest = pool.newest()
        if manifest is not None and manifest.samples:
            return manifest
        waited = clock.monotonic() - began
        if waited >= timeout_s:
            raise PoolStarved(
                f"no samples in the read pool after {waited:.0f} s: run a generator (wl-gen) and promote "
                "what it seals (wl-rotate), or raise timeout_s",
                url=pool.url,
            )
        if waited >= tell:
            pool.require()  # one that was deleted is not waited for
            log.warning(
                "waiting for samples in pool %s for %.0f s (at most %.0f s)", pool.url, waited, timeout_s
            )
            tell = max(TELL_S, 2 * waited)
        clock.sleep(min(poll_s, timeout_s - waited))
