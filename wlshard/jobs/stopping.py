"""Signals that ask a process to end: heard at once where that is safe, remembered where it is not."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Self


def _ending() -> list[int]:
    """List the signals that ask to end: a closed terminal's too, unless nohup or its like has it ignored."""
    heeded = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if heeded else [])]


class Stopped(BaseException):
    """SIGTERM, SIGINT or SIGHUP came. Not an Exception: the user's `except Exception` must not keep it."""


class SealFirst:
    """While the block runs, SIGTERM, SIGINT and SIGHUP raise Stopped; when it is left, they are delivered.

    So who holds something unfinished can finish it first. Inside `held()` they are remembered instead and
    raised at its end. Outside the main thread, where Python has no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.asked: int | None = None  # the signal that came
        self._held = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _ending():
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
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

    def _hear(self, number: int, _: FrameType | None) -> None:
        first = self.asked is None
        self.asked = number
        if first and not self._held:
            raise Stopped


class StopFlag:
    """While the block runs, SIGTERM, SIGINT and SIGHUP only set `asked` and wake who watches `fileno`.

    For who supervises others: nothing is interrupted half-way. `count` tells how often they came.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.count = 0
        self._pipe: tuple[int, int] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)
        for number in _ending():
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for end in self._pipe or ():
            os.close(end)
        self._before, self._pipe = {}, None

    def fileno(self) -> int:
        assert self._pipe is not None, "entered"
        return self._pipe[0]

    def drain(self) -> None:
        """Forget the wake-ups, once the selector has told of them."""
        with suppress(BlockingIOError):
            os.read(self.fileno(), 4096)

    def _hear(self, number: int, _: FrameType | None) -> None:
        self.asked = self.asked or number
        self.count += 1
        if self._pipe:
            with suppress(BlockingIOError):  # full of wake-ups already
                os.write(self._pipe[1], b"!")
