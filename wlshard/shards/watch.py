"""What opening and reading shards costs in this process, told to who asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from wlshard import clock
from wlshard.store.base import Reader

T = TypeVar("T")


@dataclass
class Cost:
    """Of reading: seconds in all of the threads that read ahead, and until the store gave its bytes; how many
    bytes, in how many requests."""

    read_s: float = 0.0
    store_s: float = 0.0
    bytes: int = 0
    requests: int = 0

    def timed(self, request: Callable[[], T]) -> T:
        began = clock.monotonic()
        try:
            return request()
        finally:
            self.requests += 1
            self.store_s += clock.monotonic() - began


class WatchedReader:
    """A store's reader whose reads are counted; all else is the reader's own."""

    def __init__(self, reader: Reader, cost: Cost) -> None:
        self._reader = reader
        self._cost = cost

    @property
    def bytes(self) -> int | None:
        return self._reader.bytes

    def readinto(self, target: bytearray | memoryview, /) -> int:
        count = self._cost.timed(lambda: self._reader.readinto(target))
        self._cost.bytes += count
        return count

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)  # fileno, of local files


_cost: Cost | None = None


@contextmanager
def watching() -> Iterator[Cost]:
    """Count what the threads of this process read of shards inside the block. One block at a time."""
    global _cost
    _cost = Cost()
    try:
        yield _cost
    finally:
        _cost = None


def watched(open_reader: Callable[[], Reader]) -> Reader:
    """Open a shard's reader; inside of `watching`, one that is counted."""
    cost = _cost
    return open_reader() if cost is None else WatchedReader(cost.timed(open_reader), cost)


def took(seconds: float) -> None:
    """Tell of the time in which shards were read."""
    if _cost is not None:
        _cost.read_s += seconds


def counted(request: Callable[[], T], size: int) -> T:
    """Get so many bytes of a shard."""
    if _cost is None:
        return request()
    found = _cost.timed(request)
    _cost.bytes += size
    return found
