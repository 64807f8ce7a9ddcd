"""Clocks for tests."""

from __future__ import annotations

import time


class Skipping:
    """The real clock, but for its sleeps: they end at once, and the time they would have taken has passed."""

    def __init__(self) -> None:
        self.skipped_s = 0.0
        self.slept: list[float] = []

    def time(self) -> float:
        return time.time() + self.skipped_s

    def monotonic(self) -> float:
        return time.monotonic() + self.skipped_s

    def sleep(self, seconds: float, /) -> None:
        self.slept.append(seconds)
        self.skipped_s += seconds


class Hand:
    """A clock that is moved by hand; `wrong_s`: what its wall clock is off by."""

    def __init__(self) -> None:
        self.at = 1_000_000.0
        self.wrong_s = 0.0

    def time(self) -> float:
        return self.at + self.wrong_s

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float, /) -> None:
        self.at += seconds
