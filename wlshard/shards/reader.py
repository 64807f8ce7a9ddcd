"""Samples of one shard, in the order of the tar, while it is read."""

from __future__ import annotations

import os
import select
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import TracebackType
from typing import Literal, Self

from wlshard.errors import StoreUnavailable, UsageError
from wlshard.sample import Sample
from wlshard.shards.grouping import Grouper
from wlshard.shards.tally import Tally
from wlshard.shards.watch import watched
from wlshard.store.base import Reader
from wlshard.store.cached import open_cached
from wlshard.store.connect import is_local, is_pipe, local_path, locate
from wlshard.tar.blocks import blocks_of_this_thread
from wlshard.tar.compression import plain
from wlshard.tar.feed import Source
from wlshard.tar.links import LinkTable
from wlshard.tar.reader import Found, scan
from wlshard.tar.tape import MAX_MEMBER_BYTES

OnError = Literal["raise", "skip"]

_HOP_BLOCK_BYTES = 1 << 18  # read at each hop from header to header: several of them and small members
_LOOK_S = 0.25  # how often a read that waits for a writer looks whether stdin is another file now


def read_samples(
    url: str,
    *,
    on_error: OnError = "raise",
    copy: bool = False,
    tally: Tally | None = None,
    max_member_bytes: int = MAX_MEMBER_BYTES,
) -> Iterator[Sample]:
    """Yield the samples of a shard: dicts of fields, `__key__`, `__url__`; `-` is stdin.

    Fields are read-only memoryviews into blocks of 1 MiB (or of a larger payload's size) that live as long as
    a view of them does; the reading holds two, and leaves up to 128 MiB of idle ones to this thread's next.
    `copy=True` gives bytes instead. Nothing is opened before the first sample is asked for; the shard is
    closed at its end and when the generator is. Compressed shards are recognised by content. `tally` counts
    what was skipped.

    Raises TarError and GroupingError with url, member, key, offset after the samples before the fault; with
    `on_error="skip"` a fault costs the samples it touches, is counted and logged, and reading goes on behind
    it; 100 failures in a row are TooManyBadSamples.
    """
    if on_error not in ("raise", "skip"):
        raise UsageError(f'on_error is "raise" or "skip", not {on_error!r}', url=url)
    tally = Tally() if tally is None else tally
    with open_shard(url, cached=True) as source:
        tar, compression = plain(source, url)
        links = None if compression else link_table(url)
        steps = scan(
            tar,
            url,
            copy=copy,
            links=links,
            passed_over=tally.passed_over,
            max_member_bytes=max_member_bytes,
        )
        try:
            yield from Grouper(url, tally, skip=on_error == "skip").samples(steps)
        finally:
            steps.close()
            blocks_of_this_thread().trim()


def open_shard(url: str, start: int = 0, *, cached: bool = False) -> Reader:
    """Open a shard for one sequential read; `-` is stdin, which is not closed.

    cached: through this machine's cache, where one was asked for.
    """
    if url == "-":
        return watched(_Stdin)
    store, name = locate(url)
    return watched(lambda: open_cached(store, name, start) if cached else store.open(name, start))


def in_turn(urls: Sequence[str]) -> AbstractContextManager[None]:
    """Inside the block, begin shards that are far away before the one that is read before them has ended."""
    if any(url == "-" or is_local(url) or is_pipe(url) for url in urls):
        return nullcontext()
    from wlshard.store.ranges import reading_in_turn

    return reading_in_turn(urls, _open_unwatched)


def _open_unwatched(url: str) -> Reader:
    return open_cached(*locate(url))


def link_table(url: str) -> LinkTable | None:
    """Give what resolves the hard links of a plain tar; None where it cannot be opened again."""
    return LinkTable(url, lambda at: open_shard(url, at)) if reopens(url) else None


def reopens(url: str) -> bool:
    """Tell whether the shard can be opened again at any byte, at no cost: a local file."""
    return url != "-" and is_local(url) and os.path.isfile(local_path(url))


def scan_headers(
    source: Reader, tar: Source, url: str, passed_over: dict[str, int] | None = None
) -> Generator[Found, None, None]:
    """Scan a tar for headers alone: large payloads of a local file are jumped over."""
    fileno = getattr(source, "fileno", None)
    seek = None if fileno is None or not reopens(url) else partial(_lseek, fileno())
    return scan(tar, url, payloads=False, seek=seek, block_bytes=_HOP_BLOCK_BYTES, passed_over=passed_over)


def _lseek(fd: int, offset: int) -> None:
    os.lseek(fd, offset, os.SEEK_SET)


class _Stdin:
    """The process's standard input, read past Python's buffer.

    Who puts another file under its number ends a read that waits for a writer, in whichever thread.
    """

    bytes: int | None = None

    def readinto(self, target: bytearray | memoryview, /) -> int:
        view, filled = memoryview(target), 0
        try:
            while filled < len(view):
                while not select.select([0], [], [], _LOOK_S)[0]:
                    pass
                if not (count := os.readv(0, [view[filled:]])):
                    break
                filled += count
        except OSError as error:
            raise StoreUnavailable(f"reading stdin failed: {error.strerror}", url="-") from error
        return filled

    def close(self) -> None:
        """Leave it open: it is not ours."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
