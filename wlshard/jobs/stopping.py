"""Signals that ask a process to end: heard at once where that is safe, remembered where it is not."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, Self


class Stopped(BaseException):
    """SIGTERM, SIGINT or SIGHUP came. Not an Exception: the user's `except Exception` must not keep it."""


class _Listening:
    """Hears the signals that ask to end while the block runs; outside the main thread, where Python has none,
    it does nothing. `asked`: the first that came; `count`: how many."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                # A closed terminal's too, unless nohup or its like has it ignored.
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool | None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        return None

    def _hear(self, number: int, _: FrameType | None) -> None:
        self.asked = self.asked or number
        self.count += 1


class SealFirst(_Listening):
    """While the block runs, the signals raise Stopped; when it is left, they are delivered.

    So who holds something unfinished can finish it first. Inside `held()` they are remembered instead and
    raised at its end.
    """

    _held = False

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        super().__exit__(kind)
        if self.asked is not None and kind in (None, Stopped):  # an error on the way tells more
            os.kill(os.getpid(), self.asked)
        return kind is Stopped

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let nothing interrupt the block; what came meanwhile raises Stopped at its end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self.asked is not None:
            raise Stopped

    def _hear(self, number: int, frame: FrameType | None) -> None:
        super()._hear(number, frame)
        if self.count == 1 and not self._held:
            raise Stopped


class StopFlag(_Listening):
    """While the block runs, the signals only set `asked` and end a `wait`.

    For who supervises others: nothing is interrupted half-way.
    """

    def __init__(self) -> None:
        super().__init__()
        self._wake = SimpleQueue[None]()

    def wait(self, timeout_s: float) -> None:
        """Wait so long, or until a signal comes."""
        with suppress(Empty):
            self._wake.get(timeout=timeout_s)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        super()._hear(number, frame)
        self._wake.put(None)
