"""Shards under names of the user's: whole or absent, compressed by the name, or a stream on stdout."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from tempfile import TemporaryFile, gettempdir
from typing import IO, Self

from wlshard.errors import UsageError
from wlshard.sample import KEY, Sample
from wlshard.shards.growing import GrowingShard
from wlshard.shards.packing import Packed, compressor, open_stdout
from wlshard.shards.target import ClosedShard, PlainTarget
from wlshard.store.base import EXISTS, Buffer, Draft, Store, exists
from wlshard.store.connect import locate
from wlshard.store.files import errors_of, write_all

STDOUT = "-"


class NamedTarget(PlainTarget):
    """The one shard of this name."""

    def __init__(self, url: str, *, force: bool = False) -> None:
        super().__init__(force=force)
        self._url = url

    def _locate(self, seq: int) -> tuple[Store, str]:  # noqa: ARG002 — there is only one
        return locate(self._url)


class OutputShard:
    """Write one shard: enter, `write` samples, leave; it is published at the end, an empty one too.

    After an exception inside nothing is published. The name decides: `.tar` has its index beside it,
    `.tar.gz`, `.tgz`, `.tar.zst` and `.tzst` are compressed without one, `-` is stdout, written as it comes.
    UsageError at the start: another ending, or an output that is there (unless `force` replaces it).
    Holds up to 1 MiB of samples, and about 100 bytes a member. lasting: as for `GrowingShard.add`.
    """

    def __init__(self, url: str, *, force: bool = False, lasting: bool = False) -> None:
        self.url = url
        self.bytes = 0  # of the finished tar, its end mark counted
        self._samples = 0  # of the finished shard
        self._lasting = lasting
        self._compressor = compressor(url)
        self._target = None if url == STDOUT else NamedTarget(url, force=force)
        self._draft: Draft | None = None
        self._shard: GrowingShard | None = None

    @property
    def samples(self) -> int:
        """Tell how many it has taken."""
        return self._samples if self._shard is None else self._shard.samples

    def write(self, sample: Sample) -> None:
        """Take a sample, which has a key; its buffers may be reused after return.

        GroupingError: a key that is missing, there already or not fit; CodecError: a value that does not
        encode. StoreUnavailable: the store refuses. BrokenPipeError: who read our stdout is gone.
        """
        shard = self._shard
        assert shard is not None, "entered"
        shard.add(sample.get(KEY), sample, lasting=self._lasting)

    def take(self, sample: Sample, most_bytes: int) -> bool:
        """Do so unless the shard has samples and would be larger than this with one more: then give False."""
        shard = self._shard
        assert shard is not None, "entered"
        return shard.add(sample.get(KEY), sample, lasting=self._lasting, most_bytes=most_bytes)

    def finish(self) -> bytes:
        """Put the whole shard on the disk, still without its name; give its index, empty if it has none."""
        shard, self._shard = self._shard, None
        assert shard is not None, "entered"
        shard.flush()
        if not shard.samples:
            shard.scratch.write([])
        self._samples, self.bytes = shard.samples, shard.tar_bytes
        shard.scratch.draft.sync()
        return shard.finish()[0] if self._compressor is None else b""

    def publish(self, index: Buffer) -> None:
        """Give the finished shard its name."""
        assert self._draft is not None, "entered"
        if self._target is not None:
            self._target.publish(self._draft, ClosedShard(1, self.samples, self.bytes, index, ""))

    def __enter__(self) -> Self:
        target = self._target
        draft: Draft = open_stdout() if target is None else target.open_draft(1)
        if target is None or self._compressor is not None:
            draft = Packed(draft, self._compressor)
        self._draft, self._shard = draft, GrowingShard(draft)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.publish(self.finish())
        finally:
            self.discard()

    def discard(self) -> None:
        """Drop it, unless it is published. May be called twice."""
        if self._draft is not None:
            self._draft.discard()


class OutputSet:
    """Write shards one after the other and publish all of them at the end: enter, `write` samples, leave.

    After an exception inside none is published. Whoever is killed leaves scratch, `*.partial`, that the next
    run drops; in the moment in which the shards get their names, the first ones. Shard n is called
    `named(n)`, and is full at `shard_samples(n)`, or before it would pass `shard_bytes` of tar (a single
    sample may be larger). There is a first one, though it be empty. Each shard keeps a file open until the
    end; the indexes wait in a file without a name in `scratch` (None: where temporary files are).

    `urls`: of the shards so far, which hold `samples` in `bytes` of tar.
    """

    def __init__(
        self,
        named: Callable[[int], str],
        shard_samples: Callable[[int], int],
        shard_bytes: int,
        *,
        force: bool = False,
        scratch: str | None = None,
    ) -> None:
        self.urls: list[str] = []
        self.samples = self.bytes = 0
        self._named, self._shard_samples, self._shard_bytes = named, shard_samples, shard_bytes
        self._force, self._scratch = force, scratch
        self._stack = ExitStack()
        self._open: OutputShard | None = None
        self._finished: list[tuple[OutputShard, int]] = []  # and where its index ends
        self._indexes: IO[bytes] | None = None

    def write(self, sample: Sample) -> None:
        """Take a sample, as `OutputShard.write` does."""
        shard = self._open
        assert shard is not None, "entered"
        full = shard.samples and shard.samples >= self._shard_samples(len(self._finished))
        if full or not shard.take(sample, self._shard_bytes):
            self._finish(shard)
            self._begin().write(sample)
        self.samples += 1

    def _begin(self) -> OutputShard:
        url = self._named(len(self._finished))
        self._open = shard = OutputShard(url, force=self._force)
        self._stack.callback(shard.discard)
        shard.__enter__()
        self.urls.append(url)
        return shard

    def _finish(self, shard: OutputShard) -> None:
        index, file = shard.finish(), self._indexes
        assert file is not None
        begin = self._finished[-1][1] if self._finished else 0
        with errors_of(self._scratch or gettempdir()):
            end = write_all(file.fileno(), [index], begin)
        self._finished.append((shard, end))
        self.bytes += shard.bytes

    def __enter__(self) -> Self:
        with errors_of(self._scratch or gettempdir()):
            self._indexes = self._stack.enter_context(TemporaryFile(buffering=0, dir=self._scratch))
        self._begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            if kind is None and self._open is not None and self._indexes is not None:
                self._finish(self._open)
                fd, begin = self._indexes.fileno(), 0
                for shard, end in self._finished:
                    shard.publish(os.pread(fd, end - begin, begin))
                    begin = end


def is_there(url: str) -> bool:
    """Tell whether an output of this name exists."""
    return url != STDOUT and exists(*locate(url))


def refuse_there(urls: Iterable[str]) -> None:
    """Raise UsageError if one of these outputs exists."""
    for url in urls:
        if is_there(url):
            raise UsageError(EXISTS, url=url)
