"""What an epoch reads: shards with their counts, or a plain iterable of samples that stands for one shard."""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar

from wlshard.errors import LostLease, NotFound
from wlshard.sample import Sample
from wlshard.shards.access import ShardAccess
from wlshard.shards.reader import OnError
from wlshard.shards.tally import Tally
from wlshard.store.connect import is_local, is_pipe, locate
from wlshard.stream.order import Line, Shape, shard_order
from wlshard.stream.rows import Rows
from wlshard.tar.blocks import Blocks, use_blocks
from wlshard.tar.index import SizedShard

T = TypeVar("T")

# What is read at a time, so that pieces of a few samples do not make as many requests. Of local files the
# kernel is told besides what comes next (see ShardAccess): to hold more of many strips than a processor's
# cache has costs more than to ask more often.
READ_BYTES = 2**20
LOCAL_READ_BYTES, LOCAL_STRIP_BYTES = 2**18, 2**16

FETCHERS = 32  # threads that fetch pieces from afar, each costs a round trip
AHEAD_BYTES = 3 * FETCHERS * READ_BYTES // 2  # of pieces on their way, and a window more

# A rank reads 12 · 16 strips, each within one shard or at the edge of two.
OPEN_SHARDS = 2 * 12 * 16


class Shard(Protocol):
    """One shard, open: `samples` is None when it can only be streamed to know."""

    @property
    def samples(self) -> int | None: ...

    @property
    def seekable(self) -> bool: ...

    def fetch(self, first: int, count: int) -> memoryview | None: ...

    def read(self, first: int, count: int, fetched: memoryview | None = None) -> list[Sample]: ...

    def stream(self, first: int = 0) -> Iterator[Sample]: ...

    def close(self) -> None: ...


class PoolShard(Protocol):
    """What a manifest says of a shard."""

    @property
    def bytes(self) -> int: ...

    @property
    def samples(self) -> int: ...


class Generation(Protocol):
    """What a pool says of a generation: its manifest."""

    @property
    def generation(self) -> int: ...

    @property
    def digest(self) -> str: ...

    @property
    def shards(self) -> Sequence[PoolShard]: ...


class Repeated:
    """A shard of which each sample stands `times` times."""

    def __init__(self, shard: Shard, times: int) -> None:
        self._shard = shard
        self._times = times
        self.seekable = shard.seekable
        self.close = shard.close

    @property
    def samples(self) -> int | None:
        stored = self._shard.samples
        return None if stored is None else stored * self._times

    def fetch(self, first: int, count: int) -> memoryview | None:
        return self._shard.fetch(*self._stored(first, count))

    def read(self, first: int, count: int, fetched: memoryview | None = None) -> list[Sample]:
        stored = self._shard.read(*self._stored(first, count), fetched)
        begin = first // self._times
        return [stored[number // self._times - begin] for number in range(first, first + count)]

    def stream(self, first: int = 0) -> Iterator[Sample]:
        begin, inside = divmod(first, self._times)
        rows = (row for row in self._shard.stream(begin) for _ in range(self._times))
        return islice(rows, inside, None)

    def _stored(self, first: int, count: int) -> tuple[int, int]:
        begin = first // self._times
        return begin, -(-(first + count) // self._times) - begin


class Data:
    """An ordered set of shards and what is known of it; shards are opened as they are read.

    `samples` and `counts` are None where a shard must be streamed to be counted. `digest` changes with the
    names (last part of the URL), sizes and counts of the shards. Holds the indexes of 384 shards at most.
    `opener(name, tally=…)` opens a shard. A copy, in this process or another, shares nothing that is open.
    """

    def __init__(
        self, names: Sequence[str], opener: Callable[..., Shard], generation: int | None = None
    ) -> None:
        self.names = names
        self.generation = generation
        self.counts: Sequence[int] | None = None
        self.samples: int | None = None
        self.seekable = False
        self.in_memory = False  # all of it, before anything is read
        self.digest = ""
        self.sample_bytes: float | None = None  # mean, as stored
        self.each_gives = 1  # samples made of one that is stored
        self.remote = not all(name == "-" or is_local(name) for name in names)
        self.read_bytes = READ_BYTES if self.remote else LOCAL_READ_BYTES
        self.strip_bytes = READ_BYTES if self.remote else LOCAL_STRIP_BYTES
        self.skipped = Tally()
        self._opener = opener
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._threads: tuple[int, ThreadPoolExecutor] | None = None  # of the process of this id

    def piece_bytes(self, strips: int) -> int:
        """Tell how much is read at a time of each of so many strips."""
        return self.strip_bytes if strips > 1 else self.read_bytes

    def count(self, counts: Sequence[int | None], size_bytes: int | None) -> None:
        """Take the samples of each shard and the bytes of all."""
        known = [count for count in counts if count is not None]
        if len(known) == len(counts):
            self.counts, self.samples = known, sum(known)
            if size_bytes and self.samples:
                self.sample_bytes = size_bytes / self.samples

    def repeat(self, times: int) -> None:
        """Let each stored sample stand so many times, one after the other, for what is made of it."""
        if self.each_gives == times:
            return
        assert self.each_gives == 1
        self.each_gives = times
        if self.counts is not None and self.samples is not None:
            self.counts, self.samples = [count * times for count in self.counts], self.samples * times
        if self.sample_bytes:
            self.sample_bytes /= times

    def line(self, shape: Shape, seed: int, epoch: int) -> Line:
        """Lay out an epoch's shards; their samples are known."""
        counts = self.counts or ()
        return Line(shard_order(len(counts), shape, seed, epoch), counts)

    def shard(self, number: int) -> Shard:
        """Give a shard, opened at first use; the one used longest ago is closed to make room."""
        shard = self._open.pop(number, None)
        if shard is None:
            shard = self._opener(self.names[number], tally=self.skipped)
            while len(self._open) >= OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
        self._open[number] = shard
        return shard if self.each_gives == 1 else Repeated(shard, self.each_gives)

    def __getstate__(self) -> dict[str, Any]:
        """Let another process open the shards for itself."""
        return {**self.__dict__, "_open": OrderedDict(), "_threads": None, "skipped": Tally()}

    def fetch(self, number: int, first: int, count: int) -> Future[memoryview | None]:
        """Begin to fetch what reading these samples of a shard will need."""
        return self._pool().submit(self.shard(number).fetch, first, count)

    def each(self, look: Callable[[Shard, str], T]) -> Generator[T, None, None]:
        """Look at each shard and its name: side by side where a look costs round trips."""
        for first in range(0, len(self.names), OPEN_SHARDS):
            names = self.names[first : first + OPEN_SHARDS]
            shards = [self.shard(first + number) for number in range(len(names))]
            yield from (self._pool().map if self.remote else map)(look, shards, names)

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None or self._threads[0] != os.getpid():
            name, ring = "wlshard fetch", Blocks()
            threads = ThreadPoolExecutor(FETCHERS, name, initializer=use_blocks, initargs=(ring,))
            self._threads = os.getpid(), threads
        return self._threads[1]

    def gone(self, error: NotFound) -> NotFound | LostLease:
        """Say what a missing shard means: in a pool, that the generation was retired while being read."""
        return error if self.generation is None else LostLease.by(error, self.generation)

    def close(self) -> None:
        if self._threads is not None and self._threads[0] == os.getpid():
            self._threads[1].shutdown(cancel_futures=True)
        self._threads = None
        while self._open:
            self._open.popitem()[1].close()


def _given(shard: Shard, _name: str, *, tally: Tally) -> Shard:  # noqa: ARG001
    return shard


def data_of_rows(rows: Iterable[Sample]) -> Data:
    """Take samples that the user holds. A list has a length and can be shuffled as a whole."""
    shard = Rows(rows)
    data = Data(["-"], partial(_given, shard))
    data.count([shard.samples], None)
    data.seekable = shard.seekable
    data.in_memory = isinstance(rows, list | tuple)
    data.digest = digest_of([("", None, shard.samples)])
    return data


def data_of_shards(urls: Sequence[str], cache_dir: str | None, on_error: OnError) -> Data:
    """Look at each shard of a list: its index or, locally, one scan gives the count; its store the size.

    One of them that cannot be read at random (compressed, or remote without an index, or `-`) makes the
    whole list a stream; behind a remote one nothing is asked of the others. Blocks for a stat and an index a
    shard. NotFound, TarError.
    """
    data = Data(urls, partial(ShardAccess, cache_dir=cache_dir, on_error=on_error))
    looked: list[tuple[int | None, int | None, bool]] = []
    try:
        with closing(data.each(_look)) as looks:
            while len(looked) < len(urls) and not (data.remote and looked and looked[-1][0] is None):
                looked.append(next(looks))
    except BaseException:
        data.close()  # nobody else knows of its threads
        raise
    looked += [(None, None, False)] * (len(urls) - len(looked))
    counts, sizes = [samples for samples, _, _ in looked], [size for _, size, _ in looked]
    data.count(counts, sum(size or 0 for size in sizes))
    data.seekable = bool(urls) and all(seekable for _, _, seekable in looked)
    names = [url.rpartition("/")[2] for url in urls]
    data.digest = digest_of(list(zip(names, sizes, counts, strict=True)))
    return data


def data_of_generation(manifest: Generation, urls: Sequence[str], cache_dir: str | None) -> Data:
    """Take a generation of a pool: its manifest knows all, no shard is opened now."""
    data = Data(urls, partial(ShardAccess, cache_dir=cache_dir), manifest.generation)
    data.count([shard.samples for shard in manifest.shards], sum(shard.bytes for shard in manifest.shards))
    data.seekable = True
    data.digest = manifest.digest
    return data


def digest_of(shards: Sequence[tuple[str, int | None, int | None]]) -> str:
    """Give 32 hex digits that stand for these names, sizes and counts, in this order."""
    return hashlib.sha256(json.dumps(shards).encode()).hexdigest()[:32]


def _look(shard: Shard, url: str) -> tuple[int | None, int | None, bool]:
    """Find a shard's samples, bytes, and whether it can be read at random."""
    samples, size = shard.samples, url.bytes if isinstance(url, SizedShard) else None
    if size is None and url != "-" and not is_pipe(url):
        store, name = locate(url)
        size = store.stat(name).bytes
    return samples, size, shard.seekable
