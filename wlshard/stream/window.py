"""Samples of an epoch, read in the order in which a rank needs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from typing import NamedTuple, TypeAlias

from wlshard.errors import GroupingError, NotFound, TarError
from wlshard.sample import Sample
from wlshard.shards.reader import in_turn
from wlshard.stream.data import AHEAD_BYTES, Data
from wlshard.stream.order import Line, Order, Shape, window_order
from wlshard.stream.share import Share, divide

# A sample, or the error that stands in its place; and its place in the line.
Placed: TypeAlias = tuple[int, Sample | TarError | GroupingError]
Read: TypeAlias = Callable[[int, int, int, int], list[Placed]]  # lane, strip, place in the line, samples


class Strips:
    """Pieces of strips from shards read at random; a strip that is this rank's alone is read ahead."""

    def __init__(self, data: Data, order: Order, line: Line, *, skip: bool, ahead: bool) -> None:
        self._data = data
        self._order = order
        self._line = line
        self._skip = skip
        read_bytes = data.piece_bytes(order.strips)
        self._sample_bytes = data.sample_bytes or read_bytes
        self.ahead = max(1, int(read_bytes / self._sample_bytes)) if ahead else 1
        self._kept: dict[tuple[int, int], list[Placed]] = {}
        self._coming: dict[tuple[int, int, int], Future[memoryview | None]] = {}  # by shard, first, count
        self._begun: dict[tuple[int, int], int] = {}  # up to which place of the line

    def read(self, lane: int, strip: int, place: int, count: int) -> list[Placed]:
        """Give `count` samples from `place` in the line on. Errors: TarError, GroupingError, NotFound."""
        kept = self._kept.pop((lane, strip), [])
        assert not kept or kept[0][0] == place, "a strip that is read ahead is read from front to back"
        if len(kept) < count:
            kept = kept + self._fetch(*self._wanted(lane, strip, place, count, len(kept)))
        if len(kept) > count:
            self._kept[lane, strip] = kept[count:]
        return kept[:count]

    @property
    def full(self) -> bool:
        """Whether as much is being fetched as may be."""
        return sum(count for *_, count in self._coming) * self._sample_bytes >= AHEAD_BYTES

    def begin(self, lane: int, pieces: Iterable[tuple[int, int]]) -> None:
        """Let what `read` will need of a lane's next window be fetched, all at once."""
        for strip, (place, count) in enumerate(pieces):
            kept = max(0, self._begun.get((lane, strip), 0) - place)
            if kept < count:
                start, further = self._wanted(lane, strip, place, count, kept)
                self._begun[lane, strip] = start + further
                for span in self._line.spans(start, further):
                    self._coming[span] = self._data.fetch(*span)

    def _wanted(self, lane: int, strip: int, place: int, count: int, kept: int) -> tuple[int, int]:
        """Give place and number of the samples to read besides the `kept` ones."""
        start = place + kept
        end = max(place + count, min(start + self.ahead, self._order.strip_end(lane, strip)))
        return start, end - start

    def _fetch(self, place: int, count: int) -> list[Placed]:
        found: list[Sample | TarError | GroupingError] = []
        for number, first, here in self._line.spans(place, count):
            try:
                found += self._read_span(number, first, here)
            except NotFound as error:
                raise self._data.gone(error) from error
        return list(enumerate(found, place))

    def _read_span(self, number: int, first: int, count: int) -> list[Sample | TarError | GroupingError]:
        shard = self._data.shard(number)
        coming = self._coming.pop((number, first, count), None)
        try:
            return list(
                shard.read(first, count) if coming is None else shard.read(first, count, coming.result())
            )
        except (TarError, GroupingError) as error:
            if not self._skip:
                raise
            if count == 1:
                return [error]
        return [found for i in range(first, first + count) for found in self._read_span(number, i, 1)]


class Sequential:
    """Pieces of shards that can only be streamed: one lane, one strip, read from front to back."""

    def __init__(self, data: Data, line: Line, *, skip: bool) -> None:
        self._data = data
        self._line = line
        self._skip = skip
        self._place = -1
        self._stream: Iterator[Placed] = iter(())

    def read(self, lane: int, strip: int, place: int, count: int) -> list[Placed]:  # noqa: ARG002
        """Give `count` samples from `place` in the line on; what lies between is read and dropped."""
        if self._place < 0:
            self._place, self._stream = place, _in_order(self._data, self._line, place, skip=self._skip)
        skipped = place - self._place
        self._place = place + count
        found = list(islice(self._stream, skipped, skipped + count))
        if self._place == self._line.samples:
            next(self._stream, None)  # to the end of the last shard, which must be whole too
        return found


# No methods: a generator of a method that its object holds would wait for the garbage collector.
def _in_order(data: Data, line: Line, place: int, *, skip: bool) -> Iterator[Placed]:
    spans = list(line.spans(place, line.samples - place))
    with in_turn([data.names[number] for number, *_ in spans]):
        for number, first, here in spans:
            found = 0
            try:
                for found, row in enumerate(data.shard(number).stream(first), 1):
                    if found > here:
                        break
                    yield place + found - 1, row
            except NotFound as error:
                raise data.gone(error) from error
            if found != here:
                yield from _changed(data.names[number], place + found, here - found, skip=skip)
            place += here


def _changed(url: str, place: int, missing: int, *, skip: bool) -> Iterator[Placed]:
    what = f"ends {missing} samples early" if missing > 0 else "goes on"
    error = TarError(f"the shard {what}: it changed since it was counted", url=url)
    if not skip:
        raise error
    for i in range(missing):
        yield place + i, error


class Window(NamedTuple):
    """The samples of a window that a rank needs, by global batch."""

    batches: dict[int, list[Placed]]

    def samples(self) -> int:
        return sum(map(len, self.batches.values()))


def windows(order: Order, share: Share, read: Read, ahead: Strips | None = None) -> Iterator[Window]:
    """Read windows in the order in which the steps made here first need them.

    ahead: begins them before their turn, as many as it takes.
    """
    begun: deque[tuple[int, int]] = deque()
    for window in _needed(order, share):
        while begun and (ahead is None or ahead.full):
            yield read_window(order, share, read, *begun.popleft())
        if ahead is not None:
            ahead.begin(window[0], order.pieces(*window))
        begun.append(window)
    for window in begun:
        yield read_window(order, share, read, *window)


def _needed(order: Order, share: Share) -> Iterator[tuple[int, int]]:
    newest: dict[int, int] = {}
    for batch in share.batches():
        lane, number, _ = order.locate(batch)
        if newest.get(lane, -1) < number:
            newest[lane] = number
            yield lane, number


def read_window(order: Order, share: Share, read: Read, lane: int, number: int) -> Window:
    """Read a window whole, permute it, keep what the share needs of each of its batches."""
    found: list[Placed] = []
    for strip, (place, count) in enumerate(order.pieces(lane, number)):
        found += read(lane, strip, place, count)
    permuted = order.permutation(lane, number)
    batches = {}
    for first in range(0, len(permuted), order.batch):
        part = share.part(order.batch_at(lane, number, first))
        if part is not None:
            begin = first + part.first
            batches[part.batch] = [found[at] for at in permuted[begin : begin + part.samples]]
    return Window(batches)


def steps_of(share: Share, parts: Iterator[Window]) -> Iterator[tuple[list[Placed], int]]:
    """Put together the samples of each step made here, and how many of them are padding."""
    held: dict[int, list[Placed]] = {}
    for step in share.steps_here():
        if step < share.whole:
            batch = share.first_batch(step)
            while batch not in held:
                held.update(next(parts).batches)
            yield held.pop(batch), 0
            continue
        found: list[Placed] = []
        for part in share.step(step):
            while part.batch not in held:
                held.update(next(parts).batches)
            found += held.pop(part.batch)
        yield found, share.padded


def shuffled(rows: Iterator[Placed], shape: Shape, seed: int, epoch: int) -> Iterator[Placed]:
    """Permute a stream of unknown length window by window, as the one lane of an order would be."""
    if not shape.lanes:
        yield from rows
        return
    number = 0
    while found := list(islice(rows, shape.window)):
        permuted = window_order(len(found), shape, seed, epoch, 0, number)
        yield from (found[at] for at in permuted)
        number += 1


def dealt(
    rows: Iterator[Placed], batch: int, rank: int, world: int, drop_last: bool
) -> Iterator[tuple[list[Placed], int]]:
    """Deal a stream of unknown length: each step's samples of this rank, and how many of them are padding."""
    while len(found := list(islice(rows, batch * world))) == batch * world:
        yield found[rank * batch : (rank + 1) * batch], 0
    if found and not drop_last:
        low, high = divide(len(found), rank, world)
        yield found[low:high], int((rank + 1) * len(found) // world == low)
