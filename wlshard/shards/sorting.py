"""Samples in another order, with bounded memory: an external merge sort (Knuth, TAOCP 3, 5.4).

What fits in memory is sorted there; more of it waits as sorted runs in files without a name, which a killed
process does not leave behind.
"""

from __future__ import annotations

import marshal
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from heapq import merge
from struct import Struct
from tempfile import TemporaryFile, gettempdir
from typing import Any, NamedTuple, Protocol

from wlshard.errors import UsageError
from wlshard.sample import KEY, URL, Sample
from wlshard.store.base import Buffer
from wlshard.store.files import errors_of, write_all
from wlshard.tar.blocks import blocks_of_this_thread, pages

_SIZES = Struct("<QQ")  # of a record's head, and of its body: the payloads, end to end
_ENTRY_BYTES = 320  # of Python's own for a sample in memory
_WINDOW_BYTES = 1 << 18  # of a run, at least: less is no sequential reading any more
_BATCH_BYTES = 1 << 20


class _Source(Protocol):
    """Where records lie."""

    def take(self, at: int, size: int) -> memoryview: ...


class _Record(NamedTuple):
    """A sample: its rank and number, which nobody shares, what else is known, and where its body lies."""

    rank: Any
    number: int
    about: tuple[str, str, list[tuple[str, int]]]  # key, url, fields with their sizes
    source: _Source
    at: int
    size: int

    def sample(self) -> Sample:
        key, url, fields = self.about
        body, at = self.source.take(self.at, self.size).toreadonly(), 0
        sample: Sample = {KEY: key, URL: url}
        for name, size in fields:
            sample[name] = body[at : at + size]
            at += size
        return sample


def sorted_samples(
    ranked: Iterable[tuple[Any, Sample]], *, memory_bytes: int, scratch: str | None = None
) -> Iterator[Sample]:
    """Yield samples by their ranks, which compare with each other and which marshal can hold; equals as they
    came. Fields are views that are good until the next sample is asked for.

    Nothing is yielded before all are taken. If `memory_bytes` do not hold them, each is written to a file in
    the folder `scratch` (None: the system's) and read back, once for up to memory_bytes / 1 MiB times
    memory_bytes of them. StoreUnavailable: it is full. UsageError: a sample larger than half the memory.
    """
    with ExitStack() as stack:
        sorter = _Sorter(memory_bytes, scratch or gettempdir(), stack)
        for number, (rank, sample) in enumerate(ranked):
            sorter.add(rank, number, sample)
        for record in sorter.merged():
            yield record.sample()


class _Memory:
    """The run being gathered. Two thirds of the memory: the windows of the others take the rest."""

    def __init__(self, memory_bytes: int) -> None:
        self.room = memory_bytes * 2 // 3
        self._data = memoryview(pages(max(1, self.room)))
        self._places: list[tuple[Any, int, int, int]] = []
        self._end = 0

    def add(self, rank: Any, number: int, parts: list[Buffer]) -> bool:
        """Copy a record; False: it does not fit."""
        begin, size = self._end, sum(map(len, parts))
        overhead = (len(self._places) + 1) * _ENTRY_BYTES + len(parts[1])
        if begin + size + overhead > self.room:
            return False
        for part in parts:
            self._data[self._end : self._end + len(part)] = part
            self._end += len(part)
        self._places.append((rank, number, begin, self._end))
        return True

    def take(self, at: int, size: int) -> memoryview:
        return self._data[at : at + size]

    def sort(self) -> None:
        self._places.sort()

    def records(self) -> Iterator[_Record]:
        for _, _, begin, end in self._places:
            yield from _records(self, begin, end)

    def spill(self, level: _Level) -> None:
        """Write a run, and be empty."""
        self._places.sort()
        level.append(self._data[begin:end] for _, _, begin, end in self._places)
        self._places, self._end = [], 0


class _Level:
    """Runs of about the same length, in a file without a name."""

    def __init__(self, scratch: str, stack: ExitStack) -> None:
        self.runs: list[tuple[int, int]] = []
        self._scratch = scratch
        with errors_of(scratch):
            file = TemporaryFile(buffering=0, dir=scratch)  # noqa: SIM115 — the stack closes it
            self._fd = stack.enter_context(file).fileno()

    def append(self, parts: Iterable[Buffer]) -> None:
        begin = end = self.runs[-1][1] if self.runs else 0
        batch, size = list[Buffer](), 0
        with errors_of(self._scratch):
            for part in parts:
                batch.append(part)
                size += len(part)
                if size >= _BATCH_BYTES:
                    end, batch, size = write_all(self._fd, batch, end), [], 0
            end = write_all(self._fd, batch, end)
        self.runs.append((begin, end))

    def readers(self, window_bytes: int) -> list[Iterator[_Record]]:
        return [
            _records(_Window(self._fd, self._scratch, end, window_bytes), begin, end)
            for begin, end in self.runs
        ]

    def clear(self) -> None:
        self.runs.clear()
        with errors_of(self._scratch):
            os.ftruncate(self._fd, 0)


class _Window:
    """A part of a run in memory, which moves to where it is needed."""

    def __init__(self, fd: int, url: str, end: int, window_bytes: int) -> None:
        self._fd, self._url, self._end = fd, url, end
        self._data = memoryview(pages(window_bytes))
        self._base = self._filled = 0

    def take(self, at: int, size: int) -> memoryview:
        if at < self._base or at + size > self._base + self._filled:
            if size > len(self._data):
                return self._read(memoryview(blocks_of_this_thread().take(size))[:size], at)
            had = max(0, self._base + self._filled - at) if at >= self._base else 0
            self._data[:had] = self._data[self._filled - had : self._filled]
            self._base, self._filled = at, min(len(self._data), self._end - at)
            self._read(self._data[had : self._filled], at + had)
        return self._data[at - self._base : at - self._base + size]

    def _read(self, target: memoryview, at: int) -> memoryview:
        filled = 0
        with errors_of(self._url):
            while filled < len(target):
                count = os.preadv(self._fd, [target[filled:]], at + filled)
                assert count, "a file that we alone know has been cut"
                filled += count
        return target


def _records(source: _Source, at: int, end: int) -> Iterator[_Record]:
    while at < end:
        head, size = _SIZES.unpack(source.take(at, _SIZES.size))
        at += _SIZES.size
        rank, number, *about = marshal.loads(source.take(at, head))  # noqa: S302 — our own memory and file
        at += head + size
        yield _Record(rank, number, tuple(about), source, at - size, size)


def _packed(rank: Any, number: int, about: tuple[Any, ...], body: list[Buffer]) -> list[Buffer]:
    head = marshal.dumps((rank, number, *about))
    return [_SIZES.pack(len(head), sum(map(len, body))), head, *body]


class _Sorter:
    """Takes records, then merges them."""

    def __init__(self, memory_bytes: int, scratch: str, stack: ExitStack) -> None:
        self._memory = _Memory(memory_bytes)
        self._window_bytes = memory_bytes // 3
        self._fan_in = max(2, self._window_bytes // _WINDOW_BYTES)
        self._scratch, self._stack = scratch, stack
        self._levels: list[_Level] = []

    def add(self, rank: Any, number: int, sample: Sample) -> None:
        body = [value for name, value in sample.items() if not name.startswith("__")]
        fields = [(name, len(value)) for name, value in sample.items() if not name.startswith("__")]
        parts = _packed(rank, number, (sample[KEY], sample[URL], fields), body)
        if self._memory.add(rank, number, parts):
            return
        self._memory.spill(self._level(0))
        self._gather()
        if not self._memory.add(rank, number, parts):
            need = -(-3 * sum(map(len, parts)) // (2 << 20)) + 1
            advice = f"a sample too large to be sorted in so little memory: give it --memory {need}M"
            raise UsageError(advice, url=sample[URL], key=sample[KEY])

    def _level(self, number: int) -> _Level:
        if number == len(self._levels):
            self._levels.append(_Level(self._scratch, self._stack))
        return self._levels[number]

    def _gather(self) -> None:
        """Merge runs of which there are too many to be read at once."""
        for number, level in enumerate(self._levels):
            if len(level.runs) >= self._fan_in:
                records = merge(*level.readers(self._window_bytes // len(level.runs)))
                self._level(number + 1).append(_repacked(records))
                level.clear()

    def merged(self) -> Iterator[_Record]:
        self._memory.sort()
        count = sum(len(level.runs) for level in self._levels)
        window_bytes = max(_WINDOW_BYTES // 4, self._window_bytes // max(1, count))
        readers = [reader for level in self._levels for reader in level.readers(window_bytes)]
        return merge(*readers, self._memory.records())


def _repacked(records: Iterable[_Record]) -> Iterator[bytes]:
    for one in records:
        body: list[Buffer] = [one.source.take(one.at, one.size)]
        yield b"".join(_packed(one.rank, one.number, one.about, body))
