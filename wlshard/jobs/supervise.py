"""Run a generator in P processes: start them, hear of them, start anew what crashed, end them in order."""

from __future__ import annotations

import logging
import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Self

from wlshard import clock
from wlshard.errors import UsageError, WlshardError, counted
from wlshard.jobs.job import Job, Progress, pool_of
from wlshard.jobs.stopping import StopFlag
from wlshard.jobs.worker import Worker
from wlshard.shards.numbered import refuse_numbered
from wlshard.shards.writer import TemplateTarget

log = logging.getLogger(__name__)

FAILURES = 5  # in a row, of one worker, before the whole run is given up
PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # before the first restart; doubled each time, up to the longest
TICK_S = 0.25  # how often it is looked for signals, and children that died while theirs held the pipe open
GRACE_S = 20.0  # for sealing, once a child was asked to end


@dataclass
class Totals(Progress):
    """What all starts of all workers made so far. `waiting_s`: the longest wait, while all of them wait."""

    restarts: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Give what `wl-gen --json` prints."""
        names = "generated", "sealed", "dropped", "shards", "bytes", "restarts", "seconds"
        return {name: getattr(self, name) for name in names}


def shares(samples: int | None, parallel: int) -> list[int | None]:
    """Share out the samples among the workers: ⌊N/P⌋ each, one more for the first N mod P."""
    if samples is None:
        return [None] * parallel
    return [samples // parallel + (worker < samples % parallel) for worker in range(parallel)]


class Generators:
    """P generator processes and their restarts. Enter to start them, call `step` until `done`.

    job: what all have in common; its `samples` is the total that is shared out. gpus: CUDA devices, given
    to the workers in turn. A process that fails is started anew, as a new writer with its own seed, for what
    is left of its share, after a pause of `pause_s` that doubles. Its fifth failure in a row is raised by
    `step`; a failure that is no accident at once: a wrong argument, a generator that yields nothing, and
    before it has ever gone on after a sealed shard, a field that does not encode, a key twice, a full disk.

    Leaving the block ends all: SIGTERM, by which they seal, and SIGKILL for who takes longer than `grace_s`
    or when `hurry()` says so. Nothing survives: not what they started, nor they if this process is killed.
    """

    def __init__(
        self,
        job: Job,
        parallel: int = 1,
        *,
        gpus: Sequence[str] = (),
        pause_s: float = PAUSE_S,
        grace_s: float = GRACE_S,
        hurry: Callable[[], bool] = lambda: False,
    ) -> None:
        devices = [f"cuda:{gpu}" for gpu in gpus] or ["cpu"]
        self.workers = [
            Worker(replace(job, samples=share, worker=i, workers=parallel, device=devices[i % len(devices)]))
            for i, share in enumerate(shares(job.samples, parallel))
        ]
        self.restarts = 0
        self._running: set[Worker] = set()
        self._pool = pool_of(job.target)
        self._pause_s, self._grace_s, self._hurry = pause_s, grace_s, hurry
        self._started = clock.monotonic()

    def __enter__(self) -> Self:
        self._started = clock.monotonic()
        if self._pool is None:
            template = self.workers[0].job.target
            TemplateTarget(template)  # UsageError if it is none
            refuse_numbered(template)
        elif not self._pool.store.can.shared:
            raise UsageError("only this process sees what is in memory: name a folder", url=self._pool.url)
        else:
            self._pool.create()
        try:
            for worker in self.workers:
                if not worker.done:
                    self._start(worker)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def done(self) -> bool:
        """Tell whether every worker has made its share, or its generator has ended."""
        return all(worker.done for worker in self.workers)

    def step(self, timeout_s: float) -> None:
        """Wait for news, `timeout_s` at most; take it in; start anew what is due. Raises what is hopeless."""
        now = clock.monotonic()
        due = [max(0.0, worker.due - now) for worker in self.workers if worker.due is not None]
        self._hear(min([timeout_s, TICK_S, *due]))
        for worker in self.workers:
            if worker in self._running and worker.process.has_ended():
                self._reap(worker)
                worker.settle()
                if not worker.done:
                    self._plan_restart(worker)
            elif worker.due is not None and worker.due <= clock.monotonic():
                self.restarts += 1
                self._start(worker)

    def totals(self) -> Totals:
        """Sum up what the workers told."""
        each = [worker.total() for worker in self.workers]
        waits = [worker.latest.waiting_s for worker in self.workers if not worker.done]
        told = vars(reduce(Progress.plus, each)) | {
            "waiting_s": None if None in waits else max((wait for wait in waits if wait), default=None),
            "buffered": max(one.buffered for one in each),
        }
        return Totals(**told, restarts=self.restarts, seconds=clock.monotonic() - self._started)

    def close(self) -> None:
        """End all processes and wait for them to seal; afterwards nothing is left of them. Closes twice."""
        until, ended = clock.monotonic() + self._grace_s, list(self._running)
        for worker in ended:
            worker.process.ask()
        while self._running:
            if clock.monotonic() >= until or self._hurry():
                for worker in self._running:
                    worker.process.kill()
            self._hear(TICK_S)
            for worker in ended:
                if worker in self._running and worker.process.has_ended():
                    self._reap(worker)
        for worker in ended:
            try:
                worker.settle()
            except WlshardError as error:
                log.warning("what a process left is not sealed yet, the next start will try again: %s", error)
            if worker.error is not None and not worker.accident:
                log.warning("while ending: %s", worker.error)

    def _hear(self, timeout_s: float) -> None:
        telling = {worker.process.status: worker for worker in self._running if not worker.silent}
        for status in select.select(telling, [], [], timeout_s)[0]:
            telling[status].hear()

    def _start(self, worker: Worker) -> None:
        worker.start()
        self._running.add(worker)

    def _reap(self, worker: Worker) -> None:
        self._running.remove(worker)
        worker.reap()

    def _plan_restart(self, worker: Worker) -> None:
        error = worker.error
        assert error is not None
        if worker.left == 0:
            worker.done = True  # what was salvaged is all that was missing
            return
        if not worker.accident and not worker.proven:
            raise error
        if worker.failures >= FAILURES:
            message = f"given up after {FAILURES} failures in a row, the last: {error.message}"
            raise type(error)(message, url=error.url, member=error.member, key=error.key) from error
        pause = min(LONGEST_PAUSE_S, self._pause_s * 2 ** (worker.failures - 1))
        worker.due = clock.monotonic() + pause
        told, worker.warned, before = str(error), str(error), worker.warned
        told = told.splitlines()[-1] if told == before else told  # one traceback is enough
        log.warning("%s\nstarting it anew in %g s (failure %d of %d)", told, pause, worker.failures, FAILURES)


def supervise(
    job: Job, parallel: int = 1, *, gpus: Sequence[str] = (), show: Callable[[Totals], None]
) -> tuple[Totals, bool]:
    """Run generators until they are done, or a signal asks to end; tell the totals, and whether one came.

    show: hears the totals at every news, once a second at least. A second signal kills instead of waiting.
    """
    with StopFlag() as stop:
        generators = Generators(job, parallel, gpus=gpus, hurry=lambda: stop.count > 1)
        try:
            with generators:
                while not generators.done and stop.asked is None:
                    generators.step(1.0)
                    show(generators.totals())
        except WlshardError:
            made = generators.totals()
            if made.sealed:
                told = f"{counted(made.sealed, 'sample')} in {counted(made.shards, 'shard')}"
                log.warning("what was whole is sealed: %s", told)
            raise
        return generators.totals(), stop.asked is not None
