"""A generator's process: `python -m wlshard.jobs.child`, started and watched by `supervise`.

Its stdin brings the job, and then nothing: its end tells that the parent is gone. On its stdout it tells its
progress, a frame each; what the user's code prints goes to stderr.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from types import FrameType
from typing import Any, NoReturn

from wlshard import clock
from wlshard.errors import UserCodeError, WlshardError
from wlshard.jobs.frames import Frames, send
from wlshard.jobs.generate import run_job
from wlshard.jobs.job import Job, Progress
from wlshard.jobs.process import take_pipes
from wlshard.jobs.stopping import Stopped
from wlshard.jobs.usercode import load

TELL_S = 0.1  # between two lines of progress, unless something new is sealed
ORPHAN_S = 20.0  # what an orphan may take to seal before its whole process group is killed
LINGER_S = 2.0  # for the user's threads to end once the job has: nobody asked them to


def main() -> int:
    """Do the job; give the exit code."""
    control, status = take_pipes()
    told = Frames(control).next()
    if told is None:
        return 0  # the parent is gone already
    job = Job(**told[0])
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    orphaned = threading.Event()
    threading.Thread(target=_watch, args=(control, orphaned), name="wlshard-parent", daemon=True).start()
    telling = _Telling(status)
    function = None
    try:
        function = load(job.function)
        run_job(job, function, telling.progress)
        telling.last()
        telling.line({"finished": True})
    except WlshardError as error:
        # What the generator raised may not come again with other seeds; the rest is a mistake that stays.
        retry = function is not None and isinstance(error, UserCodeError) and error.__cause__ is not None
        telling.last()
        telling.line({"error": error.as_json(), "retry": retry})
        return error.code
    except Stopped:
        return 128 + signal.SIGTERM
    finally:
        if orphaned.is_set():
            os.killpg(0, signal.SIGKILL)
    return 0


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Stopped


def _leave(code: int) -> NoReturn:
    """Exit; without those of the user's threads that would keep the process for ever."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # all is sealed and told

    def end() -> None:
        time.sleep(LINGER_S)
        os._exit(code)

    threading.Thread(target=end, name="wlshard-leave", daemon=True).start()
    sys.exit(code)


def _watch(control: int, orphaned: threading.Event) -> None:
    """Wait for the parent's end; then end as on SIGTERM, or at last without regard."""
    while os.read(control, 4096):
        pass
    orphaned.set()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_S)
    os.killpg(0, signal.SIGKILL)


class _Telling:
    """Tells the parent, not too often; one that is gone does not matter."""

    def __init__(self, status: int) -> None:
        self._status = status
        self._told_at, self._told_sealed = float("-inf"), -1
        self._latest: Progress | None = None

    def progress(self, progress: Progress) -> None:
        self._latest = progress
        now = clock.monotonic()
        if progress.sealed != self._told_sealed or now - self._told_at >= TELL_S:
            self._told_at, self._told_sealed = now, progress.sealed
            self.line(asdict(progress))

    def last(self) -> None:
        if self._latest is not None:
            self.line(asdict(self._latest))

    def line(self, content: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):
            send(self._status, content)


if __name__ == "__main__":
    _leave(main())
