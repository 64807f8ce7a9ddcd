"""Read buffers that start on a page and are used again once nobody looks at them any more.

A fill hands out views of one memoryview made for that fill, so a buffer is idle exactly when nothing but
its ring refers to it. Page-aligned, private, reused: reading into fresh pages costs five to ten times a
reused one, and into a buffer that starts 8 to 24 bytes past a page four times one that starts on it.
"""

from __future__ import annotations

import mmap
import sys
import threading
from collections import deque
from contextlib import suppress

BLOCK_BYTES = 1 << 20
PAGE_BYTES = 4096
HUGE_BYTES = 1 << 22  # two huge pages
LOOKS = 8  # for an idle buffer, at either end of a ring
IDLE_BYTES = 1 << 27  # kept for the next shard


def pages(size: int, *, huge: bool = True) -> mmap.mmap:
    """Give `size` bytes of zeros that start on a page and take memory as they are written.

    Of large ones the kernel is asked for huge pages, which makes the first writing eight times as fast.
    """
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge and size >= HUGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel built without them
            area.madvise(mmap.MADV_HUGEPAGE)
    return area


def _idle_references() -> int:
    """Count what refers to a buffer that a local variable holds alone; Python's versions differ."""
    block = mmap.mmap(-1, 1)
    return sys.getrefcount(block)


_IDLE = _idle_references()


class Blocks:
    """A ring of read buffers.

    Private memory: a forked child that goes on reading changes nothing under its parent's views. Buffers
    whose views live on are forgotten here when they get many, and freed with their last view. Threads may
    share it: who looks at a buffer has taken it out of the ring first.
    """

    def __init__(self, most: int = 512) -> None:
        self._most = most
        self._ring: deque[mmap.mmap] = deque()

    def take(self, need: int) -> mmap.mmap:
        """Give an idle buffer of at least `need` bytes, else a new one; it holds anything."""
        block = self._idle(need) or self._found(need)
        if block is None:
            # Sizes in steps of an eighth find each other; pages that are never written cost nothing.
            step = max(PAGE_BYTES, 1 << max(0, (need - 1).bit_length() - 4))
            block = pages(-(-need // step) * step)
        self._ring.append(block)
        return block

    def trim(self, idle_bytes: int = IDLE_BYTES) -> None:
        """Free idle buffers, the ones used longest ago first, until they hold no more than this."""
        kept = []
        with suppress(IndexError):
            while True:
                block = self._ring.pop()
                if sys.getrefcount(block) == _IDLE:
                    idle_bytes -= len(block)
                    if idle_bytes < 0:
                        continue
                kept.append(block)
        self._ring.extendleft(kept)

    def _idle(self, need: int) -> mmap.mmap | None:
        """Take an idle buffer that fits: among those used last, which may still be in the processor's cache,
        or those used longest ago, which are idle first where views live long."""
        ring, passed = self._ring, []
        found = None
        with suppress(IndexError):
            for take in [ring.pop] * LOOKS + [ring.popleft] * LOOKS:
                block = take()
                if need <= len(block) <= 2 * need and sys.getrefcount(block) == _IDLE:
                    found = block
                    break
                passed.append(block)
        ring.extend(reversed(passed))
        with suppress(IndexError):
            while len(ring) > self._most:
                ring.popleft()
        return found

    def _found(self, need: int) -> mmap.mmap | None:
        """Look at all buffers for an idle one that fits. If there is none, as many bytes of the others are
        freed: where sizes change, what was read into before would pile up."""
        found, others = None, []
        with suppress(IndexError):
            for _ in range(len(self._ring)):
                block = self._ring.popleft()
                if sys.getrefcount(block) != _IDLE:
                    self._ring.append(block)
                elif found is None and need <= len(block) <= 2 * need:
                    found = block
                else:
                    others.append(block)
        freed = need if found else 0
        while others and freed < need:
            freed += len(others.pop(0))
        self._ring.extendleft(reversed(others))  # where they are looked for first
        return found


class _Thread(threading.local):
    def __init__(self) -> None:
        self.blocks = Blocks()


class _Process:
    def __init__(self) -> None:
        self.blocks = Blocks()


_thread: _Thread | _Process = _Thread()


def share_blocks() -> None:
    """Let all threads of this process, also later ones, use one ring: for a process that is there to read."""
    global _thread
    _thread = _Process()


def is_reader() -> bool:
    """Tell whether this process is there to read."""
    return isinstance(_thread, _Process)


def use_blocks(blocks: Blocks) -> None:
    """Let this thread read into a ring that others read into, too."""
    if isinstance(_thread, _Thread):
        _thread.blocks = blocks


def blocks_of_this_thread() -> Blocks:
    """Give the ring that all reading of this thread shares, from one shard to the next."""
    return _thread.blocks
