"""The local engine: processes of this machine, each doing one task after the other."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Self

from wlshard.errors import WorkerDied
from wlshard.jobs.engine import Answer, Task, error_of
from wlshard.jobs.frames import Frames, send
from wlshard.jobs.process import Process, how_it_ended

GRACE_S = 5.0  # what a process may take to end what it does, once it was asked to


class LocalEngine:
    """`parallel` processes: as many as there are processors at once, others as they are needed. See `Engine`.

    Leaving the block ends them: SIGTERM, and SIGKILL for who takes longer than five seconds. If this process
    is killed they end by themselves.
    """

    def __init__(self, parallel: int) -> None:
        self.parallel = parallel
        self._idle: list[_Server] = []
        self._servers: list[_Server] = []
        self._lock = threading.Lock()
        self._closing = False

    def run(self, tasks: Iterable[Task], *, ahead: int | None = None) -> Iterator[Answer]:
        threads = ThreadPoolExecutor(self.parallel, thread_name_prefix="wlshard-engine")
        pending: deque[Future[Answer]] = deque()
        try:
            for task in tasks:
                pending.append(threads.submit(self._do, task))
                while pending and (pending[0].done() or (ahead is not None and len(pending) > ahead)):
                    yield _first(pending)
            while pending:
                yield _first(pending)
        finally:
            if pending:
                self.close()
            threads.shutdown(cancel_futures=True)

    def _do(self, task: Task) -> Answer:
        with self._lock:
            if self._closing:
                raise WorkerDied("the engine is being closed")
            server = self._idle.pop() if self._idle else self._start()
        answer = server.do(task)
        with self._lock:
            self._idle.append(server)
        return answer

    def _start(self) -> _Server:
        self._servers.append(_Server())
        return self._servers[-1]

    def close(self) -> None:
        """End all processes and wait for that. May be called twice."""
        with self._lock:
            self._closing = True
            servers, self._servers, self._idle = self._servers, [], []
        for server in servers:
            server.process.ask()
        for server in servers:
            if not server.process.has_ended(GRACE_S):
                server.process.kill()
            server.process.reap()

    def __enter__(self) -> Self:
        self._idle = [self._start() for _ in range(min(self.parallel, os.cpu_count() or 1))]
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _first(pending: deque[Future[Answer]]) -> Answer:
    """Wait for the first answer; it is pending until it is there."""
    answer = pending[0].result()
    pending.popleft()
    return answer


class _Server:
    """One process; one thread at a time has it do a task."""

    def __init__(self) -> None:
        self.process = Process("wlshard.jobs.serve")
        self._frames = Frames(self.process.status)

    def do(self, task: Task) -> Answer:
        frame = None
        with suppress(BrokenPipeError):
            send(self.process.to, {"function": task.function, "args": task.args}, task.body)
            frame = self._frames.next()
        if frame is None:
            code = self.process.reap()
            raise WorkerDied(f"a process {how_it_ended(code)}; see above for what it printed")
        head, body = frame
        if "error" in head:
            raise error_of(head["error"])
        return Answer(head["value"], [body])
