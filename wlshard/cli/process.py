"""What a command finds in its process: streams that may be closed, signals that ask it to end."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Ended(BaseException):
    """SIGTERM or SIGHUP came. Not an Exception: nobody's `except Exception` must keep it."""


@contextmanager
def ended_in_order() -> Iterator[None]:
    """While the block runs, SIGTERM and SIGHUP leave it as ^C does, then end the process; a second at once.

    Who waits for stdin in another thread is at its end then. Those who are asked to end first, and signals
    that are ignored, are left as they are.
    """
    came = 0

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = number
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        if number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        signal.signal(number, signal.SIG_DFL)
        raise Ended

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, hear)
    try:
        yield
    except Ended:
        os.kill(os.getpid(), came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def take_streams() -> None:
    """See to it that all can be said in any locale, and that what was closed by who started us is no file.

    A closed stream is one that cannot be used: reading from stdin and writing to stdout fail, and what is
    said on stderr is lost. Else a shard would be opened under its number.
    """
    for fd, wrong_way in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, wrong_way)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # for as long as we live
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr's are
    if fcntl.fcntl(2, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def drop_stdout() -> None:
    """Let the interpreter's last flush of stdout go nowhere instead of complaining."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
