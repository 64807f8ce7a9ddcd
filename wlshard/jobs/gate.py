"""Back-pressure: at `cap` samples in the write buffer a generator waits, or drops what it makes."""

from __future__ import annotations

import logging
from collections.abc import Callable

from wlshard import clock
from wlshard.errors import UsageError
from wlshard.jobs.job import Progress, Report
from wlshard.pool.pool import Pool

log = logging.getLogger(__name__)

POLL_S = 0.25  # between two looks at a full write buffer
TRUST_S = 5.0  # how long a look counts, however slowly this process fills the buffer: others may fill it too


class Gate:
    """Tells a generator whether the write buffer has room, by as few looks at the pool as will do.

    What this process has written but not sealed counts as if each of the `workers` processes had as much;
    so the cap is passed by about a shard for each process at most.
    """

    def __init__(self, pool: Pool, cap: int, workers: int) -> None:
        if cap < 1:
            raise UsageError(f"cap {cap}: it is a number of samples, 1 or more")
        self._pool, self.cap, self._workers = pool, cap, workers
        self._room = 0  # samples that may be taken before the next look
        self._looked: float | None = None
        self._was_open, self._pause_s = True, POLL_S
        self.buffered = 0  # samples found at the last look

    def is_open(self, unsealed: int) -> bool:
        """Tell whether one more sample may be taken, and count on it being taken if so."""
        age = float("inf") if self._looked is None else clock.monotonic() - self._looked
        if age > TRUST_S or (self._room <= 0 and (self._was_open or age > self._pause_s)):
            self.look(unsealed)
        self._room -= 1
        return self._room >= 0

    def look(self, unsealed: int) -> bool:
        """Look at the pool; tell whether it has room. Lists the pool's shards."""
        begun = clock.monotonic()
        self.buffered = sum(shard.samples for shard in self._pool.buffer())
        left = self.cap - self.buffered - unsealed * self._workers
        self._room = max(1, left // self._workers) if left > 0 else 0
        self._looked, self._was_open = clock.monotonic(), left > 0
        self._pause_s = max(POLL_S, 10 * (self._looked - begun))  # where many shards take long to list
        return self._was_open

    def wait(self, unsealed: Callable[[], int], waiting: Callable[[float], None]) -> None:
        """Block until there is room; `waiting` is told the seconds at each look."""
        started = clock.monotonic()
        while not self.look(unsealed()):
            waiting(clock.monotonic() - started)
            clock.sleep(self._pause_s)


def log_waits(pool: str) -> Report:
    """Make a report that warns once for each time a generator waits or drops, and tells how long it took."""
    waited_s: float | None = None
    dropped, told_at = 0, float("-inf")

    def report(progress: Progress) -> None:
        nonlocal waited_s, dropped, told_at
        full = f"the write buffer of {pool} is full ({progress.buffered} samples)"
        if progress.waiting_s is not None and waited_s is None:
            log.warning("%s: waiting for a rotation (wl-rotate %s)", full, pool)
        elif progress.waiting_s is None and waited_s is not None:
            log.warning("going on after %.0f s: %s has room again", waited_s, pool)
        waited_s = progress.waiting_s
        if progress.dropped > dropped and clock.monotonic() - told_at >= 60.0:  # at once, then each minute
            log.warning("%s: %d samples dropped so far", full, progress.dropped)
            told_at = clock.monotonic()
        dropped = progress.dropped

    return report
