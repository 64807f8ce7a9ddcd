"""Parts of a shard as sources of their own: bytes fetched before, or the next ones of another source."""

from __future__ import annotations

from typing import Self

from wlshard.store.base import Reader


class Fetched:
    """Bytes in memory, as a reader."""

    def __init__(self, data: memoryview) -> None:
        self.bytes: int | None = None
        self._data = data

    def readinto(self, target: bytearray | memoryview, /) -> int:
        part = self._data[: len(target)]
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
