"""Hard links: the payload that an earlier member of the same tar has."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from wlshard.errors import TarError, printable
from wlshard.tar.feed import Source
from wlshard.tar.rare import Payload, text
from wlshard.tar.reader import scan

_BLOCK_BYTES = 1 << 16  # mostly headers are read


class OpenSource(Source, Protocol):
    """A source that is closed by leaving its block."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Hopper:
    """A reader that can be moved: it opens the object anew at another byte."""

    def __init__(self, open_at: Callable[[int], OpenSource]) -> None:
        self.bytes: int | None = None
        self._open_at = open_at
        self._reader: OpenSource | None = None

    def seek(self, offset: int) -> None:
        """Go on from this byte."""
        self.close()
        self._reader = self._open_at(offset)
        self.bytes = self._reader.bytes

    def readinto(self, target: bytearray | memoryview, /) -> int:
        if self._reader is None:
            self.seek(0)
        assert self._reader is not None
        return self._reader.readinto(target)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LinkTable:
    """Where the members of a tar begin, once a link asks: some 200 bytes a member."""

    def __init__(self, url: str, open_at: Callable[[int], OpenSource]) -> None:
        self._url, self._open_at = url, open_at
        self._begins: dict[bytes, int] = {}
        self._known_to = 0

    def payload(self, target: bytes, before: int) -> Payload:
        """Read the payload of the member called target that begins before this offset."""
        if self._known_to < before:
            self._look(before)
        begin = self._begins.get(target)
        if begin is None or begin >= before:
            name = target.decode("utf-8", "surrogateescape")
            raise TarError(f"a hard link to {printable(name)}, which is no earlier file of this tar")
        with self._open_at(begin) as source:
            for found in scan(source, self._url, start=begin, block_bytes=_BLOCK_BYTES):
                if found.members:
                    return found.members[0][4]
                if found.fault is not None:
                    break
        raise TarError("the target of a hard link cannot be read again: has the tar changed?")

    def _look(self, before: int) -> None:
        with Hopper(self._open_at) as source:
            source.seek(self._known_to)
            for found in scan(
                source,
                self._url,
                start=self._known_to,
                payloads=False,
                seek=source.seek,
                block_bytes=_BLOCK_BYTES,
            ):
                for raw, begin, *_ in found.members:
                    if begin < before:
                        self._begins[text(raw[: found.name_bytes])] = begin
                if found.fault or found.at > before:
                    break
        self._known_to = before
