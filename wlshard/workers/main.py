"""A worker: makes its steps of each epoch, from the parent's word to begin to its word to stop."""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np

from wlshard import clock
from wlshard.errors import UserCodeError
from wlshard.sample import KEY, URL, Sample
from wlshard.shards.watch import Cost, watching
from wlshard.stream.data import Data
from wlshard.stream.epoch import Epoch, Plan
from wlshard.stream.recipe import Maker, Recipe
from wlshard.tar.blocks import share_blocks
from wlshard.workers import wire
from wlshard.workers.memory import Memory, die_with_parent, die_with_process, keep_freed_memory, shared_file
from wlshard.workers.slots import Filling, Packed, Slot, Slots

T = TypeVar("T")

PAGE_BYTES = 4096  # what a worker is at; the parent looks there when it has died
FILL_S = 0.005  # steps share a slot for so long, if there is room
# Waiting for data, making steps, waiting for a slot; the cost of reading.
SPENT = ("read_s", "make_s", "idle_s", "reader_s", "store_s", "store_bytes", "store_requests")


@dataclass(frozen=True)
class Start:
    """What a worker is started with."""

    number: int
    parent: int  # process
    follows: bool  # the parent's main thread started it, so it is to die with that
    forked: bool  # as a copy of the parent as it stood
    recipe: Recipe
    data: Data


class Begin(NamedTuple):
    """The parent's word to begin a turn: an epoch, or the rest of one; None in its place: to stop.

    `data` None: as before.
    """

    turn: int
    plan: Plan
    data: Data | None


class Back(NamedTuple):
    """The parent's word that a slot is free again, or `left` to the consumer."""

    slot: int
    left: bool


class Made(NamedTuple):
    """A worker's word that steps lie in a slot; with its descriptor if the parent does not know it."""

    turn: int
    slot: int
    size: int
    steps: list[Packed]
    dropped: list[int]  # slots that are no more
    damage: int  # faults gone past in the data so far, which have no place in the order
    spent: tuple[float, ...]  # as SPENT names it


class Ended(NamedTuple):
    """A worker's word that it has no further step in this turn, or why it cannot go on."""

    turn: int
    error: Exception | None


def main(end: socket.socket, cord: socket.socket, sent: Start | bytes) -> None:
    """Be a worker until the parent closes its end of the wire, or is gone; `cord` saw to that until here."""
    start: Start = pickle.loads(sent) if isinstance(sent, bytes) else sent  # noqa: S301 — our parent's
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is the parent's
    try:
        try:
            _make_ready(end, start)
            cord.close()
            with watching() as cost:
                _Worker(end, start, cost).run()
        except wire.Gone:
            sys.stdout.flush()
            os._exit(0)  # without regard to a read under way
    except wire.Gone:  # told a second time, by a signal
        os._exit(0)


def _make_ready(end: socket.socket, start: Start) -> None:
    signal.signal(signal.SIGTERM, partial(_end, end))
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    if start.follows:
        die_with_parent(start.parent, signal.SIGKILL)
    else:
        die_with_process(start.parent)
    share_blocks()  # each epoch has a new thread that reads
    keep_freed_memory()
    gc.freeze()  # what the parent had is no garbage of ours


def _end(end: socket.socket, number: int, _frame: FrameType | None) -> None:
    """Leave what is under way, or waited for, if the parent has hung up; another's signal ends us as ever."""
    hung_up = select.poll()
    hung_up.register(end, 0)
    if hung_up.poll(0):
        # A finalizer under way would swallow and print it: the next look at the wire raises it again.
        sys.unraisablehook = _silence
        raise wire.Gone
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _silence(_: object) -> None:
    pass


class _Worker:
    def __init__(self, end: socket.socket, start: Start, cost: Cost) -> None:
        self._end = end
        self._number = start.number
        self._data = copy(start.data)  # the parent's has shards open
        self._slots = Slots()
        self._filling: Filling | None = None
        self._page = Memory(page := shared_file(PAGE_BYTES), PAGE_BYTES).whole().data
        self._maker = Maker(start.recipe, self._empty, self._watch)
        self._next: Begin | None = None  # what to begin once the turn under way has been left
        self._forked = {"cv2"} & set(sys.modules) if start.forked else set[str]()
        self._stopped = False
        self._spent_s = [0.0, 0.0, 0.0]
        self._cost = cost
        wire.send(end, os.getpid(), [page])
        os.close(page)

    def run(self) -> NoReturn:
        """Make one turn after the other. wire.Gone ends it."""
        while True:
            while self._next is None:
                self._hear()
            begin, self._next, self._stopped = self._next, None, False
            self._data = begin.data or self._data
            self._one_thread_each()
            epoch: list[Epoch] = []
            ended, error = attempt(partial(self._turn, begin, epoch))
            for one in epoch:
                one.close()
            if ended or error is not None:
                wire.send(self._end, Ended(begin.turn, error and portable(error, self._number)))

    def _turn(self, begin: Begin, opened: list[Epoch]) -> bool:
        """Make the steps of a turn; tell whether none is left, rather than a word to stop."""
        epoch = Epoch(self._data, replace(begin.plan, worker=self._number), self._maker)
        opened.append(epoch)
        most = 1  # the first steps are waited for, and each may be long in the making
        while (slot := self._slot()) is not None:
            self._filling = Filling(self._slots, slot)
            try:
                if not self._fill(epoch, self._filling, most):
                    return True
                most *= 2
            finally:
                self._send(begin.turn)
        return False

    def _slot(self) -> Slot | None:
        """Wait for a slot; None: this turn is over."""
        began = clock.monotonic()
        with suppress(BlockingIOError):
            while True:
                self._hear(wait=False)
        while not self._stopped:
            slot = self._slots.take()
            if slot is not None:
                self._spent_s[2] += clock.monotonic() - began
                return slot
            self._hear()
        return None

    def _fill(self, epoch: Epoch, filling: Filling, most: int) -> bool:
        """Make steps until there are enough for a message; tell whether there may be more."""
        began, waited = clock.monotonic(), epoch.waited_s
        try:
            while len(filling.packed) < most and not filling.full and clock.monotonic() - began < FILL_S:
                step = epoch.step()
                if step is None:
                    return False
                filling.add(step)
            return True
        finally:
            waited = epoch.waited_s - waited
            self._spent_s[0] += waited
            self._spent_s[1] += clock.monotonic() - began - waited

    def _send(self, turn: int) -> None:
        """Send what was filled, also ahead of an error."""
        assert self._filling is not None
        filling, self._filling = self._filling, None
        slot = filling.done()
        if not filling.packed:
            self._slots.keep(slot)
            return
        damage, spent = self._data.skipped.faults, (*self._spent_s, *vars(self._cost).values())
        made = Made(turn, slot.number, slot.size, filling.packed, self._slots.dropped, damage, spent)
        wire.send(self._end, made, [slot.fd] if slot.fd >= 0 else [])
        self._slots.sent(slot)

    def _hear(self, *, wait: bool = True) -> None:
        """Heed the parent's next word."""
        word, _ = wire.receive(self._end, wait=wait)
        if isinstance(word, Back):
            self._slots.back(word.slot, left=word.left)
        else:
            self._stopped = True
            self._next = word

    def _one_thread_each(self) -> None:
        """Keep image and tensor libraries from starting threads of their own in each worker."""
        # The threads of a cv2 that was forked are gone: it works without, but would wait for them to end.
        for library, setting in (("cv2", "setNumThreads"), ("torch", "set_num_threads")):
            if library in sys.modules and library not in self._forked:
                getattr(sys.modules[library], setting)(1)

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return np.empty(shape, dtype) if self._filling is None else self._filling.empty(shape, dtype)

    def _watch(self, row: Sample) -> None:
        """Leave word of what comes next, for when it is the last thing that this process does."""
        text = f"{row.get(URL)}\0{row.get(KEY)}\0".encode("utf-8", "surrogateescape")[:PAGE_BYTES]
        self._page[: len(text)] = text


def attempt(call: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """Give what a call returns, or the error that it raises: whatever the user's code and data may raise."""
    try:
        return call(), None
    except Exception as error:  # noqa: BLE001
        return None, error


def portable(error: Exception, number: int) -> Exception:
    """Give the error with its traceback, as one that another process can read."""
    text = "".join(traceback.format_exception(error))
    again, unfit = attempt(lambda: pickle.loads(pickle.dumps(error)))  # noqa: S301 — just made
    if unfit is not None or not isinstance(again, Exception):
        again = UserCodeError(f"{type(error).__name__}: {error}")
    again.add_note(f"in worker {number} (process {os.getpid()}):\n{text}")
    return again
