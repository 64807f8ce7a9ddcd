"""One pass over a tar: the block in memory, where in it the pass stands, what it knows of the headers."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Protocol, TypeAlias
from zlib import adler32

from wlshard.errors import TarError
from wlshard.tar import rare
from wlshard.tar.blocks import BLOCK_BYTES, PAGE_BYTES, Blocks
from wlshard.tar.rare import HEADER_BYTES, Payload

MAX_MEMBER_BYTES = 1 << 34  # one payload lies in memory whole
MAX_EXTENSION_BYTES = 1 << 22  # a long name or PAX header; a sparse map of 100,000 parts fits
MAX_PADDING_BYTES = 1 << 30  # zeros after the end mark; tape records are at most a few MiB
JUMP_BYTES = 1 << 17  # less is read through: about what a seek costs
_MEMO = 1 << 14

# name as it stands, offset of its first header, offset of its data, size, payload
RawMember: TypeAlias = tuple[bytes, int, int, int, Payload]


class Source(Protocol):
    """The bytes of a tar in order, as a store's readers give them."""

    @property
    def bytes(self) -> int | None:
        """Of the whole tar, where it is known."""
        ...

    def readinto(self, target: bytearray | memoryview, /) -> int:
        """Fill target from the front; fewer bytes than asked only at the end; 0 at the end."""
        ...


class Links(Protocol):
    """Finds what a hard link stands for."""

    def payload(self, target: bytes, before: int) -> Payload:
        """Give the payload of the last member called target that begins before this offset."""
        ...


class Tape:
    """A pass over a tar: the block in memory, where in it the pass stands, what it has learned."""

    def __init__(
        self,
        source: Source,
        blocks: Blocks,
        start: int,
        seek: Callable[[int], None] | None,
        links: Links | None,
    ) -> None:
        self.source, self.blocks, self.seek, self.links = source, blocks, seek, links
        self.block_bytes = BLOCK_BYTES
        self.base = start  # offset in the tar of the block's first byte
        self.block: mmap.mmap | bytes = b""
        self.view = memoryview(b"")
        self.pos = self.filled = 0
        self.begin = start  # of the entry being read
        self.resume_at: int | None = None  # where the pass goes on after a fault, if that is known
        self.ended = False  # the source has given fewer bytes than asked
        self.asked = False  # and has been asked why
        self.ending = False  # the end mark has been passed
        self.over = False
        self.standing: dict[bytes, bytes] = {}
        self.tail, self.tail_sum, self.prefix = rare.NO_TAIL, 0, b""  # of the last plain header
        self.sums: dict[bytes, int] = {}  # checksum field: what adler32 gives if it is right
        self.sizes: dict[bytes, int] = {}  # size field: size
        self.span = self.copy = False
        self.payloads = True
        self.max_member_bytes = MAX_MEMBER_BYTES
        self.passed_over: dict[str, int] = {}

    def common(self, members: list[RawMember]) -> None:
        """Take the members that lie whole in the block and have plain headers like the last one."""
        block, base, filled, tail, tail_sum = self.block, self.base, self.filled, self.tail, self.tail_sum
        cut = block if self.copy else self.view
        sums, sizes, prefix, append = self.sums.get, self.sizes.get, self.prefix, members.append
        begin = pos = self.pos
        while True:
            header = block[pos : pos + 512]
            # The tail is equal to one whose sum is known, so the exact sum of the rest is enough.
            if (
                header.endswith(tail)
                and adler32(header[:156]) & 0xFFFF == sums(header[148:156], 0) - tail_sum
            ):
                data = pos + 512
                size = sizes(header[124:136])
                if size is None:
                    size = self.learn_size(header[124:136])
                end = data + size
                pos = end + (-size & 511)
                if pos > filled:
                    break
                name = rare.text(header[:100]) if header[99] else header[: header.find(0)]
                append((prefix + name if prefix else name, base + begin, base + data, size, cut[data:end]))
                begin = pos
            elif header[156:157] == b"x" and (passed := self.harmless(header, pos)):
                pos += passed
            else:
                break
        self.pos = begin

    def learn_size(self, field: bytes) -> int:
        """Read a size field and remember it; one that makes no sense is too large for any block."""
        try:
            size = rare.number(field)
        except TarError:
            return 1 << 62
        if len(self.sizes) >= _MEMO:
            self.sizes.clear()
        self.sizes[field] = size
        return size

    def harmless(self, header: bytes, pos: int) -> int:
        """Give the bytes that a PAX header takes if it changes nothing we read, else 0."""
        field = header[124:136]
        size = self.sizes[field] if field in self.sizes else self.learn_size(field)
        data = pos + rare.HEADER_BYTES
        after = data + size + (-size & 511)
        # Halves of 256 bytes: an Adler sum is exact below 65521.
        total = (adler32(header[:256]) & 0xFFFF) + (adler32(header[256:]) & 0xFFFF) - 1
        if after > self.filled or total != self.sums.get(header[148:156]):
            return 0
        return after - pos if rare.HARMLESS.fullmatch(self.block, data, data + size) else 0

    def uncommon(self, members: list[RawMember]) -> bool:
        """Take one entry of any kind, refilling the block as needed.

        True: a member was taken, or this is the end mark (then there is none).
        """
        self.begin, self.resume_at = self.base + self.pos, None
        if self.ending:
            self.padding()
            return False
        extensions = rare.Extensions(self.standing)
        wanted = False
        while (block := self.header(wanted)) is not None:
            header = rare.parse_header(block)
            self.learn(block, header)
            self.pos += HEADER_BYTES
            if header.kind not in rare.EXTENSIONS:
                self.entry(extensions.apply(header), block, extensions, members)
                return bool(members)
            if header.size > MAX_EXTENSION_BYTES:
                raise TarError(f"an extension header of {header.size} bytes: damaged, or made to harm")
            extensions.add(header.kind, bytes(self.data(header.size)))
            wanted = True
        return True

    def header(self, wanted: bool) -> bytes | None:
        """Give the header block at this place; None at the end of the tar. `wanted`: it may not end here."""
        at = self.base + self.pos
        if not self.have(HEADER_BYTES):
            left = self.filled - self.pos
            self.over = True
            if self.span and not left and not wanted:
                return None
            what = (
                "is cut in a header" if left or wanted else "has no end mark, it may be cut behind a member"
            )
            raise TarError(f"the tar {what}: fetch or write it again", offset=at + left)
        block = bytes(self.view[self.pos : self.pos + HEADER_BYTES])
        if not any(block):
            if wanted or self.span:
                raise TarError("zeros stand where a member's header should be", offset=at)
            self.end_mark(at)
            return None
        if not rare.checks(block):
            what = (
                "a header's checksum is wrong, the tar is damaged"
                if at
                else "this is no tar, nor a compressed one"
            )
            raise TarError(f"{what}: fetch or write it again", offset=at)
        return block

    def learn(self, block: bytes, header: rare.Header) -> None:
        """Remember what makes the next header like this one a common one."""
        field = block[148:156]
        if len(self.sums) >= _MEMO:
            self.sums.clear()
        # The sum counts its own field as blanks; an Adler sum begins at 1.
        self.sums[field] = rare.number(field) - sum(b" " * 8) + sum(field) + 1
        if header.tail != rare.NO_TAIL:
            self.tail, self.tail_sum, self.prefix = header.tail, sum(header.tail), header.prefix
        if self.standing:
            self.tail = rare.NO_TAIL

    def entry(
        self, header: rare.Header, block: bytes, extensions: rare.Extensions, members: list[RawMember]
    ) -> None:
        """Take what the headers just read announce: a member, or something that is passed over."""
        kind, size = header.kind, header.size
        plain = kind in rare.REGULAR
        if kind in rare.PASSED_OVER or (plain and header.name.endswith(b"/")):
            what = rare.PASSED_OVER.get(kind, "directories")
            self.passed_over[what] = self.passed_over.get(what, 0) + 1
            if plain or kind == b"D":  # the others have no data, whatever their size says
                self.skip(self.base + self.pos + size + (-size & 511))
            return
        try:
            if kind == rare.LINK:
                data, payload = self.base + self.pos, self.linked(header.link)
                size = len(payload)
            else:
                real, spans = self.sparse(block) if kind == rare.SPARSE else extensions.sparse()
                data = self.base + self.pos
                payload = self.payload(size, real, spans, extensions.map_leads)
                size = size if real is None else real
        except TarError as error:
            error.member = header.name.decode("utf-8", "surrogateescape")
            raise
        members.append((header.name, self.begin, data, size, payload))

    def sparse(self, block: bytes) -> tuple[int, rare.Spans]:
        """Read an old GNU sparse header and the blocks that continue it: real size, stored parts."""
        spans = rare.old_sparse_entries(block[386:482])
        more = block[482]
        while more:
            area = bytes(self.data(HEADER_BYTES))
            spans += rare.old_sparse_entries(area[:504])
            more = area[504]
        return rare.number(block[483:495]), spans

    def linked(self, target: bytes) -> Payload:
        """Give what a hard link stands for."""
        if not self.payloads:
            return b""
        if self.links is None:
            raise TarError(
                "a hard link in a stream, whose target is gone by: read the tar from a local file, "
                "or write it with `tar --hard-dereference`"
            )
        return self.links.payload(target, self.begin)

    def payload(self, size: int, real: int | None, spans: rare.Spans, map_leads: bool) -> Payload:
        """Read a member's data; step over it where payloads are not asked for."""
        after = self.base + self.pos + size + (-size & 511)
        if max(size, real or 0) > self.max_member_bytes:
            self.resume_at = after
            raise TarError(
                f"a member of {max(size, real or 0)} bytes; at most {self.max_member_bytes} are read"
            )
        total = self.source.bytes
        if total is not None and after > total:
            self.resume_at = after
            raise TarError("the tar is cut inside a member: fetch or write it again", offset=total)
        if not self.payloads:
            self.skip(after)
            return b""
        data = self.data(size)
        if real is None:
            return bytes(data) if self.copy else data
        if map_leads:
            spans, at = rare.leading_sparse_entries(data)
            data = data[at:]
        whole = rare.expand_sparse(spans, data, real)
        return bytes(whole) if self.copy else whole

    def data(self, size: int) -> memoryview:
        """Give the next `size` bytes and step over them and their padding."""
        padded = size + (-size & 511)
        if not self.have(padded):
            at = self.base + self.filled
            self.over = True
            raise TarError("the tar is cut inside a member: fetch or write it again", offset=at)
        view = self.view[self.pos : self.pos + size]
        self.pos += padded
        return view

    def have(self, need: int) -> bool:
        """Bring the next `need` bytes into the block together; False: the source ends before."""
        if self.filled - self.pos < need and not self.ended:
            self.refill(need)
        if self.filled - self.pos >= need:
            return True
        if not self.asked:
            self.asked = True
            self.over = True  # if the source has an error to tell about its end
            self.source.readinto(memoryview(bytearray(1)))
            self.over = False
        return False

    def refill(self, need: int) -> None:
        """Go on to another block, which begins with the bytes not yet used. Blocks for the source.

        A payload larger than a block gets one of its own size, page-aligned, read in one go, with the
        header that follows it.
        """
        carry = self.filled - self.pos
        wanted = self.block_bytes
        if need > wanted:
            wanted = need + HEADER_BYTES + (-(need + HEADER_BYTES) & (PAGE_BYTES - 1))
        try:
            block = self.blocks.take(wanted)
        except (OSError, MemoryError, OverflowError) as error:
            self.over = True
            raise TarError(f"no memory for a member of {need} bytes ({error})") from error
        whole = memoryview(block)
        whole[:carry] = self.view[self.pos : self.filled]
        self.base += self.pos
        self.block, self.view, self.pos, self.filled = block, whole.toreadonly(), 0, carry
        try:
            got = self.source.readinto(whole[carry:wanted])
        except TarError:  # a compressed source is damaged here: there is no more
            self.ended = self.over = True
            raise
        self.filled += got
        self.ended = got < wanted - carry

    def skip(self, offset: int) -> None:
        """Go to this offset of the tar, which may lie behind the block."""
        if self.seek is not None and offset - self.base - self.filled > JUMP_BYTES:
            self.seek(offset)
            self.base, self.pos, self.filled, self.ended = offset, 0, 0, False
        while offset - self.base > self.filled:
            self.pos = self.filled
            if not self.have(1):
                self.over = True
                raise TarError("the tar is cut inside a member: fetch or write it again", offset=self.base)
        self.pos = offset - self.base

    def end_mark(self, at: int) -> None:
        """Step over the end mark: two blocks of zeros."""
        if not self.have(2 * HEADER_BYTES):
            self.over = True
            raise TarError(
                "half of the end mark is missing, the tar is cut: fetch or write it again", offset=at
            )
        if any(self.view[self.pos + HEADER_BYTES : self.pos + 2 * HEADER_BYTES]):
            self.resume_at = at + HEADER_BYTES
            raise TarError("a lone block of zeros between members: the tar is damaged", offset=at)
        self.pos += 2 * HEADER_BYTES
        self.ending = True

    def padding(self) -> None:
        """Check that nothing but zeros follows the end mark."""
        self.ending = False
        while self.have(1):
            rest = bytes(self.view[self.pos : self.filled])
            zeros = len(rest) - len(rest.lstrip(b"\0"))
            where = self.base + self.pos + zeros
            if zeros < len(rest):
                self.resume_at = where & -HEADER_BYTES
                raise TarError(
                    "data after the end mark (concatenated tars?): split or rewrite the tar", offset=where
                )
            if where - self.begin > MAX_PADDING_BYTES:
                self.over = True
                raise TarError("zeros without end after the end mark", offset=where)
            self.pos = self.filled
        self.over = True
        if (self.base + self.filled) % HEADER_BYTES:
            raise TarError(
                "the tar ends inside a block of its padding: fetch or write it again",
                offset=self.base + self.filled,
            )

    def resume(self) -> None:
        """Go on behind a fault: where the next member must be, or at the next header that checks."""
        if self.over:
            return
        known = self.resume_at
        try:
            self.skip(max(self.begin + HEADER_BYTES, self.base + self.pos) if known is None else known)
            while known is None and self.have(HEADER_BYTES):
                if rare.checks(bytes(self.view[self.pos : self.pos + HEADER_BYTES])):
                    return
                self.pos += HEADER_BYTES
        except TarError:
            self.over = True  # the tar ends in the damage that has been told already
        self.over = self.over or known is None
