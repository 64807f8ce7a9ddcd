"""A shard that tells its count and gives any run of samples, through its index."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from types import TracebackType
from typing import Self

from wlshard.errors import AccessDenied, NotFound, TarError, UsageError
from wlshard.sample import KEY, Sample
from wlshard.shards.grouping import Grouper, split_raw
from wlshard.shards.reader import OnError, link_table, read_samples, reopens
from wlshard.shards.scanned import count_samples, find_starts
from wlshard.shards.spans import Fetched, Span, mapped
from wlshard.shards.tally import Tally
from wlshard.shards.watch import watched
from wlshard.store.base import Reader, Store
from wlshard.store.cached import open_cached
from wlshard.store.connect import is_local, locate
from wlshard.tar.blocks import blocks_of_this_thread
from wlshard.tar.common import Likeness
from wlshard.tar.compression import plain
from wlshard.tar.header import END_MARK
from wlshard.tar.index import Index, ListedShard, index_name, parse_index
from wlshard.tar.links import Hopper, LinkTable
from wlshard.tar.rare import HEADER_BYTES, REGULAR, parse_header, text
from wlshard.tar.reader import scan
from wlshard.tar.tape import MAX_MEMBER_BYTES

READ_AHEAD_BYTES = 1 << 20  # in the kernel's page cache; twice that is asked for at a time
_STRIPS = 64  # places in one shard that are read on from


class ShardAccess:
    """One shard, opened at first use: its count of samples, any run of them, or all from one on.

    The index is the `.idx` beside the shard. A local shard without one is scanned once (its headers), and
    what was found is kept in `cache_dir` (default `$XDG_CACHE_HOME/wlshard/index`), never beside the shard. A
    remote shard without one, and a compressed one, only stream. Holds 8 bytes a sample and no open file.
    `on_error="skip"`: what a scan or a stream finds damaged is counted in `tally`, logged and left out.
    """

    def __init__(
        self,
        url: str,
        cache_dir: str | None = None,
        *,
        on_error: OnError = "raise",
        tally: Tally | None = None,
        max_member_bytes: int = MAX_MEMBER_BYTES,
    ) -> None:
        self.url = url
        self._cache_dir = cache_dir
        self._on_error = on_error
        self._tally = Tally() if tally is None else tally
        self._max_member_bytes = max_member_bytes
        self._known = False
        self._looking = threading.Lock()
        self._index: Index | None = None
        self._scanned = False  # the index was found by a scan
        self._compressed = False
        self._count: int | None = None
        self._advised: dict[int, int] = {}  # where a run ended: up to where the kernel has been told
        self._like = Likeness()
        self._located: tuple[Store, str] | None = None
        self._link_table: LinkTable | None = None

    @property
    def samples(self) -> int | None:
        """How many samples there are; None when only streaming will tell. May read the index or the shard."""
        index = self._look()
        if index is not None:
            return index.samples
        if self._compressed and self._count is None:
            # What is damaged is told and counted when it is met while streaming.
            self._count = count_samples(self.url, self._cache_dir, self._on_error, Tally(quiet=True))
        return self._count

    @property
    def seekable(self) -> bool:
        """Whether `read` works. May read the index or scan the shard."""
        return self._look() is not None

    def fetch(self, first: int, count: int) -> memoryview | None:
        """Fetch what `read` of these samples will parse; None without an index. Any thread may."""
        index = self._look()
        if index is None or not 0 <= first <= first + count <= index.samples:
            return None  # for read to say
        begin, end = index.starts[first], index.starts[first + count] + HEADER_BYTES
        data = memoryview(blocks_of_this_thread().take(end - begin))[: end - begin]
        with self._open(begin, end) as source:
            return data[: source.readinto(data)]

    def read(self, first: int, count: int, fetched: memoryview | None = None) -> list[Sample]:
        """Read samples first … first + count - 1 with one ranged read, or from what `fetch` gave.

        Fields are read-only views into one buffer, which is used again once all of them are gone. Local
        shards: what follows is asked to be read ahead. TarError where the index and the tar disagree;
        UsageError outside the shard.
        """
        index = self._look()
        if index is None:
            raise UsageError("this shard only streams: it is compressed, or has no index", url=self.url)
        if first < 0 or count < 0 or first + count > index.samples:
            raise UsageError(f"samples {first} to {first + count} of {index.samples}", url=self.url)
        if not count:
            return []
        begin, end = index.starts[first], index.starts[first + count]
        with self._open(begin, end + HEADER_BYTES) if fetched is None else Fetched(fetched) as opened:
            source = mapped(opened, begin, end + HEADER_BYTES, count) or opened
            try:
                samples = self._run(source, index, first, count)
                last = first + count == index.samples
                if not (last and self._scanned and self._on_error == "skip"):  # damage may follow
                    self._check_next(source, end, samples[-1][KEY], last=last)
            except TarError as error:
                if not self._scanned:
                    error.message += "; or the index beside it is of another tar"
                raise
            self._read_ahead(opened, begin, end)
        return samples

    def stream(self, first: int = 0) -> Iterator[Sample]:
        """Yield the samples from one on, to the end; without an index, from the start, passing over them.

        TarError where the index announces another number of samples.
        """
        index = self._look() if first else self._index
        if index is None or not first:
            samples = read_samples(
                self.url,
                on_error=self._on_error,
                tally=self._tally,
                max_member_bytes=self._max_member_bytes,
            )
            yield from islice(samples, first, None)
            return
        if first > index.samples:
            raise UsageError(f"sample {first} of {index.samples}", url=self.url)
        start, count = index.starts[first], 0
        with self._open(start) as source:
            steps = scan(
                source, self.url, start=start, links=self._links(), max_member_bytes=self._max_member_bytes
            )
            with closing(steps):
                for sample in Grouper(self.url, self._tally, skip=self._on_error == "skip").samples(steps):
                    yield sample
                    count += 1
        if first + count != index.samples and self._on_error == "raise":
            raise _disagreement(f"{index.samples} samples announced, {first + count} found", self.url)

    def close(self) -> None:
        """Forget what is known of the shard. May be called twice."""
        self._known, self._index, self._compressed, self._count = False, None, False, None
        self._advised.clear()
        blocks_of_this_thread().trim()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, at: int, end: int | None = None) -> Reader:
        if self._located is None:
            self._located = locate(self.url)
        store, name = self._located
        return watched(lambda: open_cached(store, name, at, end))

    def _look(self) -> Index | None:
        """Find the index, once."""
        with self._looking:
            if not self._known:
                self._index = None if self.url == "-" else self._find()
                self._known = True
            return self._index

    def _find(self) -> Index | None:
        if isinstance(self.url, ListedShard):
            return self.url.known
        store, name = locate(self.url)
        size = None
        if is_local(self.url):
            size = store.stat(name).bytes
            if not reopens(self.url):
                return None  # a named pipe
            with self._open(0) as source:
                self._compressed = plain(source, self.url)[1] is not None
            if self._compressed:
                return None
        try:
            index = parse_index(store.read(index_name(name)), self.url)
        except (NotFound, AccessDenied):  # buckets that may not be listed deny what is not there
            if size is None:
                return None
            self._scanned = True
            return Index(self.url, find_starts(self.url, self._cache_dir, self._on_error, self._tally))
        if size is not None and index.starts[-1] + len(END_MARK) > size:
            raise _disagreement(f"it speaks of {index.starts[-1]} bytes, the tar has {size}", self.url)
        return index

    def _links(self) -> LinkTable | None:
        if self._link_table is None:
            self._link_table = link_table(self.url)
        return self._link_table

    def _run(self, source: Reader, index: Index, first: int, count: int) -> list[Sample]:
        """Parse the next bytes of source as a run of samples, each where the index says."""
        starts, begin = index.starts, index.starts[first]
        lead = source.lead if isinstance(source, Fetched) else 0
        bytes_wanted = lead + starts[first + count] - begin
        steps = scan(
            Span(source, bytes_wanted),
            self.url,
            start=begin - lead,
            lead=lead,
            span=True,
            links=self._links(),
            blocks=source if isinstance(source, Fetched) else None,
            like=self._like,
            block_bytes=bytes_wanted + 1,  # room for more, so that the end is met at the first read
            max_member_bytes=self._max_member_bytes,
        )
        # What a scan found damaged has been told, and lies between the samples it found good.
        skip = self._on_error == "skip" and self._scanned
        grouper = Grouper(self.url, Tally(quiet=True) if skip else self._tally, skip=skip)
        samples: list[Sample] = []
        with closing(steps):
            for sample in grouper.samples(steps):
                place = first + len(samples)
                if skip and (len(samples) == count or grouper.at != starts[place]):
                    continue
                if len(samples) == count or not starts[place] <= grouper.at < starts[place + 1]:
                    raise _disagreement("a sample begins where none is announced", self.url, grouper.at)
                samples.append(sample)
        if len(samples) != count:
            raise _disagreement(f"{count} samples announced, {len(samples)} found", self.url, begin)
        return samples

    def _check_next(self, source: Reader, end: int, key: str, *, last: bool) -> None:
        """Check that what follows a run is neither more of its last sample nor unknown to the index."""
        head = memoryview(bytearray(HEADER_BYTES))
        if source.readinto(head) < HEADER_BYTES:
            raise TarError(
                "the tar has no end mark, it is cut: fetch or write it again", url=self.url, offset=end
            )
        if not any(head):
            if not last:
                raise _disagreement("the tar ends before it", self.url, end)
            return
        header = parse_header(bytes(head))
        split = split_raw(header.name)
        if header.kind not in REGULAR or split is None:
            split = self._next_split(end)  # behind a PAX header, a long name, a directory, a dotfile
        if split is None:
            return
        if _text(split[0]) == key:
            raise _disagreement("it cuts a sample in two", self.url, end)
        if last:
            raise _disagreement("the tar goes on behind it", self.url, end)

    def _next_split(self, offset: int) -> tuple[bytes, int] | None:
        with Hopper(self._open) as source:
            source.seek(offset)
            for found in scan(source, self.url, start=offset, payloads=False, seek=source.seek):
                for raw, *_ in found.members:
                    if (split := split_raw(text(raw[: found.name_bytes]))) is not None:
                        return split
                if found.fault is not None:
                    raise found.fault
        return None

    def _read_ahead(self, source: Reader, begin: int, end: int) -> None:
        """Tell the kernel what will be read next, if samples go on being read from here."""
        fileno = getattr(source, "fileno", None)  # local files
        if fileno is None or not hasattr(os, "posix_fadvise"):
            return
        told = max(end, self._advised.pop(begin, end))
        ahead = max(READ_AHEAD_BYTES, end - begin)
        if told < end + ahead:
            os.posix_fadvise(fileno(), told, end + 2 * ahead - told, os.POSIX_FADV_WILLNEED)
            told = end + 2 * ahead
        self._advised[end] = told
        if len(self._advised) > _STRIPS:
            del self._advised[next(iter(self._advised))]


def _disagreement(what: str, url: str, offset: int | None = None) -> TarError:
    return TarError(f"the index does not fit the tar ({what}): delete or rewrite it", url=url, offset=offset)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
