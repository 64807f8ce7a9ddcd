"""A reader's side of a pool: wait for samples, choose the generation of an epoch, note what was served."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable

from wlshard import clock
from wlshard.errors import PoolStarved
from wlshard.place import Place
from wlshard.pool.accord import Accord
from wlshard.pool.lease import Lease
from wlshard.pool.manifest import Manifest
from wlshard.pool.pool import Pool, retired

log = logging.getLogger(__name__)

POLL_S = 0.05  # a commit is seen so much later at most; a look costs one failed open
REMOTE_POLL_S = 0.5
TELL_S = 10.0


class Follower:
    """One reader of a pool, with a lease on the generation it chose last.

    named: the one generation it is to read; `follow=False`: the first it chose. pin: the generations it read
    last, two of them, stay readable under this name for some days, should it be taken up again. job: what all
    ranks call this start.
    """

    def __init__(
        self,
        pool: Pool,
        named: int | None,
        *,
        follow: bool,
        timeout_s: float,
        pin: str | None = None,
        job: str | None = None,
        ttl_s: float | None = None,
    ) -> None:
        self.pool = pool
        self.chooses = named is None
        self.moves = self.chooses and follow
        self._named = named
        self._timeout_s = timeout_s
        self._pin = pin
        self._job = job
        self._ttl_s = ttl_s
        self._lease: Lease | None = None
        self._let_go: Callable[[], object] = lambda: None

    def choose(self, generation: int | None = None, after: int | None = None) -> Manifest:
        """Give the generation named, or else this one, or else the newest.

        That is waited for while it is empty, or not newer than `after`.

        It is leased from here on, until another is chosen. Errors: NotFound for a generation or a pool that
        is not there, or no more; PoolStarved.
        """
        number = generation if self._named is None else self._named
        while True:
            newest = wait_for_samples(self.pool, self._timeout_s, after) if number is None else None
            manifest = newest or self.pool.manifest(number or 0)
            if self._take(manifest.generation):
                return manifest
            if newest is None or self.pool.newest(after=newest.generation) is None:
                raise retired(manifest.generation, self.pool.url)

    def _take(self, generation: int) -> bool:
        if self.holds(generation):
            return True
        lease, last = self.pool.lease(generation, self._pin, self._ttl_s), self._lease
        if not lease.take():
            return False
        self._let_go()
        # Should we be forgotten, not closed: at our end, or at the latest at that of the process.
        self._lease, self._let_go = lease, weakref.finalize(self, lease.close)
        if self._pin is not None:
            self.pool.pin(self._pin, generation, but=[last.generation] if last else [])
        return True

    def accord(self, place: Place) -> Accord:
        """Give what makes all ranks of this job choose alike."""
        return Accord(self.pool.store, place, self._job, self._timeout_s)

    def newer(self) -> bool:
        """Look whether a generation has come after the one chosen last."""
        return self._lease is not None and self.pool.newest(after=self._lease.generation) is not None

    def holds(self, generation: int | None) -> bool:
        """Tell whether this generation is leased now."""
        return self._lease is not None and self._lease.generation == generation and self._lease.alive

    def check(self) -> None:
        """Raise LostLease if the lease has ended. Costs nothing to speak of."""
        if self._lease is not None:
            self._lease.check()

    def urls(self, manifest: Manifest) -> list[str]:
        """List the URLs of a generation's shards."""
        return [self.pool.shard_url(shard.name) for shard in manifest.shards]

    def served(self, samples: int, waited_s: float) -> None:
        """Note in the pool that so many more samples of what was chosen were given to the consumer, and how
        long it waited.

        A store that is full or away is told, not raised. A small write: not for every batch.
        """
        if self._lease is not None:
            self._lease.note(samples, waited_s)

    def close(self) -> None:
        """Let go of the lease. Closes twice; may choose again."""
        self._let_go()
        self._lease = None


def wait_for_samples(pool: Pool, timeout_s: float, after: int | None = None) -> Manifest:
    """Give the newest generation as soon as it holds a sample, and is newer than `after`.

    Blocks up to `timeout_s`, saying so at once and then with growing gaps. Errors: NotFound
    where there is no pool, or no more; PoolStarved.
    """
    began, tell = clock.monotonic(), 0.0
    wanted = "samples" if after is None else f"a generation after {after}"
    missing = "no samples in the read pool" if after is None else f"no {wanted[2:]}"
    can = pool.store.can
    poll_s = POLL_S if can.local or not can.shared else REMOTE_POLL_S
    while True:
        manifest = pool.newest()
        if manifest is not None and manifest.samples and (after is None or manifest.generation > after):
            return manifest
        waited = clock.monotonic() - began
        if waited >= timeout_s:
            raise PoolStarved(
                f"{missing} after {waited:.0f} s: run a generator (wl-gen) and promote what it seals "
                "(wl-rotate), or raise timeout_s",
                url=pool.url,
            )
        if waited >= tell:
            pool.require()  # one that was deleted is not waited for
            log.warning(
                "waiting for %s in pool %s for %.0f s (at most %.0f s)", wanted, pool.url, waited, timeout_s
            )
            tell = max(TELL_S, 2 * waited)
        clock.sleep(min(poll_s, timeout_s - waited))
