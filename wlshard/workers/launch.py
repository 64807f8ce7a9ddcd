"""The start of a worker process, by any start method and from any program: a script, a notebook."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pickle
import socket
import sys
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import fields
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd, ForkingPickler
from typing import Any

from wlshard.errors import UsageError, WorkerDied
from wlshard.workers import wire
from wlshard.workers.main import Start, main
from wlshard.workers.memory import shared_file
from wlshard.workers.worker import Worker

# glibc copies past the cache what is larger than a processor's share of it, and on a virtual machine may take
# the host's whole cache for that: batches that do not fit are then read before they are overwritten. Its
# rule for a share of 1 MiB is three quarters of that (sysdeps/x86/dl-cacheinfo.h); it looks when it starts.
_TUNABLES, _PAST_CACHE = "GLIBC_TUNABLES", "glibc.cpu.x86_non_temporal_threshold"
_PAST_CACHE_BYTES = 3 << 18
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
    try:
        process = _started(start_method, f"wlshard worker {start.number}", theirs, their_cord, sent)
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


def _started(
    start_method: str, name: str, end: socket.socket, cord: socket.socket, sent: Start | bytes
) -> BaseProcess:
    context: Any = multiprocessing.get_context(start_method)
    with ExitStack() as stack:
        given: Start | bytes | _Parcel = sent
        if start_method != "fork":
            given = stack.enter_context(closing(_Parcel(sent)))
            stack.enter_context(_copies_past_cache())
        process: BaseProcess = context.Process(target=main, args=(end, cord, given), name=name, daemon=True)
        process.start()
    return process


class _Parcel:
    """What a process that is no copy of this one is given: pickled, it arrives as it was.

    It lies in shared memory: multiprocessing writes to a pipe, and would wait for ever for a process that
    ended before it had read all (see popen_spawn_posix: this process holds the end that is read, too).
    """

    def __init__(self, content: object) -> None:
        self._content = content
        self._fd = -1

    def __reduce__(self) -> tuple[Any, ...]:
        self._fd = shared_file(0)
        with open(self._fd, "wb", closefd=False) as file:
            ForkingPickler(file, pickle.HIGHEST_PROTOCOL).dump(self._content)
        return _opened, (DupFd(self._fd),)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _opened(sent: Any) -> Any:
    with open(sent.detach(), "rb") as file:
        file.seek(0)
        return pickle.load(file)  # noqa: S301 — our parent's


@contextmanager
def _copies_past_cache() -> Iterator[None]:
    """Let a program that is started here copy past the cache what is large, unless it is said from where on.

    Of two threads that start workers at a time, one may leave it in the environment: nothing else changes.
    """
    before = os.environ.get(_TUNABLES)
    if _PAST_CACHE not in (before or ""):
        os.environ[_TUNABLES] = ":".join(filter(None, (before, f"{_PAST_CACHE}={_PAST_CACHE_BYTES:#x}")))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_TUNABLES, None)
        else:
            os.environ[_TUNABLES] = before


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
