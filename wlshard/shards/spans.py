"""Parts of a shard as sources of their own: bytes fetched before, or the next ones of another source."""

from __future__ import annotations

import mmap
from typing import Self

from wlshard.store.base import Reader
from wlshard.tar.blocks import Blocks


class Fetched(Blocks):
    """A block filled before: as a reader, and as the ring that gives it to be read into. No copy."""

    def __init__(self, data: memoryview) -> None:
        super().__init__()
        self.bytes: int | None = None
        assert isinstance(data.obj, mmap.mmap)
        self._data, self._block = data, data.obj
        self._given = False

    def take(self, need: int) -> mmap.mmap:
        if self._given or need > len(self._block):  # behind damage
            return super().take(need)
        self._given = True
        return self._block

    def readinto(self, target: bytearray | memoryview, /) -> int:
        part = self._data[: len(target)]
        if memoryview(target).obj is not self._block:
            target[: len(part)] = part
        self._data = self._data[len(part) :]
        return len(part)

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Span:
    """The next bytes of a source, as a source of their own."""

    def __init__(self, source: Reader, left: int) -> None:
        self.bytes: int | None = None
        self._source, self._left = source, left

    def readinto(self, target: bytearray | memoryview, /) -> int:
        view = memoryview(target)[: self._left]
        count = self._source.readinto(view) if len(view) else 0
        self._left -= count
        return count
