"""The start of a worker process, by any start method and from any program: a script, a notebook."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pickle
import socket
import sys
import weakref
from contextlib import suppress
from dataclasses import fields

from wlshard.errors import UsageError, WorkerDied
from wlshard.workers import wire
from wlshard.workers.main import Start, main
from wlshard.workers.worker import Worker

_UNFIT = pickle.PicklingError, AttributeError, TypeError, RuntimeError  # what pickle raises, and locks

# The parent's ends of all wires. A forked child must not keep them: a worker would never see them closed.
_ends: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _close_ends() -> None:
    for end in list(_ends):
        end.close()


os.register_at_fork(after_in_child=_close_ends)


def launch(start: Start, start_method: str) -> Worker:
    """Start a worker; what it is given goes by pickle, or by value where that will not do.

    UsageError names the argument that cannot be sent at all. WorkerDied.
    """
    if start.forked:
        return _launch(start, start, start_method)
    if _program_is_found():
        with suppress(*_UNFIT):
            return _launch(start, start, start_method)
    return _launch(start, _by_value(start, start_method), start_method)


def _launch(start: Start, sent: Start | bytes, start_method: str) -> Worker:
    (ours, theirs), (cord, their_cord) = wire.pair(), wire.pair()
    _ends.update((ours, cord))
    context = multiprocessing.get_context(start_method)
    name = f"wlshard worker {start.number}"
    try:
        args = theirs, their_cord, sent
        process = context.Process(target=main, args=args, name=name, daemon=True)  # type: ignore[attr-defined]
        process.start()
        assert process.pid is not None
        # While it imports what it needs it looks at nothing: then SIGIO ends it as soon as `cord` is closed.
        fcntl.fcntl(their_cord, fcntl.F_SETOWN, process.pid)
        fcntl.fcntl(their_cord, fcntl.F_SETFL, os.O_ASYNC)
        return Worker(start.number, process, ours, cord, start.data)
    except BaseException as error:
        ours.close()
        cord.close()
        if isinstance(error, EOFError | ConnectionError | ProcessLookupError):
            raise WorkerDied(
                f"worker {start.number} could not be started, for it or the server that forks it has ended: "
                "begin again, it will be started anew"
            ) from error
        raise
    finally:
        theirs.close()
        their_cord.close()


def _by_value(start: Start, start_method: str) -> bytes:
    """Pickle it with those functions and classes that no module has: lambdas, those of a notebook.

    UsageError names the argument that cannot be sent at all.
    """
    import cloudpickle  # only where it is needed

    try:
        return bytes(cloudpickle.dumps(start))
    except _UNFIT:
        given = [(field.name, getattr(start.recipe, field.name)) for field in fields(start.recipe)]
        for name, value in [*given, ("source", start.data)]:
            try:
                cloudpickle.dumps(value)
            except _UNFIT as error:
                raise UsageError(
                    f"{name}= cannot be sent to workers by start_method={start_method!r} ({error}): make "
                    'what it holds when it is first called, there, or use start_method="fork"'
                ) from error
        raise


def _program_is_found() -> bool:
    """Tell whether another process can import what this one runs; of a notebook or `python -c` it cannot."""
    program = sys.modules["__main__"]
    return getattr(program, "__spec__", None) is not None or os.path.isfile(
        getattr(program, "__file__", None) or ""
    )
