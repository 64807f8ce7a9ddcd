"""The worker's side of the ring: batches are laid into slots, which the parent maps too."""

from __future__ import annotations

import os
import pickle
import weakref
from collections import deque
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from wlshard.stream.recipe import Step
from wlshard.workers.memory import Bytes, Memory, shared_file
from wlshard.workers.packing import dumps, joined, lay_out, layout_of

FILL_BYTES = 1 << 23  # steps share a slot up to here: a message costs as much as copying a MiB or two
SLOTS = 2  # of a worker, at least: one is filled while another is at the consumer's
ALIGN_BYTES = 64
HEAD_BYTES = 1 << 13  # what of a batch is no array travels with the message up to here, else in the slot
_NONE = np.empty(0, np.uint8)


class Packed(NamedTuple):
    """A step as it travels: pickled but for its arrays, which lie in the slot at (offset, bytes).

    `head` None: it is the last of those itself. `plain`: it is the layout of a tuple of arrays, no more.
    """

    head: bytes | None
    plain: bool
    places: list[tuple[int, int]]
    samples: int
    padded: int
    skipped: int


def most_slots(sizes: list[int]) -> int:
    """Tell how many slots may be at the parent's where there are such: with a third a worker sleeps less."""
    return SLOTS + all(size <= FILL_BYTES for size in sizes)


class Slot:
    """Shared memory that holds one message's steps. Numbers are never used again."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size
        self.fd = shared_file(size) if size else -1  # until it has been sent
        self.known = False  # to the parent
        self.memory = Memory(self.fd, size) if size else None
        if self.memory is not None:
            self.memory.fill()
        self.looked_at: weakref.ref[Bytes] | None = None

    def whole(self) -> Bytes:
        """Give its bytes, and remember who looks at them."""
        if self.memory is None:
            return _NONE
        whole = self.memory.whole()
        self.looked_at = weakref.ref(whole)
        return whole

    def close(self) -> None:
        """Close the descriptor; the mapping does without."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def is_idle(self) -> bool:
        """Tell whether nothing in this process, such as a transform, has kept an array in it."""
        return self.looked_at is None or self.looked_at() is None


class Slots:
    """All slots of a worker: made as they are needed, as large as the largest batch so far."""

    def __init__(self) -> None:
        self._idle: deque[Slot] = deque()
        self._away: dict[int, Slot] = {}  # at the parent's
        self._made = 0
        self._size = 0
        self.dropped: list[int] = []  # the parent is still to be told

    def take(self) -> Slot | None:
        """Give a slot to fill, None if all are at the parent's."""
        while self._idle:
            slot = self._idle.pop()
            if slot.size >= self._size and slot.is_idle():
                return slot
            self.drop(slot)
        away = [slot.size for slot in self._away.values()]
        return None if len(away) >= most_slots(away) else self.new(self._size)

    def new(self, size: int) -> Slot:
        """Make a slot of at least this size; later ones will be as large."""
        step = max(FILL_BYTES, 1 << max(0, size.bit_length() - 4))
        self._size = max(self._size, -(-size // step) * step)
        self._made += 1
        return Slot(self._made, self._size)

    def keep(self, slot: Slot) -> None:
        """Take back a slot that was not used after all."""
        self._idle.append(slot)

    def drop(self, slot: Slot) -> None:
        """Give up a slot that is here."""
        if slot.known:
            self.dropped.append(slot.number)
        slot.close()

    def sent(self, slot: Slot) -> None:
        """Take note that the parent has a slot now."""
        slot.close()
        slot.known = True
        self.dropped = []
        self._away[slot.number] = slot

    def back(self, number: int, *, left: bool = False) -> None:
        """Take a slot back; one that is `left` to the consumer is forgotten."""
        slot = self._away.pop(number, None)
        if slot is not None and not left:
            self._idle.append(slot)


class Filling:
    """Steps on their way into a slot; one that does not fit moves all to a larger one."""

    def __init__(self, slots: Slots, slot: Slot) -> None:
        self._slots = slots
        self.slot = slot
        self._whole = slot.whole()
        self.used = 0
        self.packed: list[Packed] = []
        self._laid: dict[int, tuple[Any, int]] = {}  # by id: an array that lies in the slot, and where

    @property
    def full(self) -> bool:
        """Whether another step like those that lie here would be too many."""
        steps = len(self.packed)
        return self.used * (steps + 1) > FILL_BYTES * steps > 0

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Give memory for an array, in the slot if it has room."""
        dtype = np.dtype(dtype)
        size = prod(shape) * dtype.itemsize
        if not size or dtype.hasobject or self.used + size > self.slot.size:
            return np.empty(shape, dtype)
        at = self._room(size)
        array: Any = np.ndarray(shape, dtype, self._whole, at)
        self._laid[id(array)] = array, at
        return array

    def add(self, step: Step) -> None:
        """Lay in what does not lie there already."""
        layout = layout_of(step.value)
        parts: Sequence[Any]
        if layout is not None:
            head, parts = [lay_out(layout)], step.value
        else:
            buffers: list[pickle.PickleBuffer] = []
            head = dumps(joined(step.value), buffers)
            parts = [np.frombuffer(raw, np.uint8) if (raw := one.raw()).nbytes else _NONE for one in buffers]
        size = sum(map(len, head))
        inline = b"".join(head) if size <= HEAD_BYTES else None
        places = [self._place(part) for part in parts]
        missing = sum([_aligned(part.nbytes) for part, at in zip(parts, places, strict=True) if at < 0])
        missing += _aligned(size) if inline is None else 0
        if self.used + missing > self.slot.size:
            self._grow(self.used + missing)
        for number, part in enumerate(parts):
            if places[number] < 0:
                places[number] = at = self._room(part.nbytes)
                self._whole[at : at + part.nbytes] = part.reshape(-1).view(np.uint8)
        found = [(at, part.nbytes) for at, part in zip(places, parts, strict=True)]
        if inline is None:
            found.append((self._room(size), size))
            self._lay(head, found[-1][0])
        self.packed.append(Packed(inline, layout is not None, found, step.samples, step.padded, step.skipped))

    def done(self) -> Slot:
        """Let go of the slot's memory."""
        self._whole = _NONE
        self._laid.clear()
        return self.slot

    def _place(self, part: Any) -> int:
        """Tell where in the slot an array lies; -1 if it does not."""
        if id(part) in self._laid:
            return self._laid[id(part)][1]
        if not part.nbytes:
            return 0
        at = _address(part) - _address(self._whole) if self._whole.size else -1
        return at if 0 <= at < self._whole.size else -1

    def _room(self, size: int) -> int:
        at, self.used = self.used, self.used + _aligned(size)
        return at

    def _lay(self, pieces: list[bytes], at: int) -> None:
        memory = self._whole.data
        for piece in pieces:
            memory[at : at + len(piece)] = piece
            at += len(piece)

    def _grow(self, size: int) -> None:
        old, before = self._whole, self.slot
        self.slot = self._slots.new(size)
        self._whole = self.slot.whole()
        self._whole[: self.used] = old[: self.used]
        self._slots.drop(before)


def _aligned(size: int) -> int:
    return -(-size // ALIGN_BYTES) * ALIGN_BYTES


def _address(array: Any) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
