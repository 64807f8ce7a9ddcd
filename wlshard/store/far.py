"""What stores have in common whose objects come over a network: reading."""

from __future__ import annotations

from typing import ClassVar

from wlshard import clock
from wlshard.store.base import Capabilities, object_url, read_whole
from wlshard.store.patience import Patience
from wlshard.store.ranges import RangedReader, open_ranged
from wlshard.store.stream import Get, Stream, Version


class FarStore:
    """Objects below one URL, read by ranged GETs that are gone on with where they break off."""

    can: ClassVar[Capabilities]

    def __init__(self, url: str) -> None:
        self.url = url

    def getter(self, name: str) -> Get:
        """Give what asks for a part of this object."""
        raise NotImplementedError

    def open(self, name: str, start: int = 0, end: int | None = None) -> RangedReader:
        return open_ranged(self.getter(name), self.url_of(name), start, end)

    def version(self, name: str) -> Version | None:
        """Ask which version is there now; None: the server does not say, or gives no parts of it."""
        stream = Stream(self.getter(name), 0, 1, Patience(self.url_of(name)))
        try:
            stream.open()
            return stream.version if stream.ranged else None
        finally:
            stream.close()

    def open_version(self, name: str, version: Version, start: int, end: int | None) -> RangedReader:
        """Open an object as `open` does, if it is this version."""
        return open_ranged(self.getter(name), self.url_of(name), start, end, version)

    def read(self, name: str) -> bytes:
        stream = Stream(self.getter(name), 0, None, Patience(self.url_of(name)))
        try:
            stream.open()
            return read_whole(stream, stream.version and stream.version.size)
        finally:
            stream.close()

    def url_of(self, name: str) -> str:
        return object_url(self.url, name)

    def path(self, name: str) -> None:
        return None

    def now(self) -> float:
        return clock.now()
