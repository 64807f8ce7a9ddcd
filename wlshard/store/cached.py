"""Shards read through this machine's cache: what is not in it is fetched, given and kept, block by block."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable
from concurrent import futures
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Self

from wlshard import clock
from wlshard.errors import StoreUnavailable, WlshardError, shown
from wlshard.store.base import BeginsAhead, Reader, Store, object_url
from wlshard.store.cache import BLOCK_BYTES, Cache, cache_for
from wlshard.store.files import errors_of

log = logging.getLogger(__name__)

FRESH_S = 60.0  # a part of a shard is not asked for its version again before
WAIT_S = 10.0  # for a block that another thread or process fetches


class Held(NamedTuple):
    """One version of an object: its size, where its blocks are, and how it, and nothing else, is read."""

    url: str
    place: str
    bytes: int
    open: Callable[[int, int | None], Reader]  # from byte, up to byte (None: the end)
    check: Callable[[], object]  # that what was read is of this version, where reading does not tell


class CachedReader:
    """The bytes of one version of an object from `start` on. Holds 2 MiB besides the store's reader.

    What is read to the end is written by a thread of its own, while the next block comes.
    """

    def __init__(self, cache: Cache, held: Held, start: int, end: int | None) -> None:
        self.bytes = held.bytes
        self._cache, self._held = cache, held
        self._at, self._end = start, end
        self._block, self._number = memoryview(b""), -1
        self._source: Reader | None = None
        self._next = -1  # the block that the source gives next
        self._claimed: dict[int, int] = {}  # blocks it fetches, or will next: by which thread
        self._spare = memoryview(b"")  # read before, perhaps being written
        self._writer: futures.ThreadPoolExecutor | None = None
        self._written: futures.Future[None] | None = None

    def readinto(self, target: bytearray | memoryview, /) -> int:
        view, filled = memoryview(target).cast("B"), 0
        while filled < len(view) and self._at < self.bytes:
            number, inside = divmod(self._at, BLOCK_BYTES)
            if number != self._number:
                self._load(number)
            piece = self._block[inside : inside + len(view) - filled]
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._at += len(piece)
        return filled

    def read_ahead(self) -> None:
        """Ask for the first block, and what follows, unless it is here, or others fetch it."""
        if self._source is None and self._absent(0) and self._claim(0, 0):
            source = self._open_source(0)
            if isinstance(source, BeginsAhead):
                source.read_ahead()

    def _load(self, number: int) -> None:
        if self._number < 0:  # an error came between: the next buffer may be the one that is being written
            self._wait()
        self._number = -1
        self._spare, self._block = self._block, self._spare
        block = memoryview(self._block.obj if self._block else bytearray(BLOCK_BYTES))
        self._block = block = block[: self.bytes - number * BLOCK_BYTES]
        if self._cache.load(self._held.place, number, block):
            self._release(number)
            self._wait()
        else:
            self._load_or_fetch(number, block)
        self._number = number

    def _load_or_fetch(self, number: int, block: memoryview) -> None:
        """Take a block that others are fetching once they have it, else fetch it.

        Who fetches one claims the next before it lets others go on: they follow and do not overtake.
        """
        if not self._claim(number, WAIT_S):
            log.warning("%s: who fetches a part of it takes long: fetching it, too", shown(self._held.url))
        elif self._cache.load(self._held.place, number, block):
            self._release(number)
            self._wait()
            return
        try:
            self._fetch(number, block)
        except WlshardError:
            _known.pop(self._held.url, None)  # who begins again sees what is there now
            raise
        if self._absent(number + 1):
            self._claim(number + 1, 0)
        self._wait()
        if self._end is None and (number + 1) * BLOCK_BYTES < self.bytes:
            self._writer = self._writer or futures.ThreadPoolExecutor(1, "wlshard cache")
            with suppress(RuntimeError):  # no more threads, or none at the process's end
                self._written = self._writer.submit(self._keep, number, block)
        if self._written is None:
            self._keep(number, block)

    def _keep(self, number: int, block: memoryview) -> None:
        self._cache.keep(self._held.place, number, block)
        self._release(number)

    def _wait(self) -> None:
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def _claim(self, number: int, wait_s: float) -> bool:
        if number not in self._claimed and self._cache.claim(self._held.place, number, wait_s):
            self._claimed[number] = threading.get_ident()
        return number in self._claimed

    def _release(self, number: int) -> None:
        if (thread := self._claimed.pop(number, None)) is not None:
            self._cache.release(self._held.place, number, thread)

    def _fetch(self, number: int, block: memoryview) -> None:
        if self._source is None or self._next != number:
            self._open_source(number)
        assert self._source is not None
        count = self._source.readinto(block)
        if count != len(block):
            raise StoreUnavailable(
                "the object ends before its size: begin again", url=self._held.url, offset=self._at + count
            )
        self._held.check()
        self._next = number + 1

    def _open_source(self, number: int) -> Reader:
        self._close_source()
        self._source = source = self._held.open(number * BLOCK_BYTES, self._absent_up_to(number))
        self._next = number
        return source

    def _absent_up_to(self, number: int) -> int | None:
        """Give where the next block that is here, or comes, begins, or the reading is meant to end.

        None: nowhere. A part is asked for in one request, so that all of it is claimed first.
        """
        while self._absent(number + 1) and (self._end is None or self._claim(number + 1, 0)):
            number += 1
            if not self._absent(number):  # it has come in between
                self._release(number)
                number -= 1
                break
        end = (number + 1) * BLOCK_BYTES
        return None if end >= self.bytes else end

    def _absent(self, number: int) -> bool:
        """Tell whether this block is meant to be read, and not here."""
        end = self.bytes if self._end is None else min(self._end, self.bytes)
        return number * BLOCK_BYTES < end and not self._cache.has(self._held.place, number)

    def _close_source(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.shutdown()
        for number in list(self._claimed):
            self._release(number)
        self._close_source()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_cached(store: Store, name: str, start: int = 0, end: int | None = None) -> Reader:
    """Open a shard as `Store.open` does, through the cache where there is one.

    A shard that lies on the cache's own file system, or whose versions cannot be told apart, is read where it
    is. Which version is there now is asked at each open; where `end` is given, once in a minute.
    """
    cache = cache_for(store.url) if store.can.shared else None
    if cache is None:
        return store.open(name, start, end)
    url = object_url(store.url, name)
    if start == 0 and end is None and not store.can.local:
        from wlshard.store.ranges import take_begun

        if (begun := take_begun(url)) is not None:
            return begun
    until, asked, held = _known.get(url, (0.0, None, None))
    if end is None or asked is not cache or clock.monotonic() >= until:
        held = (_held_file if store.can.local else _held_object)(cache, store, name, url)
        _known[url] = clock.monotonic() + FRESH_S, cache, held
    return store.open(name, start, end) if held is None else CachedReader(cache, held, start, end)


def _held_file(cache: Cache, store: Store, name: str, url: str) -> Held | None:
    path = store.path(name)
    assert path is not None

    def state() -> os.stat_result:
        with errors_of(url):
            return os.stat(path)

    found = state()
    if not stat.S_ISREG(found.st_mode) or cache.on_device(found.st_dev):
        return None
    return _held_by(
        cache, store, name, os.path.realpath(path), lambda: (state().st_size, state().st_mtime_ns)
    )


def _held_object(cache: Cache, store: Store, name: str, url: str) -> Held | None:
    from wlshard.store.far import FarStore

    if not isinstance(store, FarStore):
        return _held_by(cache, store, name, url, lambda: store.stat(name)[1:])
    version = store.version(name)
    if version is None or version.size is None or version[:2] == (None, None):
        return None
    opened = partial(store.open_version, name, version)
    return Held(url, cache.place(url, repr(version)), version.size, opened, int)


def _held_by(cache: Cache, store: Store, name: str, url: str, state: Callable[[], tuple[int, float]]) -> Held:
    """Tell versions apart by size and time alone."""
    first = state()

    def check() -> None:
        if state() != first:
            raise StoreUnavailable("the object changed while it was read: begin again", url=url)

    return Held(url, cache.place(url, repr(first)), first[0], partial(store.open, name), check)


_known: dict[str, tuple[float, Cache | None, Held | None]] = {}
