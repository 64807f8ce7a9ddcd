"""The bytes of a tar as they come: one block in memory, refilled as it is used up."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Protocol

from wlshard.errors import TarError
from wlshard.tar.blocks import BLOCK_BYTES, PAGE_BYTES, Blocks, blocks_of_this_thread
from wlshard.tar.rare import HEADER_BYTES

CUT = "the tar is cut inside a member: fetch or write it again"
HOP_BYTES = 1 << 12  # read behind a far jump: most samples have their small fields in it, and the next header
FAR_BYTES = 1 << 14  # payloads as large as this are about what the next sample will have, too
JUMP_BYTES = 1 << 17  # less is read through: about what a seek costs


class Source(Protocol):
    """The bytes of a tar in order, as a store's readers give them."""

    @property
    def bytes(self) -> int | None:
        """Of the whole tar, where it is known."""
        ...

    def readinto(self, target: bytearray | memoryview, /) -> int:
        """Fill target from the front; fewer bytes than asked only at the end; 0 at the end."""
        ...


class Feed:
    """A block of the tar, where in it the reading stands (`pos`), and how far it is filled.

    `base`: offset in the tar of the block's first byte. `over`: nothing more can be read. Without `views`
    nobody looks at a block after the next one has been asked for.
    """

    def __init__(
        self,
        source: Source,
        start: int,
        *,
        blocks: Blocks | None = None,
        block_bytes: int = BLOCK_BYTES,
        views: bool = True,
        seek: Callable[[int], None] | None = None,
    ) -> None:
        self.source = source
        self.base = start
        self.block: mmap.mmap | bytes = b""
        self.view = self._whole = memoryview(b"")
        self._views = views
        self.pos = self.filled = 0
        self.wanted = 0  # bytes of the next member, if all that it lacks is another block
        self.over = False
        self._blocks = blocks_of_this_thread() if blocks is None else blocks
        self.block_bytes = block_bytes
        self._seek, self.jumps = seek, seek is not None
        self._hop = False  # behind a far jump: what is read next is a header or two, and then another jump
        self._ended = False  # the source has given fewer bytes than asked
        self._asked = False  # and has been asked why

    @property
    def at(self) -> int:
        """The offset in the tar at which the reading stands."""
        return self.base + self.pos

    def data(self, size: int) -> memoryview:
        """Give the next `size` bytes and step over them and their padding."""
        padded = size + (-size & 511)
        if not self.have(padded):
            at = self.base + self.filled
            self.over = True
            raise TarError(CUT, offset=at)
        view = self.view[self.pos : self.pos + size]
        self.pos += padded
        return view

    def must_grow(self, size: int) -> bool:
        """Tell whether a payload of this size needs a block larger than usual, not read yet."""
        return size > self.block_bytes and size > self.filled - self.pos and not self.over

    def have(self, need: int) -> bool:
        """Bring the next `need` bytes into the block together; False: the source ends before."""
        if self.filled - self.pos < need and not self._ended:
            self._refill(need)
        if self.filled - self.pos >= need:
            return True
        if not self._asked:
            self._asked = True
            self.over = True  # if the source has an error to tell about its end
            self.source.readinto(memoryview(bytearray(1)))
            self.over = False
        return False

    def _refill(self, need: int) -> None:
        """Go on to another block, which begins with the bytes not yet used. Blocks for the source.

        A payload larger than a block gets one of its own size, page-aligned, read in one go, with the
        header that follows it.
        """
        carry = self.filled - self.pos
        wanted = self.block_bytes
        if need > wanted:
            wanted = need + HEADER_BYTES + (-(need + HEADER_BYTES) & (PAGE_BYTES - 1))
        carried = self.view[self.pos : self.filled]
        if self._views or len(self._whole) < wanted:
            self._take(wanted, need)
        whole = self._whole
        whole[:carry] = carried
        self.base += self.pos
        self.pos, self.filled = 0, carry
        try:
            if self._hop and need <= HOP_BYTES < wanted:
                wanted = HOP_BYTES
            self._hop = False
            got = self.source.readinto(whole[carry:wanted])
        except TarError:  # a compressed source is damaged here: there is no more
            self._ended = self.over = True
            raise
        self.filled += got
        self._ended = got < wanted - carry

    def _take(self, wanted: int, need: int) -> None:
        try:
            self.block = block = self._blocks.take(wanted)
        except (OSError, MemoryError, OverflowError) as error:
            self.over = True
            raise TarError(f"no memory for a member of {need} bytes ({error})") from error
        self._whole = memoryview(block)
        self.view = self._whole.toreadonly()

    def jump(self, offset: int) -> None:
        """Go to this offset of the tar without reading what lies before it; `jumps` says whether it can."""
        assert self._seek is not None
        self._seek(offset)
        self._hop = offset - self.base - self.filled >= FAR_BYTES
        self.base, self.pos, self.filled, self._ended = offset, 0, 0, False

    def skip(self, offset: int) -> None:
        """Go to this offset of the tar, which may lie behind the block."""
        if self.source.bytes is not None and offset > self.source.bytes:
            self.over = True
            raise TarError(CUT, offset=self.source.bytes)
        if self.jumps and offset - self.base - self.filled > JUMP_BYTES:
            self.jump(offset)
        while offset - self.base > self.filled:
            self.pos = self.filled
            if not self.have(1):
                self.over = True
                raise TarError(CUT, offset=self.base)
        self.pos = offset - self.base
