"""Time in one place, so that tests can hold it still, skew it and make it jump."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Clock(Protocol):
    """What a clock can do; `time` itself is one."""

    def time(self) -> float: ...

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


_clock: Clock = time


def now() -> float:
    """Give the wall-clock time, seconds since the epoch. It may jump: never measure a duration with it."""
    return _clock.time()


def monotonic() -> float:
    """Give seconds from some fixed point; never goes back."""
    return _clock.monotonic()


def elapsed() -> float:
    """Give seconds from some fixed point, with those in which the machine slept; `monotonic` has them not."""
    if _clock is time:
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
    return _clock.monotonic()


def sleep(seconds: float) -> None:
    """Wait."""
    _clock.sleep(seconds)


@contextmanager
def use(clock: Clock) -> Iterator[Clock]:
    """Replace the clock of this process inside the block (for tests)."""
    global _clock
    before, _clock = _clock, clock
    try:
        yield clock
    finally:
        _clock = before
