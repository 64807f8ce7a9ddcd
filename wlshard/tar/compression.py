"""Plain bytes from a tar that may be compressed: gz, zst, xz, bz2 or lz4, told by content, not by name.

Frames and members one after the other are read through, checksums are checked, and an end inside one is an
error: a decompressor that stops early would make a shard silently shorter.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, Protocol

from wlshard.errors import TarError, UsageError
from wlshard.tar import rare
from wlshard.tar.feed import Source

INPUT_BYTES = 1 << 16
OUTPUT_BYTES = 1 << 20
# One call of zstandard's decompressor cannot be told to stop: 4 bytes may stand for 128 KiB.
ZST_INPUT_BYTES = 1 << 11
XZ_MEMORY_BYTES = 1 << 30  # what `xz -9` needs is 65 MiB
ZST_WINDOW_BYTES = 1 << 27  # as the zstd command allows by default
# All zeros: gz 1,030 to 1, bz2 and zst up to 40,000 to 1; volumes that are mostly background stay below.
BOMB_BYTES, BOMB_RATIO = 1 << 30, 50_000


class Decompressor(Protocol):
    """One compressed stream, as bz2 and lzma have it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def plain(source: Source, url: str) -> tuple[Source, str | None]:
    """Give a reader of the tar's own bytes, and the compression they are in (None: they are plain).

    Reads 512 bytes of `source`, which the caller still closes. The new reader needs no closing.
    """
    head = memoryview(bytearray(rare.HEADER_BYTES))
    front = bytes(head[: source.readinto(head)])
    first = _Front(source, front)
    if len(front) == rare.HEADER_BYTES and rare.checks(front):
        return first, None  # a member may be called "BZh9…"
    for kind, (magics, make) in _KINDS.items():
        if front.startswith(magics):
            return Decompressed(first, url, kind, make), kind
    return first, None


class _Front:
    """A reader whose first bytes have been read already."""

    def __init__(self, source: Source, front: bytes) -> None:
        self.bytes = source.bytes
        self._source, self._front = source, front

    def readinto(self, target: bytearray | memoryview, /) -> int:
        if not self._front:
            return self._source.readinto(target)
        view = memoryview(target)
        count = min(len(self._front), len(view))
        view[:count], self._front = self._front[:count], self._front[count:]
        if count == len(view):
            return count
        return count + self._source.readinto(view[count:])


class Decompressed:
    """Reads what a compressed source holds. Holds one piece of input, at most 64 KiB.

    TarError at the offset (of the plain bytes) up to which all was right: a cut stream, a wrong checksum,
    bytes behind the end that are neither another stream nor zeros, or a bomb.
    """

    def __init__(self, source: Source, url: str, kind: str, make: Callable[[], Decompressor]) -> None:
        self.bytes: int | None = None
        self._source, self._url, self._kind, self._make = source, url, kind, make
        self._stream: Decompressor | None = None
        self._errors = _errors(kind)
        self._fault: TarError | None = None
        self._input = b""
        self._read = self._given = 0

    def readinto(self, target: bytearray | memoryview, /) -> int:
        view, filled = memoryview(target), 0
        while filled < len(view) and self._fault is None:
            try:
                data = self._some(min(len(view) - filled, OUTPUT_BYTES))
            except TarError as error:
                self._fault = error  # first what came before it
                break
            if not data:
                break
            view[filled : filled + len(data)] = data
            filled += len(data)
            self._given += len(data)
        if self._fault is not None and not filled:
            raise self._fault
        return filled

    def _some(self, most: int) -> bytes:
        """Give 1 to `most` bytes; none at the end."""
        while True:
            if self._stream is None and not self._next_stream():
                return b""
            stream = self._stream
            assert stream is not None
            if stream.needs_input and not self._input:
                self._input = self._more()
                if not self._input:
                    raise self._broken("is cut")
            try:
                data = stream.decompress(self._input, most)
            except self._errors as error:
                raise self._broken(f"is damaged ({error})") from error
            self._input = b""
            if stream.eof:
                self._input, self._stream = bytes(stream.unused_data or b""), None
            if self._given > BOMB_BYTES and self._given > BOMB_RATIO * self._read:
                raise self._broken(f"is a bomb: {self._read} bytes make more than {self._given}")
            if data:
                return data

    def _next_stream(self) -> bool:
        """Begin the next stream; False where there is none, but for zeros as tapes have them."""
        while not self._input.lstrip(b"\0"):
            self._input = self._more()
            if not self._input:
                return False
        self._input = self._input.lstrip(b"\0")
        self._stream = self._make()
        return True

    def _more(self) -> bytes:
        piece = memoryview(bytearray(INPUT_BYTES))
        count = self._source.readinto(piece)
        self._read += count
        return bytes(piece[:count])

    def _broken(self, what: str) -> TarError:
        message = f"the {self._kind} stream {what}: fetch or write the shard again"
        return TarError(message, url=self._url, offset=self._given)


class _Zlib:
    """zlib's decompressor with the manners of bz2's."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)  # gzip's frame and its CRC
        self.needs_input = True
        self.eof = False
        self.unused_data = b""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        made = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        self.eof, self.unused_data = self._stream.eof, self._stream.unused_data
        # Output that filled the room may have more behind it that needs no input.
        self.needs_input = not self._stream.unconsumed_tail and len(made) < max_length
        return made


class _Zst:
    """zstandard's decompressor with the manners of bz2's."""

    def __init__(self) -> None:
        zstandard = _optional("zstandard")
        self._stream = zstandard.ZstdDecompressor(max_window_size=ZST_WINDOW_BYTES).decompressobj()
        self._input = memoryview(b"")
        self._made = memoryview(b"")
        self._ended = False
        self.unused_data = b""

    @property
    def needs_input(self) -> bool:
        return not self._input and not self._made

    @property
    def eof(self) -> bool:
        return self._ended and not self._made

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        if data:
            self._input = memoryview(bytes(self._input) + data)
        while not self._made and self._input and not self._ended:
            piece, self._input = self._input[:ZST_INPUT_BYTES], self._input[ZST_INPUT_BYTES:]
            self._made = memoryview(self._stream.decompress(piece))
            if self._stream.eof:
                self._ended = True
                self.unused_data = self._stream.unused_data + bytes(self._input)
                self._input = memoryview(b"")
        made, self._made = self._made[:max_length], self._made[max_length:]
        return bytes(made)


def _gz() -> Decompressor:
    try:
        from isal import igzip_lib
    except ImportError:
        return _Zlib()
    stream: Decompressor = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return stream


def _bz2() -> Decompressor:
    import bz2

    return bz2.BZ2Decompressor()


def _xz() -> Decompressor:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)


def _lz4() -> Decompressor:
    stream: Decompressor = _optional("lz4.frame").LZ4FrameDecompressor()
    return stream


def _optional(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UsageError(f"this shard needs {package}: pip install {package}") from error


def _errors(kind: str) -> tuple[type[Exception], ...]:
    """List what the decompressor of this kind raises on damaged input."""
    errors: list[type[Exception]] = [zlib.error, lzma.LZMAError, OSError, EOFError, ValueError]
    if kind == "lz4":
        errors.append(RuntimeError)
    if kind == "zst":
        errors.append(_optional("zstandard").ZstdError)
    if kind == "gz":
        with suppress(ImportError):
            errors.append(import_module("isal.igzip_lib").error)
    return tuple(errors)


_KINDS: dict[str, tuple[tuple[bytes, ...], Callable[[], Decompressor]]] = {
    "gz": ((b"\x1f\x8b",), _gz),
    "zst": ((b"\x28\xb5\x2f\xfd", *(bytes([0x50 + i]) + b"\x2a\x4d\x18" for i in range(16))), _Zst),
    "xz": ((b"\xfd7zXZ\0",), _xz),
    "bz2": (tuple(b"BZh%d" % i for i in range(1, 10)), _bz2),
    "lz4": ((b"\x04\x22\x4d\x18",), _lz4),
}
