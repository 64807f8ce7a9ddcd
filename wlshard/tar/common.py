"""The common case: plain headers that differ from the one before in name, size and checksum only."""

from __future__ import annotations

from struct import Struct
from zlib import adler32

from wlshard.errors import TarError
from wlshard.tar import rare
from wlshard.tar.feed import Feed
from wlshard.tar.rare import HEADER_BYTES, Payload

_MEMO = 1 << 14
_NEVER = -(1 << 40)  # no header's sum
_ENDLESS = 1 << 62  # no block holds a member of this size

# Name, offset of its first header, offset of its data, size, payload. The name ends at a NUL or after as many
# bytes as the finding says; what follows is anything: cutting it here would cost a fifth of the time.
RawMember = tuple[bytes, int, int, int, Payload]
NAME_BYTES = 100
_HANDED_OUT = 1 << 10  # members in one list, which is memory
_SIZE, _SUM = slice(124, 136), slice(148, 156)  # fields of a header
_halves = Struct("156s356s").unpack_from  # of a header, at the type: a third of what two slices take


class _Sums(dict[bytes, int]):
    """What adler32's low half says of a header whose checksum field is this, if it is right."""

    def __missing__(self, field: bytes) -> int:
        stored = rare.checksum(field)
        if len(self) >= _MEMO:
            self.clear()
        # The sum counts its own field as blanks; an Adler sum begins at 1.
        self[field] = value = _NEVER if stored is None else stored - sum(b" " * 8) + sum(field) + 1
        return value


class _Sizes(dict[bytes, tuple[int, int]]):
    """The number that a size field says, and with padding."""

    def __missing__(self, field: bytes) -> tuple[int, int]:
        try:
            size = rare.number(field)
        except TarError:
            return _ENDLESS, _ENDLESS  # told by the one who takes rare headers
        if len(self) >= _MEMO:
            self.clear()
        self[field] = found = size, size + (-size & 511)
        return found


_sums, _sizes = _Sums(), _Sizes()


class Likeness:
    """What the last plain header, and the last PAX header, ended in from the type on; what that means."""

    def __init__(self) -> None:
        self.tail, self.tail_sum, self.prefix = rare.NO_TAIL, 0, b""
        self.pax_tail, self.pax_sum = rare.NO_TAIL, 0

    def learn(self, header: rare.Header) -> None:
        """Take headers that end like this one for common ones."""
        if header.tail != rare.NO_TAIL:
            self.tail, self.tail_sum, self.prefix = header.tail, sum(header.tail), header.prefix


def take_common(feed: Feed, like: Likeness, copy: bool, members: list[RawMember]) -> None:
    """Take the members that lie whole in the block and whose headers are common; stop before any other.

    Of one that is common but for being cut by the block's end, `feed.wanted` tells the bytes.
    """
    block, base, filled = feed.block, feed.base, feed.filled
    tail, tail_sum, prefix = like.tail, like.tail_sum, like.prefix
    cut = block if copy else feed.view
    sums, sizes, append = _sums, _sizes, members.append
    begin = pos = feed.pos
    while (data := pos + 512) <= filled:
        header, ending = _halves(block, pos)
        # The tail equals one whose sum is known: the sum of the rest, 156 bytes, is exact in 16 bits.
        if ending == tail and adler32(header) & 0xFFFF == sums[header[_SUM]] - tail_sum:
            size, room = sizes[header[_SIZE]]
            pos = data + room
            if pos > filled:
                if pos - begin <= feed.block_bytes and base + pos <= (feed.source.bytes or 0):
                    feed.wanted = pos - begin
                break
            end = data + size
            append((prefix + header if prefix else header, base + begin, base + data, size, cut[data:end]))
            begin = pos
        elif ending[:1] == b"x" and (passed := _harmless(feed, like, header, pos)):
            pos += passed
        else:
            break
    feed.pos = begin


def hop_common(feed: Feed, like: Likeness, members: list[RawMember], max_member_bytes: int) -> None:
    """Take common members as `take_common` does, without payloads; if the feed jumps, over those outside.

    Stops before any other member, before one that ends outside the tar, and after 1,024 of them.
    """
    tail, tail_sum, prefix = like.tail, like.tail_sum, like.prefix
    total = feed.source.bytes or 0
    jumps = feed.jumps and total > 0
    sums, sizes, append = _sums, _sizes, members.append
    block, base, filled = feed.block, feed.base, feed.filled
    begin = pos = feed.pos
    while True:
        data = pos + 512
        if data > filled:
            at, feed.pos = base + pos, begin
            if not jumps or len(members) >= _HANDED_OUT or not feed.have(data - begin):
                return
            block, base, filled, begin = feed.block, feed.base, feed.filled, feed.pos
            pos, data = at - base, at - base + 512
        header, ending = _halves(block, pos)
        if ending == tail and adler32(header) & 0xFFFF == sums[header[_SUM]] - tail_sum:
            size, room = sizes[header[_SIZE]]
            pos = data + room
            if pos > filled and (not jumps or base + pos > total or size > max_member_bytes):
                break
            append((prefix + header if prefix else header, base + begin, base + data, size, b""))
            begin = pos
            if pos > filled:
                feed.jump(base + pos)
                base, filled, begin, pos = feed.base, 0, 0, 0
        elif ending[:1] == b"x" and (passed := _harmless(feed, like, header, pos)):
            pos += passed
        else:
            break
    feed.pos = begin


def _harmless(feed: Feed, like: Likeness, header: bytes, pos: int) -> int:
    """Give the bytes that a PAX header takes if it changes nothing we read, else 0."""
    data = pos + HEADER_BYTES
    tail = feed.block[pos + 156 : data]
    if tail != like.pax_tail:
        like.pax_tail, like.pax_sum = tail, sum(tail)
    size, room = _sizes[header[_SIZE]]
    after = data + room
    if after > feed.filled or adler32(header) & 0xFFFF != _sums[header[_SUM]] - like.pax_sum:
        return 0
    body = feed.block[data : data + size]
    # Nearly all hold one record, the time; its length says that it is the only one.
    alone = body.startswith(b"%d mtime=" % size) and body.endswith(b"\n")
    return after - pos if alone or rare.HARMLESS.fullmatch(body) else 0
