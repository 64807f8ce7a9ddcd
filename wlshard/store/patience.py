"""Trying again: how often, how long, with which pauses; the same for every store that is far away."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import TypeVar

from wlshard import clock, seeds
from wlshard.errors import StoreUnavailable, WlshardError

log = logging.getLogger(__name__)

T = TypeVar("T")

TRIES = 8  # in a row without a byte
BUDGET = 100  # of one object
DEADLINE_S = 300.0  # without a byte
PAUSE_S = 0.1  # before the second try, doubled before each further one, drawn from its upper half
LONGEST_PAUSE_S = 20.0
TELL_S = 5.0
_SLICE_S = 0.2  # a pause ends so soon after its reader was closed


class Passing(Exception):
    """Something that may be over at the next try. Carries the error to raise once patience ends."""

    def __init__(self, error: WlshardError, after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_s = after_s  # what the server asked for


class Patience:
    """What may still be tried for one object. Threads may share it: it counts, and is never exact.

    `ended`: tells that nobody waits any more.
    """

    def __init__(self, url: str, ended: Callable[[], bool] = lambda: False) -> None:
        self.url = url
        self._ended = ended
        self._in_a_row = self._in_all = 0
        self._since = clock.monotonic()

    def progressed(self) -> None:
        """Take note that bytes came."""
        self._in_a_row, self._since = 0, clock.monotonic()

    def again(self, failure: Passing) -> None:
        """Pause before the next try. Raises the failure's error when there is to be none."""
        self._in_a_row += 1
        self._in_all += 1
        draw = seeds.rng(self.url, os.getpid(), self._in_all).uniform(0.5, 1)
        pause_s = min(PAUSE_S * 2 ** (self._in_a_row - 1), LONGEST_PAUSE_S) * draw
        pause_s = max(pause_s, failure.after_s or 0.0)
        waited_s = clock.monotonic() - self._since
        over = self._in_a_row >= TRIES or self._in_all >= BUDGET or waited_s + pause_s > DEADLINE_S
        if over or self._ended():
            error = failure.error
            if self._in_all > 1:
                error.message += f" (tried {self._in_all} times)"
            raise error from failure
        say = log.warning if pause_s >= TELL_S or self._in_a_row > TRIES // 2 else log.info
        say("trying again in %.1f s: %s", pause_s, failure.error)
        until = clock.monotonic() + pause_s
        while not self._ended() and (left := until - clock.monotonic()) > 0:
            clock.sleep(min(left, _SLICE_S))

    def patiently(self, attempt: Callable[[], T]) -> T:
        """Give the result of a step that may be repeated, which raises Passing where that may help."""
        while True:
            try:
                return attempt()
            except Passing as failure:
                self.again(failure)


def retry_after(value: str | None) -> float | None:
    """Read a Retry-After header: seconds, or a date."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - clock.now())
    except ValueError:
        return None


def unavailable(what: str, url: str, offset: int | None = None) -> Passing:
    """Give what is raised where a store did not answer, or broke off."""
    return Passing(StoreUnavailable(what, url=url, offset=offset))
