"""Objects that are far away, read ahead: ranged requests side by side, as many and as large as pays.

What decides is what the first request showed, and the last ones to the same host. Where answers come at
once, one stream at a time is fastest; where each costs a round trip, up to DEPTH of them are under way, each
about a tenth of a second long.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Self

from wlshard import clock
from wlshard.errors import WlshardError
from wlshard.store.base import BeginsAhead, Reader
from wlshard.store.patience import Patience
from wlshard.store.stream import Get, Stream, Version

FIRST_BYTES = 1 << 20
NEAR_S = 0.003  # to the first byte: no read-ahead
BUSY_S = 10 * NEAR_S  # a near server may take as long, where the processor has other work
LATELY = 8  # answers of one host
STEP_S = 0.007  # of latency for each request more
DEPTH = 8
SPAN_S = 0.1  # of transfer in one request
LARGEST_BYTES = 1 << 23
BEGIN_BYTES = 1 << 22  # before the pace is known
SMALLEST_BYTES = 1 << 18
AHEAD_BYTES = 2 * DEPTH * LARGEST_BYTES  # held at most: of the shard being read and of those after it


class RangedReader:
    """The bytes of one object from `start` on. Holds up to 64 MiB, and up to eight threads until `close`.

    end: where the caller means to stop; reading on is possible. version: another one is an error.
    """

    def __init__(
        self, get: Get, url: str, start: int, end: int | None, version: Version | None = None
    ) -> None:
        self.url = url
        self.asked_bytes = 0  # ahead
        self._start = start
        self._get = get
        self._closed = False
        self._patience = Patience(url, lambda: self._closed)
        self._next_at = start + FIRST_BYTES if end is None else end  # nobody has asked for this byte yet
        self._first = Stream(get, start, self._next_at, self._patience, version)
        self._foreground: Stream | None = self._first
        self._eager = end is None
        self._latency_s = 0.0
        self._block_bytes = BEGIN_BYTES
        self._blocks: deque[Future[memoryview]] = deque()
        self._left = memoryview(b"")  # of the first of them
        self._lock = threading.Lock()
        self._live: set[Stream] = {self._first}
        self._idle: list[bytearray] = []
        self._threads: ThreadPoolExecutor | None = None
        self._failure: WlshardError | None = None

    @property
    def bytes(self) -> int | None:
        return self._first.version.size if self._first.version else None

    @property
    def _far(self) -> bool:
        return self._first.ranged and self._latency_s >= NEAR_S and self.bytes is not None

    def open(self) -> Self:
        """Send the first request: what is absent or forbidden shows now."""
        began = clock.monotonic()
        self._first.open()
        self._latency_s = _latency_of(self.url, clock.monotonic() - began)
        if not self._first.ranged:
            self._first.end = None  # the server sends the whole object
        return self

    def readinto(self, target: bytearray | memoryview, /) -> int:
        view, filled = memoryview(target).cast("B"), 0
        if self._failure is not None:  # who reads on after an error must not take it for the end
            raise self._failure
        try:
            while filled < len(view):
                self.read_ahead()
                count = self._take(view[filled:])
                if not count:
                    break
                filled += count
        except WlshardError as failure:
            self._failure = failure
            self.close()
            raise
        return filled

    def read_ahead(self) -> None:
        """Ask for what comes next, as far as there is room."""
        size = self.bytes
        if self._closed or not self._eager or not self._far or size is None:
            return
        depth = min(DEPTH, 1 + round(self._latency_s / STEP_S))
        while self._next_at < size and len(self._blocks) < depth:
            end = min(self._next_at + self._block_bytes, size)
            self._blocks.append(self._pool(depth).submit(self._fetch, self._next_at, end))
            self._next_at = end
        self.asked_bytes = min(self._next_at, size) - self._start
        if self._next_at >= size:
            _begin_next(self, self._pool(depth))

    def _pool(self, depth: int) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(depth, thread_name_prefix="wlshard ranges")
        return self._threads

    def _take(self, view: memoryview) -> int:
        """Give some bytes; 0 at the object's end."""
        while True:
            if not self._left and self._foreground is None:
                if not self._blocks:
                    return 0
                self._left = self._blocks[0].result()
            if self._left:
                return self._from_block(view)
            assert self._foreground is not None
            if count := self._foreground.readinto(view):
                return count
            self._eager = True
            self._foreground = self._next_foreground()
            self.read_ahead()

    def _from_block(self, view: memoryview) -> int:
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        if not self._left:
            buffer = self._blocks.popleft().result().obj
            assert isinstance(buffer, bytearray)
            with self._lock:
                self._idle.append(buffer)
        return count

    def _next_foreground(self) -> Stream | None:
        """Go on with one stream to the end, where there is no use in several."""
        size, at = self.bytes, self._next_at
        if self._far or not self._first.ranged or (size is not None and at >= size):
            return None
        if size is None and self._first.at < at:
            return None  # the object ended before
        self._next_at = 1 << 62 if size is None else size
        stream = Stream(self._get, at, size, self._patience, self._first.version)
        self._live = {stream}
        return stream

    def _fetch(self, at: int, end: int) -> memoryview:
        stream = Stream(self._get, at, end, self._patience, self._first.version)
        with self._lock:
            buffer = self._idle.pop() if self._idle else bytearray(LARGEST_BYTES)
            self._live.add(stream)
        view = memoryview(buffer)[: end - at]
        try:
            began = clock.monotonic()
            if not self._closed:
                stream.readinto(view)
            took_s = clock.monotonic() - began - self._latency_s
            wanted = (end - at) * SPAN_S / max(took_s, 1e-3)
            self._block_bytes = int(min(max(wanted, SMALLEST_BYTES), 2 * (end - at), LARGEST_BYTES))
        finally:
            with self._lock:
                self._live.discard(stream)
            stream.close()
        return view

    def close(self) -> None:
        self._closed = True
        with self._lock:
            live = list(self._live)
        for stream in live:
            stream.stop()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        for stream in live:
            stream.close()
        self._left, self._foreground = memoryview(b""), None
        self._blocks.clear()
        self._idle.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_ranged(
    get: Get, url: str, start: int, end: int | None, version: Version | None = None
) -> RangedReader:
    """Open an object, or take the reader that was begun for it."""
    if start == 0 and end is None and isinstance(begun := take_begun(url), RangedReader):
        return begun
    reader = RangedReader(get, url, start, end, version)
    try:
        return reader.open()
    except BaseException:
        reader.close()
        raise


def _latency_of(url: str, waited_s: float) -> float:
    """Give how far away a host is, by this answer and the last ones: one may be late on a busy machine."""
    host = url.split("/", 3)[2]
    lately = _lately[host] = (*_lately.get(host, ())[1 - LATELY :], waited_s)
    least_s = min(lately)
    return least_s if least_s < NEAR_S and waited_s < BUSY_S else waited_s


_lately: dict[str, tuple[float, ...]] = {}


def take_begun(url: str) -> Reader | None:
    """Give the reader that was begun for an object when the one before it came to its end."""
    ours = getattr(_this_thread, "begins", None) == url  # what is begun here must not wait for itself
    if not ours and (begun := _begun.pop(url, None)) is not None:
        _ahead.pop(url, None)
        with suppress(CancelledError):
            return begun.result()
    return None


_next: dict[str, tuple[str, Callable[[str], Reader]]] = {}  # by URL: what is read after it, how to open it
_begun: dict[str, Future[BeginsAhead]] = {}
_this_thread = threading.local()
_ahead: dict[str, int] = {}  # bytes asked for by readers that were begun


@contextmanager
def reading_in_turn(urls: Sequence[str], opener: Callable[[str], Reader]) -> Iterator[None]:
    """Inside the block, begin each of these objects once the last byte of the one before is asked for."""
    for url, after in pairwise(urls):
        _next[url] = after, opener
    try:
        yield
    finally:
        for url in urls:
            _next.pop(url, None)
        for url in urls:  # in their order: one that is being begun may begin the one after it
            if (begun := _begun.pop(url, None)) is not None:
                with suppress(WlshardError, CancelledError):
                    begun.result().close()
            _ahead.pop(url, None)


def _begin_next(reader: RangedReader, threads: ThreadPoolExecutor) -> None:
    if reader.url in _ahead:
        _ahead[reader.url] = reader.asked_bytes
    if sum(_ahead.values()) < AHEAD_BYTES // 2 and (found := _next.pop(reader.url, None)) is not None:
        after, opener = found
        _ahead[after] = 0
        _begun[after] = threads.submit(_begin, opener, after)


def _begin(opener: Callable[[str], Reader], url: str) -> BeginsAhead:
    _this_thread.begins = url
    try:
        reader = opener(url)
        if not isinstance(reader, BeginsAhead):  # of another kind of store: it is opened in its turn
            reader.close()
            raise CancelledError
        try:
            reader.read_ahead()
        except BaseException:
            reader.close()
            raise
    finally:
        _this_thread.begins = None
    return reader


def _leave_to_parent() -> None:
    for held in (_next, _begun, _ahead):
        held.clear()


os.register_at_fork(after_in_child=_leave_to_parent)
