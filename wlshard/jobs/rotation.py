"""Rotate whenever enough waits in the write buffer: the loop of `wl-rotate --watch` and of `wl-run`."""

from __future__ import annotations

import logging
import select
from collections.abc import Callable

from wlshard import clock
from wlshard.errors import StoreUnavailable, UsageError
from wlshard.jobs.stopping import StopFlag
from wlshard.pool.pool import Pool
from wlshard.pool.rotate import Rotation

log = logging.getLogger(__name__)

FAILURES = 5  # of the store in a row before the watch is given up


class Rotator:
    """Rotates a pool when it is due. A store that fails is asked again at the next turn, five times."""

    def __init__(self, pool: Pool, *, at: int, pool_samples: int = 0) -> None:
        if at < 0 or pool_samples < 0:
            raise UsageError(f"at={at}, pool_samples={pool_samples}: counts of samples are not negative")
        self.pool, self.at, self._pool_samples = pool, at, pool_samples
        self._failures = 0

    def turn(self, *, buffered: int | None = None, rest: bool = False) -> Rotation | None:
        """Rotate if `at` samples wait, and at least one; None if not, or if the store failed.

        buffered: what is known to wait, else it is looked up (20 ms for 1,000 local shards). rest: whatever
        waits will do, for no more will come.
        """
        try:
            if not rest:
                if buffered is None:
                    self.pool.salvage()
                    buffered = sum(shard.samples for shard in self.pool.buffer())
                if buffered < max(1, self.at):
                    return None
            done = self.pool.rotate(at=0 if rest else self.at, pool_samples=self._pool_samples)
        except StoreUnavailable as error:
            self._failures += 1
            if self._failures >= FAILURES:
                raise
            log.warning("no rotation (failure %d of %d): %s", self._failures, FAILURES, error)
            return None
        self._failures = 0
        return done if done.committed else None


def watch(rotator: Rotator, interval_s: float, show: Callable[[Rotation], None]) -> None:
    """Look every `interval_s` seconds, until a signal asks to end; show each rotation that committed."""
    rotator.pool.require()
    with StopFlag() as stop:
        while stop.asked is None:
            begun = clock.monotonic()
            done = rotator.turn()
            if done is not None:
                show(done)
            pause = max(0.0, interval_s - (clock.monotonic() - begun))
            select.select([stop], [], [], pause)
