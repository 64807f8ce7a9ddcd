"""Fields compressed with gzip: many gzip members in a row, lengths and CRCs checked, bombs refused."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from wlshard.codecs.codec import Buffer

# deflate packs 1032:1 at best, and a label map of one class comes near that: only an absolute limit tells
# a bomb from data. 4 GiB is 30 times the largest field in use (a 256³ float64 volume, 134 MB).
MAX_BYTES = 2**32
_most_bytes = MAX_BYTES


@contextmanager
def unpacking_at_most(limit: int) -> Iterator[None]:
    """Refuse, in this process while the block runs, what decompresses to more than this, or to 4 GiB."""
    global _most_bytes
    before, _most_bytes = _most_bytes, min(limit, MAX_BYTES)
    try:
        yield
    finally:
        _most_bytes = before


def check_unpacked(size: int) -> None:
    """Raise ValueError for so many decompressed bytes if they are too many."""
    if size > _most_bytes:
        raise ValueError(f"it decompresses to more than {_most_bytes} bytes")


def compress(data: Buffer) -> bytes:
    """Compress; the header carries no name and no time, so that equal data gives equal bytes."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def decompress(data: Buffer) -> bytes:
    """Decompress all members of data; zero padding after the last is allowed, as gzip(1) allows it."""
    out: list[bytes] = []
    total = 0
    rest: Buffer = data
    while True:
        unpacker = zlib.decompressobj(31)
        try:
            out.append(unpacker.decompress(rest, _most_bytes - total + 1))
        except zlib.error as error:
            raise ValueError(f"bad gzip data ({error})") from error
        total += len(out[-1])
        check_unpacked(total)
        if not unpacker.eof:
            raise ValueError("the gzip data is cut short")
        rest = unpacker.unused_data.lstrip(b"\0")
        if not rest:
            return out[0] if len(out) == 1 else b"".join(out)
