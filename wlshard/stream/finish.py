"""From the samples of a step, as read, to what a batch is made of."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from typing import Any

from wlshard.errors import (
    CodecError,
    GroupingError,
    NotFound,
    TarError,
    TooManyBadSamples,
    UsageError,
    UserCodeError,
)
from wlshard.sample import Sample
from wlshard.shards.reader import OnError
from wlshard.shards.tally import FAILURES_IN_A_ROW, Tally
from wlshard.stream.fields import Prepare, transformer
from wlshard.stream.window import Placed

# What is wrong with a sample, not with the program that reads it.
LEFT_OUT = object()  # stands for a sample that was not selected

BAD_SAMPLE = TarError, GroupingError, CodecError, NotFound, UserCodeError


class Finisher:
    """Select, decode, transform. `watch` is shown each sample before anything is done with it."""

    def __init__(
        self,
        prepare: Prepare,
        on_error: OnError,
        *,
        transform: Callable[..., Any] | None,
        seed: int,
        watch: Callable[[Sample], None] | None = None,
        select: Callable[[Sample], bool] | None = None,
        parts: Parts | None = None,
    ) -> None:
        self.skipped = Tally()
        self._select = select
        self._parts = parts
        self._last: Placed | None = None  # that was good
        self._prepare = prepare
        self._skip = skips(on_error)
        self._watch = watch
        count = 1 if parts is None else parts.count
        self._transform = None if transform is None else transformer(transform, seed, count)
        others = watch, select, parts, transform
        self._only_prepares = not self._skip and all(other is None for other in others)

    def __call__(self, placed: list[Placed], epoch: int) -> list[Any]:
        """Make each good sample. With on_error="skip" a bad one leaves the list shorter and is counted."""
        if self._only_prepares:
            rows = [row for _, row in placed if isinstance(row, dict)]
            if len(rows) == len(placed):
                return list(map(self._prepare, rows))
        found: list[Any] = []
        counted = 0  # of those found
        for place, row in placed:
            try:
                sample = self._make(place, row, epoch)
            except BAD_SAMPLE as error:
                if not self._skip:
                    raise
                self.skipped.samples += len(found) - counted
                counted = len(found)
                self.skipped.fault(error)
            else:
                if sample is LEFT_OUT:
                    continue
                found.append(sample)
                if self._skip:
                    self._last = place, row
        self.skipped.samples += len(found) - counted
        return found

    def stand_in(self, coming: Iterator[Placed], epoch: int) -> Any:
        """Make the first good one of these samples, else the last good one again: ranks step together."""
        known = [] if self._last is None else [self._last]
        for place, row in chain(islice(coming, FAILURES_IN_A_ROW), known):
            with suppress(*BAD_SAMPLE):  # told and counted in its own turn
                return self._make(place, row, epoch)
        raise TooManyBadSamples(
            f"epoch {epoch} has no good sample left for this rank, and the other ranks wait for one: repair "
            "the shards, or begin the next epoch on all ranks"
        )

    def _make(self, place: int, row: Sample | TarError | GroupingError, epoch: int) -> Any:
        if not isinstance(row, dict):
            raise row
        if self._watch is not None:
            self._watch(row)
        if self._select is not None and not self._select(row):
            return LEFT_OUT
        if self._parts is not None:
            return self._parts.take(epoch, place, partial(self._made, row, epoch))
        return self._made(row, epoch, place)

    def _made(self, row: Sample, epoch: int, place: int) -> Any:
        sample = self._prepare(row)
        return sample if self._transform is None else self._transform(sample, row, epoch, place)


class Parts:
    """What is made of each sample, `count` at a time, taken one by one in an order of their own.

    Those of `held` samples wait here to be taken; what is wanted after that is made again.
    """

    def __init__(self, count: int, held: int) -> None:
        self.count = count
        self._held = held
        self._made: OrderedDict[tuple[int, int], dict[int, Any]] = OrderedDict()

    def take(self, epoch: int, place: int, make: Callable[[int], list[Any]]) -> Any:
        """Give the part that stands at this place of the line; `make` makes all parts of a sample."""
        stored, part = divmod(place, self.count)
        left = self._made.pop((epoch, stored), {})
        if part not in left:
            left = dict(enumerate(make(stored)))
        taken = left.pop(part)
        if left:
            self._made[epoch, stored] = left
            if len(self._made) > self._held:
                self._made.popitem(last=False)
        return taken


class Prepared:
    """Samples of a stream, selected and decoded; `rows` begins it anew for each `iter()`.

    Called it does the same: so a stage of a webdataset pipeline begins. `prepare` None: as they are.
    """

    def __init__(
        self, rows: Callable[[], Iterator[Sample]], prepare: Prepare | None, on_error: OnError
    ) -> None:
        self._rows = rows
        self._prepare = prepare
        self._skip = skips(on_error)

    def __iter__(self) -> Iterator[Any]:
        return self._rows() if self._prepare is None else self._prepared(self._rows(), self._prepare)

    __call__ = __iter__

    def _prepared(self, rows: Iterator[Sample], prepare: Prepare) -> Iterator[Any]:
        skipped = Tally()
        for row in rows:
            try:
                sample = prepare(row)
            except BAD_SAMPLE as error:
                if not self._skip:
                    raise
                skipped.fault(error)
            else:
                skipped.samples += 1
                yield sample


def skips(on_error: str) -> bool:
    """Tell what on_error says: "raise" or "skip"."""
    if on_error not in ("raise", "skip"):
        raise UsageError(f'on_error={on_error!r}: say "raise" or "skip"')
    return on_error == "skip"
