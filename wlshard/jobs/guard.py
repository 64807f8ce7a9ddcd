"""Run a command and see to it that nothing of it is left behind: `python -m wlshard.jobs.guard FD COMMAND…`.

Stands between `wl-run` and the consumer, in the same process group, so that the consumer has the terminal
and its ^C as if it were run by itself. FD is the end of a pipe on which wl-run asks for signals; when the
pipe ends, for wl-run is dead, all that the command ever started gets SIGTERM, and later SIGKILL.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

INTERRUPT, END, KILL = b"i", b"t", b"k"
GRACE_S = 10.0  # from SIGTERM to SIGKILL
REST_S = 2.0  # the same for what the command left running when it ended
TICK_S = 0.1
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def main(argv: list[str]) -> int:
    """Run the command; give its exit code, 128 + n if signal n ended it."""
    control, command = int(argv[0]), argv[1:]
    os.set_inheritable(control, False)
    wake = _wake_on_signals()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what the command leaves behind becomes ours
    child = _start(command)
    watched, until = [control, wake], float("inf")
    while (code := _reap(child)) is None:
        left = until - time.monotonic()
        if left <= 0:
            _signal(descendants(), signal.SIGKILL)
        ready = select.select(watched, [], [], None if left == float("inf") else max(TICK_S, left))[0]
        told = os.read(control, 1) if control in ready else b"-"
        if told == INTERRUPT:
            _signal([child], signal.SIGINT)
        elif told == KILL:
            until = time.monotonic()
        elif told == b"":
            watched = [wake]
        if told in (b"", END) or (wake in ready and signal.SIGTERM in os.read(wake, 4096)):
            until = min(until, time.monotonic() + GRACE_S)
            _signal(descendants(), signal.SIGTERM)
    _end_rest(child)
    return code if code >= 0 else 128 - code


def _wake_on_signals() -> int:
    """Make signals readable, as bytes, instead of deadly."""
    wake, bell = os.pipe()
    os.set_blocking(bell, False)
    signal.set_wakeup_fd(bell, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
        # Heard, not ignored: what is ignored would stay so in the command, as nohup wants of SIGHUP.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    return wake


def _start(command: list[str]) -> int:
    child = os.fork()
    if child:
        return child
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # should we be killed ourselves
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it; the command expects the default
    try:
        os.execvp(command[0], command)  # noqa: S606 — what it is for
    except OSError as error:
        os.write(2, f"wl-run: cannot run {command[0]}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def _reap(child: int) -> int | None:
    """Reap who has ended; give the command's exit code if it has."""
    code = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            if ended[0] == child:
                code = os.waitstatus_to_exitcode(ended[1])
    return code


def _end_rest(child: int) -> None:
    """End what the command started and did not wait for."""
    until = time.monotonic() + REST_S
    _signal(descendants(), signal.SIGTERM)
    while rest := descendants():
        if time.monotonic() >= until:
            _signal(rest, signal.SIGKILL)
        time.sleep(TICK_S)
        _reap(child)


def _signal(processes: Iterable[int], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def descendants() -> set[int]:
    """List the processes that this one, or one of them, has started; empty where there is no /proc."""
    parents = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if entry.isdecimal():
            with suppress(OSError), open(f"/proc/{entry}/stat", "rb") as stat:
                # pid (command, which may hold anything) state ppid …: proc(5)
                parents[int(entry)] = int(stat.read().rpartition(b")")[2].split()[1])
    found, new = set[int](), {os.getpid()}
    while new:
        new = {process for process, parent in parents.items() if parent in new} - found
        found |= new
    return found


def _prctl(option: int, value: int) -> None:
    """Set a property of this process; only Linux has these."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
