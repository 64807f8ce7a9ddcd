"""Samples that the user holds, as a shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from wlshard.errors import UsageError
from wlshard.sample import KEY, URL, Sample


class Rows:
    """Samples that the user holds, as a shard. A list is read at random, anything else streams."""

    def __init__(self, rows: Iterable[Sample]) -> None:
        if not isinstance(rows, Iterable):
            raise UsageError(f"a source is a pool, shards, a folder or an iterable of samples, not {rows!r}")
        self._rows = rows
        self._spent = False
        self.seekable = isinstance(rows, Sequence)
        self.samples = len(rows) if isinstance(rows, Sequence) else None

    def fetch(self, first: int, count: int) -> None:
        """Do nothing: they are here."""

    def read(self, first: int, count: int, fetched: memoryview | None = None) -> list[Sample]:  # noqa: ARG002
        assert isinstance(self._rows, Sequence)
        return [_named(row, first + i) for i, row in enumerate(self._rows[first : first + count])]

    def stream(self, first: int = 0, *, copy: bool = False) -> Iterator[Sample]:
        if self._spent:
            raise UsageError(
                "these samples come from an iterator that can be read once: give a list, or an object whose "
                "__iter__ starts again, to have another epoch"
            )
        rows = iter(self._rows)
        self._spent = rows is self._rows
        for number, row in enumerate(islice(rows, first, None), first):
            sample = _named(row, number)
            yield {n: bytes(v) if type(v) is memoryview else v for n, v in sample.items()} if copy else sample

    def close(self) -> None:
        """Do nothing: the rows are the user's."""


def _named(row: Sample, number: int) -> Sample:
    if not isinstance(row, dict):
        raise UsageError(f"an iterable source must give samples (dicts of fields), not {type(row).__name__}")
    return row if KEY in row and URL in row else {KEY: f"{number:09d}", URL: "", **row}
