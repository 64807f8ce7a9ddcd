"""Parts of a shard as sources of their own: bytes fetched before, or the next ones of another source."""

from __future__ import annotations

import mmap
import weakref
from typing import Self

from wlshard.shards.watch import counted
from wlshard.store.base import Reader
from wlshard.tar.blocks import Blocks, is_reader

MAP_BYTES = 1 << 20  # less is copied sooner than mapped
MAP_SAMPLE_BYTES = 1 << 15  # smaller ones are mostly headers, which are found sooner in what was copied
_MAPS = 128  # alive at a time: each holds a descriptor
_MADV_POPULATE_READ = 22  # linux/mman.h, since 5.14

_maps: list[weakref.ref[mmap.mmap]] = []  # that may be alive


class Fetched(Blocks):
    """A block filled before: as a reader, and as the ring that gives it to be read into. No copy.

    `lead`: bytes at its beginning that nobody asked for.
    """

    def __init__(self, data: memoryview, lead: int = 0) -> None:
        super().__init__()
        self.lead = lead
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


def mapped(reader: Reader, begin: int, end: int, samples: int) -> Fetched | None:
    """Give so many samples of a local file as they lie in the page cache, not copied, read if they must be.

    None for what is short, for what is no such file or ends before, and but in a worker: who makes a file
    shorter while it is looked at kills the process, and a worker's death is an error that names the shard.
    """
    fileno = getattr(reader, "fileno", None)
    long = end - begin >= max(MAP_BYTES, samples * MAP_SAMPLE_BYTES)
    if fileno is None or not long or not is_reader():
        return None
    _maps[:] = [one for one in _maps if one() is not None]
    if len(_maps) >= _MAPS:
        return None
    lead = begin % mmap.ALLOCATIONGRANULARITY

    def area() -> mmap.mmap:
        start = begin - lead
        area = mmap.mmap(fileno(), end - start, access=mmap.ACCESS_COPY, offset=start)
        area.madvise(mmap.MADV_SEQUENTIAL)
        area.madvise(_MADV_POPULATE_READ)
        return area

    try:
        block = counted(area, end - begin)
    except (OSError, ValueError):  # for `readinto` to tell
        return None
    _maps.append(weakref.ref(block))
    return Fetched(memoryview(block), lead)
