"""Shards written as a stream: compressed, or to stdout, where nothing can be written twice."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, Self

from wlshard.errors import UsageError
from wlshard.store.base import Buffer, Draft
from wlshard.tar.header import END_MARK

ZST_LEVEL, GZ_LEVEL = 3, 6  # the defaults of zstd(1) and gzip(1)


class Compressor(Protocol):
    """One compressed stream, as zlib has it."""

    def compress(self, data: Buffer, /) -> bytes: ...
    def flush(self) -> bytes: ...


def compressor(name: str) -> Callable[[], Compressor] | None:
    """Give what makes the compressor that a shard's name asks for; None: `.tar` and stdout are plain."""
    if name.endswith((".tgz", ".tar.gz")):
        return lambda: zlib.compressobj(GZ_LEVEL, zlib.DEFLATED, 31)
    if name.endswith((".tzst", ".tar.zst")):
        try:
            zstandard = import_module("zstandard")
        except ImportError as error:
            raise UsageError("to write .zst install zstandard: pip install 'wlshard[fast]'") from error
        return lambda: zstandard.ZstdCompressor(level=ZST_LEVEL).compressobj()
    if name.endswith(".tar") or name == "-":
        return None
    raise UsageError("an output's name ends in .tar, .tar.gz, .tgz, .tar.zst or .tzst, or is -", url=name)


class Packed:
    """A draft whose bytes are compressed on their way into another draft.

    Scratch replaces its end mark by each write; a stream cannot, so the mark is held back until `sync`.
    """

    def __init__(self, inner: Draft, make: Callable[[], Compressor] | None) -> None:
        self.bytes = 0  # of the tar, the end mark not counted
        self._inner = inner
        self._packer = None if make is None else make()
        self._ended = False

    def write(self, parts: Sequence[Buffer], at: int | None = None) -> None:
        assert at == self.bytes, "a stream is written in order"
        assert bytes(parts[-1]) == END_MARK
        self._emit(parts[:-1])
        self.bytes += sum(map(len, parts[:-1]))

    def _emit(self, parts: Sequence[Buffer]) -> None:
        packer = self._packer
        made = parts if packer is None else [piece for part in parts if (piece := packer.compress(part))]
        if made:
            self._inner.write(made)

    def sync(self) -> None:
        if not self._ended:
            self._ended = True
            self._emit([END_MARK])
            if self._packer is not None:
                self._inner.write([self._packer.flush()])
        self._inner.sync()

    def publish(self, name: str, *, replace: bool = False) -> bool:
        return self._inner.publish(name, replace=replace)

    def discard(self) -> None:
        self._inner.discard()

    def abandon(self) -> None:
        self._inner.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def open_stdout() -> StdoutDraft:
    """Take standard output for a draft; what is printed until the draft is discarded goes to stderr."""
    sys.stdout.flush()
    fd = os.dup(1)
    os.dup2(2, 1)
    return StdoutDraft(fd)


class StdoutDraft:
    """The descriptor that was standard output, and will be again. What was written is out."""

    def __init__(self, fd: int) -> None:
        self.bytes = 0
        self._fd = fd

    def write(self, parts: Sequence[Buffer], at: int | None = None) -> None:
        assert at in (None, self.bytes), "a stream is written in order"
        for part in parts:
            left = memoryview(part).cast("B")
            self.bytes += len(left)
            while left:
                left = left[os.write(self._fd, left) :]

    def sync(self) -> None:
        """Nothing is held."""

    def publish(self, name: str, *, replace: bool = False) -> bool:  # noqa: ARG002 — every draft's form
        return True

    def discard(self) -> None:
        """Give standard output back; what is out is out. May be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            sys.stdout.flush()
            os.dup2(fd, 1)
            os.close(fd)

    def abandon(self) -> None:
        self.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()
