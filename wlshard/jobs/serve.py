"""A process that does tasks: `python -m wlshard.jobs.serve` takes them from its stdin, one after the other.

The end of its stdin tells that the parent is gone: then it ends as on SIGTERM, at last with all of its
process group. What the user's code prints goes to stderr.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from queue import SimpleQueue
from types import FrameType
from typing import Any, NoReturn, TypeAlias

from wlshard.errors import UserCodeError, WlshardError
from wlshard.jobs.engine import Answer
from wlshard.jobs.frames import Frames, send
from wlshard.jobs.process import take_pipes
from wlshard.jobs.stopping import Stopped

ORPHAN_S = 20.0  # what an orphan may take to end what it does before its whole process group is killed
LINGER_S = 2.0  # for the user's threads to end once all is done: nobody asked them to

Frame: TypeAlias = tuple[dict[str, Any], memoryview]


def main() -> NoReturn:
    """Serve until SIGTERM comes, or a task that `tells` is done, which is a process's only one."""
    control, status = take_pipes()
    tasks, orphaned, code = SimpleQueue[Frame](), threading.Event(), 0
    atexit.register(lambda: os.killpg(0, signal.SIGKILL) if orphaned.is_set() else None)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        threading.Thread(target=_listen, args=(control, tasks, orphaned), daemon=True).start()
        import_module("wlshard.jobs.chunks")  # what tasks need, while the parent still plans the first
        with suppress(BrokenPipeError):
            last = False
            while not last:
                head, body = tasks.get()
                last = "tells" in head
                send(status, *_done(head, body, status))
    except Stopped:
        code = 128 + signal.SIGTERM
    _leave(code, orphaned)


def _done(head: Mapping[str, Any], body: memoryview, status: int) -> tuple[dict[str, Any], Any]:
    module, _, name = head["function"].partition(":")

    def tell(news: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):  # a parent that is gone does not matter
            send(status, {"news": news})

    try:
        function: Callable[..., Answer] = getattr(import_module(module), name)
        answer = function(head["args"], body, *([tell] if "tells" in head else []))
    except WlshardError as error:
        accident = isinstance(error, UserCodeError) and error.__cause__ is not None
        return {"error": error.as_json(), "accident": accident}, ()
    return {"value": answer.value}, answer.body


def _listen(control: int, tasks: SimpleQueue[Frame], orphaned: threading.Event) -> None:
    """Take in tasks; at the pipe's end, when the parent is gone, end as on SIGTERM, or without regard."""
    frames = Frames(control)
    while (frame := frames.next()) is not None:
        tasks.put(frame)
    orphaned.set()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_S)
    os.killpg(0, signal.SIGKILL)


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise Stopped


def _leave(code: int, orphaned: threading.Event) -> NoReturn:
    """Exit; without those of the user's threads that would keep the process for ever."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # all is done and told

    def end() -> None:
        time.sleep(LINGER_S)
        if orphaned.is_set():
            os.killpg(0, signal.SIGKILL)
        os._exit(code)

    threading.Thread(target=end, daemon=True).start()
    sys.exit(code)


if __name__ == "__main__":
    main()
