"""All workers of a loader: started at the first epoch, told what to do at each, ended by `close`."""

from __future__ import annotations

import logging
import multiprocessing
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn

from wlshard import clock
from wlshard.errors import PerformanceWarning, UsageError
from wlshard.sample import KEY, URL
from wlshard.stream.data import Data
from wlshard.stream.epoch import Epoch, Plan
from wlshard.stream.fields import parse_fields
from wlshard.stream.recipe import Recipe, Step
from wlshard.workers import wire
from wlshard.workers.launch import launch
from wlshard.workers.main import SPENT, Begin, Ended, Made, Start
from wlshard.workers.worker import LAST_S, Worker

log = logging.getLogger(__name__)

TELL_S = 30.0  # who has waited this long for a worker says so, then at twice, four times, … that
LOOK_S = 0.25  # who waits looks so often whether a signal has stopped the worker
ASLEEP_S = 5.0  # who wakes so much later than asked for was stopped: by ^Z, a debugger, a scheduler
LEAST_TIMEOUT_S = 10.0  # a first batch may take so long without anything being wrong
WORKER_BYTES = 2**23  # what a forked worker has of its own beside its data


class Crew:
    """The workers of one loader; one epoch at a time. After an error they are gone, and started anew."""

    def __init__(self, recipe: Recipe, workers: int, start_method: str, timeout_s: float) -> None:
        if sys.platform != "linux":
            raise UsageError("worker processes need Linux: use workers=0")
        self._recipe = recipe
        words = parse_fields(recipe.fields if recipe.transform is None else None) or []
        self._words = {number: ";".join(names) for number, names in enumerate(words)}
        self._count = workers
        self._start_method = start_method
        self._timeout_s = max(timeout_s, LEAST_TIMEOUT_S)
        self._workers: list[Worker] = []
        self._process = 0  # that they are children of
        self._poll = select.poll()
        self._by_fd: dict[int, Worker] = {}
        self._slots_left = self._pickled = 0
        self._spent_before: tuple[float, ...] = (0.0,) * len(SPENT)  # by workers that are gone
        self.turn = 0

    def begin(self, data: Data, plan: Plan) -> Shift:
        """Let the workers begin an epoch, or the rest of one; starts them if they are not there."""
        if data.counts is None and self._count > 1:
            log.warning(
                "these samples can only be streamed: one of the %d workers makes all batches", self._count
            )
        if self._process != os.getpid():
            self._leave_to_parent()
        plan = replace(plan, workers=self._count if data.counts is not None else 1)
        self.turn += 1
        try:
            self._start(data, plan.workers)
            for worker in self._workers[: plan.workers]:
                known, worker.data = worker.data is data, data
                worker.tell(Begin(self.turn, plan, None if known else data))
        except BaseException:
            self.close()
            raise
        return Shift(self, data, plan)

    def take(self, number: int) -> tuple[Step | Ended, float]:
        """Give the next word of a worker, and how long it was waited for. WorkerDied."""
        if self._process != os.getpid():
            raise UsageError(
                "this process was forked while an iterator of the loader was in use: begin a new one"
            )
        if not self._workers:
            raise UsageError("this loader was closed while an iterator of it was in use")
        worker = self._workers[number]
        try:
            for one in self._workers:
                self._slots_left += one.leave_slots()
            waited_s = 0.0 if worker.inbox else self._wait(worker)
            found = worker.give()
        except BaseException:  # ^C too: a word may have been lost half-way
            self.close()
            raise
        if isinstance(found, Step) and self._recipe.batched:
            self._count_lists(found.value)
        return found, waited_s

    def stop(self, turn: int) -> None:
        """End a turn, if it is under way; what still comes of it is dropped.

        Not where the program ends with it: its workers have ended by then, and no word can be pickled.
        """
        if turn == self.turn and self._process == os.getpid() and not sys.is_finalizing():
            self.turn += 1
            for worker in self._workers:
                worker.forget_turn()
                worker.tell(None)

    def close(self) -> None:
        """End all workers; what they have not ended of within a second is killed. May be called twice."""
        if self._process != os.getpid():
            self._leave_to_parent()
        workers, self._workers = self._workers, []
        self._by_fd, self._poll = {}, select.poll()
        with _uninterrupted():
            for worker in workers:
                both = zip(self._spent_before, worker.spent, strict=True)
                self._spent_before = tuple(map(sum, both))
                worker.hang_up()
            until = clock.monotonic() + LAST_S
            for worker in workers:
                worker.end_by(until - clock.monotonic())

    def stats(self) -> dict[str, Any]:
        """Give what is special about workers; `*_s` are sums over all of them."""
        spent = zip(self._spent_before, *(worker.spent for worker in self._workers), strict=True)
        return {
            "ready": sum(
                len(word.steps) for w in self._workers for word in w.inbox if isinstance(word, Made)
            ),
            "slots_left": self._slots_left,
            "pickled": self._pickled,
            "workers": dict(zip(SPENT, map(sum, spent), strict=True)),
        }

    def damage(self) -> int:
        """Count the faults gone past in streams, which each worker meets by itself."""
        return max((worker.damage for worker in self._workers), default=0)

    @property
    def sends_arrays(self) -> bool:
        """Whether all that was given so far are batches of arrays."""
        return self._recipe.batched and not self._pickled

    def slot_bytes(self) -> int:
        """Give the bytes of the slots that a worker shares with this process, at most."""
        return max((worker.slot_bytes() for worker in self._workers), default=0)

    def _start(self, data: Data, count: int) -> None:
        if multiprocessing.current_process().daemon and len(self._workers) < count:
            raise UsageError("a worker of another loader may not start workers: use workers=0 there")
        self._process = os.getpid()
        # Asked for by a thread, a death signal would come at that thread's end.
        here = threading.current_thread() is threading.main_thread()
        method = self._start_method
        follows, forked = here and method != "forkserver", method == "fork"
        with _uninterrupted(), warnings.catch_warnings():
            # Python warns of fork beside threads; whoever fears that has start_method=.
            warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
            for number in range(len(self._workers), count):
                worker = launch(Start(number, os.getpid(), follows, forked, self._recipe, data), method)
                self._workers.append(worker)
                for fd in (worker.end.fileno(), worker.pidfd):
                    self._by_fd[fd] = worker
                    self._poll.register(fd, select.POLLIN)

    def _count_lists(self, batch: Any) -> None:
        """Count a batch with columns that are no arrays; warn of the first, unless lists were asked for."""
        columns = batch.items() if type(batch) is dict else enumerate(batch) if type(batch) is tuple else ()
        lists = {self._words.get(name, name): column for name, column in columns if type(column) is list}
        lists = {name: column for name, column in lists.items() if name not in (KEY, URL)}
        recipe = self._recipe
        asked = recipe.collate_fn is not None or recipe.decode is False
        first, self._pickled = not self._pickled, self._pickled + bool(lists)
        if lists and first and not asked:
            named = ", ".join(f"{name} ({_kind(column)})" for name, column in lists.items())
            warnings.warn(
                f"field {named}: a list, not an array; it is pickled between processes, which is slower. Pad "
                "or encode it in transform=, leave it out by fields=, or make the list by collate_fn=",
                PerformanceWarning,
                stacklevel=_callers(),
            )

    def _wait(self, worker: Worker) -> float:
        began, waited, tell, stopped = clock.monotonic(), 0.0, TELL_S, 0
        while True:
            look = waited + LOOK_S
            while not worker.inbox and waited < min(tell, self._timeout_s, look):
                for fd, _ in self._poll.poll(1000 * (min(tell, self._timeout_s, look) - waited) + 1):
                    self._hear(self._by_fd[fd], ended=fd == self._by_fd[fd].pidfd)
                waited = clock.monotonic() - began
            if worker.inbox:
                return waited
            if waited > look + ASLEEP_S:  # this process was stopped, and its workers may have been too
                began, waited = began + waited - look, look
            stopped = stopped + 1 if worker.is_stopped() else 0
            if waited >= self._timeout_s or stopped == 2:
                raise worker.hangs(waited)
            if waited >= tell:
                log.warning(
                    "waiting for worker %d (process %d) for %.0f s", worker.number, worker.pid, waited
                )
                tell *= 2

    def _hear(self, worker: Worker, *, ended: bool) -> None:
        try:
            worker.hear(self.turn)
        except wire.Gone:
            ended = True
        if ended:
            raise worker.died()

    def _leave_to_parent(self) -> None:
        """Forget workers that are another process's, which was forked to make this one."""
        for worker in self._workers:
            worker.forget()
        self._workers, self._by_fd, self._poll = [], {}, select.poll()
        self._process = os.getpid()


class Shift:
    """An epoch that a crew makes: a `stream.course.Run`. Steps are taken from the worker whose they are."""

    def __init__(self, crew: Crew, data: Data, plan: Plan) -> None:
        self.data = data
        self.plan = plan
        self.waited_s = 0.0
        self._crew = crew
        self._turn = crew.turn
        self._given = 0
        self._epoch = Epoch(data, plan, _never)  # for its arithmetic

    def step(self) -> Step | None:
        """Give the next step; None behind the last. WorkerDied, or what a worker raised."""
        share = self._epoch.share
        if share is not None and self._given == share.steps:
            return None
        found, waited_s = self._crew.take(self._epoch.worker_of(self._given) if share else 0)
        self.waited_s += waited_s
        if isinstance(found, Ended):
            if found.error is not None:
                raise found.error
            return None
        self._given += 1
        return found

    def announced_bytes(self) -> int | None:
        """Give the bytes that all workers hold at most, slots included; None where sizes are not known."""
        arrays = self._crew.sends_arrays  # which lie in slots: there is no other batch
        each = self._epoch.announced_bytes(0 if arrays else 1)
        alone, batches = self._epoch.announced_bytes(0), self._epoch.announced_bytes()
        if each is None or alone is None or batches is None:
            return None
        consumer = 0 if arrays else batches - alone
        return self.plan.workers * (each + WORKER_BYTES + self._crew.slot_bytes()) + consumer

    def close(self) -> None:
        self._crew.stop(self._turn)
        self.data.skipped.faults = max(self.data.skipped.faults, self._crew.damage())


def _kind(column: list[Any]) -> str:
    shape = getattr(column[0], "shape", None) if column else None
    return "empty" if not column else f"{type(column[0]).__name__}{f' {tuple(shape)}, …' if shape else ''}"


def _never(*_: object) -> NoReturn:
    raise AssertionError("workers make the steps")


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let ^C and SIGTERM wait for the end of the block; a process started in it begins deaf to them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _callers() -> int:
    """Count the frames between a warning and the code that is not ours, whose line it is to name."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("wlshard."):
        frame, level = frame.f_back, level + 1
    return level
