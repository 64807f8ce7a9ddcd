"""A process of the local engine: `python -m wlshard.jobs.serve` does one task after the other from its stdin.

The end of its stdin tells that there are no more, or that the parent is gone: then it ends, and what it was
doing with it. What the user's code prints goes to stderr.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from queue import SimpleQueue
from types import FrameType
from typing import Any, NoReturn, TypeAlias

from wlshard.errors import WlshardError
from wlshard.jobs.engine import Answer
from wlshard.jobs.frames import Frames, send
from wlshard.jobs.process import take_pipes
from wlshard.jobs.stopping import Stopped

Frame: TypeAlias = tuple[dict[str, Any], memoryview]


def main() -> int:
    """Serve until stdin ends or SIGTERM comes."""
    control, status = take_pipes()
    tasks: SimpleQueue[Frame] = SimpleQueue()
    try:
        signal.signal(signal.SIGTERM, _end)
        threading.Thread(target=_listen, args=(control, tasks), name="wlshard-parent", daemon=True).start()
        import_module("wlshard.jobs.chunks")  # what tasks need, while the parent still plans the first
        with suppress(BrokenPipeError):
            while True:
                send(status, *_done(*tasks.get()))
    except Stopped:
        pass
    return 0


def _done(head: dict[str, Any], body: memoryview) -> tuple[dict[str, Any], Any]:
    module, _, name = head["function"].partition(":")
    try:
        function: Callable[..., Answer] = getattr(import_module(module), name)
        answer = function(head["args"], body)
    except WlshardError as error:
        return {"error": error.as_json()}, ()
    return {"value": answer.value}, answer.body


def _listen(control: int, tasks: SimpleQueue[Frame]) -> None:
    """Take in tasks; at the pipe's end, when the parent is gone, end as on SIGTERM."""
    frames = Frames(control)
    while (frame := frames.next()) is not None:
        tasks.put(frame)
    os.kill(os.getpid(), signal.SIGTERM)


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped


if __name__ == "__main__":
    sys.exit(main())
