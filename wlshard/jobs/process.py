"""A process that does jobs: `python -m` one of our modules, with a pipe to it and one from it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress

from wlshard import clock

TICK_S = 0.01


class Process:
    """Started when it is made, in a session of its own: the terminal's ^C is for us, who end it in order.

    `to`, `status`: our ends of the pipes to it and from it. The end of the first tells it that we are gone.
    """

    def __init__(self, module: str, environ: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._pipes = self._process.stdin, self._process.stdout
        self.to, self.status = (pipe.fileno() for pipe in self._pipes)

    def ask(self) -> None:
        """Ask it to end."""
        if self._process.returncode is None:  # os.kill: Popen's own would reap it first if it has ended
            with suppress(ProcessLookupError):  # another thread has reaped it
                os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill it and all of its group, before it is reaped."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def has_ended(self, timeout_s: float = 0.0) -> bool:
        """Tell whether it has ended; wait so long for that."""
        with suppress(ChildProcessError):  # another thread has reaped it
            return self._process.returncode is not None or has_ended(self._process.pid, timeout_s)
        return True

    def reap(self) -> int:
        """Wait for its end, kill what it started, close the pipes, give its exit code. Callable twice."""
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            self.kill()
        code = self._process.wait()
        for pipe in self._pipes:
            pipe.close()
        return code


def has_ended(child: int, timeout_s: float) -> bool:
    """Tell whether a child process has ended, and wait so long for that.

    It is not reaped: the number of its group, which may be killed, cannot be another's already.
    """
    look = os.WEXITED | os.WNOHANG | os.WNOWAIT
    try:
        fd = os.pidfd_open(child)
    except OSError:  # an old kernel
        until = clock.monotonic() + timeout_s
        while not (ended := os.waitid(os.P_PID, child, look)) and clock.monotonic() < until:
            clock.sleep(TICK_S)
        return ended is not None
    try:
        return bool(select.select([fd], [], [], timeout_s)[0])
    finally:
        os.close(fd)


def how_it_ended(code: int) -> str:
    """Say what an exit code means."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    asked = " (asked to by a signal)" if code in (128 + signal.SIGTERM, 128 + signal.SIGINT) else ""
    return f"ended with exit code {code}{asked}"


def take_pipes() -> tuple[int, int]:
    """Inside the process: move the two pipes, (from the parent, to it), out of the way of the user's code.

    That, and the programs it starts, read nothing from stdin, and what they print goes to stderr.
    """
    control, status = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return control, status
