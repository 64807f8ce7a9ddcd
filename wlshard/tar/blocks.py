"""Read buffers that start on a page and are used again once nobody looks at them any more.

A fill hands out views of one memoryview made for that fill, so a buffer is idle exactly when nothing but
this ring refers to it. Page-aligned, private, reused: reading into fresh pages costs ten times a reused
one, and into a buffer that starts 8 to 24 bytes past a page four times one that starts on it.
"""

from __future__ import annotations

import mmap
import sys

BLOCK_BYTES = 1 << 20
PAGE_BYTES = 4096


def _references(ring: list[mmap.mmap], place: int) -> int:
    return sys.getrefcount(ring[place])


class Blocks:
    """A ring of read buffers.

    Private memory: a forked child that goes on reading changes nothing under its parent's views. Buffers
    whose views live on are forgotten here and freed with their last view.
    """

    def __init__(self, most: int = 6) -> None:
        self._most = most
        self._ring: list[mmap.mmap] = []
        # What the count says of a buffer that only its list holds differs between Python versions.
        self._idle = _references([mmap.mmap(-1, 1)], 0)

    def take(self, need: int) -> mmap.mmap:
        """Give an idle buffer of at least `need` bytes, else a new one; it holds anything."""
        ring = self._ring
        for place in range(len(ring)):
            if need <= len(ring[place]) <= 2 * need and not self._busy(place):
                ring.append(ring.pop(place))
                return ring[-1]
        if need > BLOCK_BYTES:  # idle large buffers of another size are not hoarded
            keep = [p for p in range(len(ring)) if len(ring[p]) <= BLOCK_BYTES or self._busy(p)]
            self._ring = ring = [ring[p] for p in keep]
        del ring[: len(ring) + 1 - self._most]
        # Sizes in steps of an eighth find each other; pages that are never written cost nothing.
        step = max(PAGE_BYTES, 1 << max(0, (need - 1).bit_length() - 4))
        size = -(-need // step) * step
        ring.append(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        return ring[-1]

    def _busy(self, place: int) -> bool:
        return _references(self._ring, place) > self._idle
