"""Fields compressed with gzip: many gzip members in a row, lengths and CRCs checked, bombs refused."""

from __future__ import annotations

import zlib

from wlshard.codecs.codec import Buffer

# deflate packs 1032:1 at best, and a label map of one class comes near that: only an absolute limit tells
# a bomb from data. 4 GiB is 30 times the largest field in use (a 256³ float64 volume, 134 MB).
MAX_BYTES = 2**32


def compress(data: Buffer) -> bytes:
    """Compress; the header carries no name and no time, so that equal data gives equal bytes."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def decompress(data: Buffer, limit: int = MAX_BYTES) -> bytes:
    """Decompress all members of data; zero padding after the last is allowed, as gzip(1) allows it."""
    out: list[bytes] = []
    total = 0
    rest: Buffer = data
    while True:
        unpacker = zlib.decompressobj(31)
        try:
            out.append(unpacker.decompress(rest, limit - total + 1))
        except zlib.error as error:
            raise ValueError(f"bad gzip data ({error})") from error
        total += len(out[-1])
        if total > limit:
            raise ValueError(f"it decompresses to more than {limit} bytes")
        if not unpacker.eof:
            raise ValueError("the gzip data is cut short")
        rest = unpacker.unused_data.lstrip(b"\0")
        if not rest:
            return out[0] if len(out) == 1 else b"".join(out)
