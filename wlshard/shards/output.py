"""One shard under a name of the user's: whole or absent, compressed by its name, or a stream on stdout."""

from __future__ import annotations

from typing import Self

from wlshard.errors import GroupingError, NotFound
from wlshard.sample import KEY, Sample
from wlshard.shards.growing import GrowingShard, encode_sample
from wlshard.shards.packing import Packed, compressor, open_stdout
from wlshard.shards.target import ClosedShard, PlainTarget
from wlshard.store.base import Draft, Store
from wlshard.store.connect import locate

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
    Holds up to 1 MiB of samples, and about 100 bytes a member.
    """

    def __init__(self, url: str, *, force: bool = False) -> None:
        self.url = url
        self._compressor = compressor(url)
        self._target = None if url == STDOUT else NamedTarget(url, force=force)
        self._shard: GrowingShard | None = None

    @property
    def samples(self) -> int:
        return 0 if self._shard is None else self._shard.samples

    def write(self, sample: Sample) -> None:
        """Take a sample, which has a key; its buffers may be reused after return.

        GroupingError: a key that is missing, there already or not fit; CodecError: a value that does not
        encode. StoreUnavailable: the store refuses. BrokenPipeError: who read our stdout is gone.
        """
        assert self._shard is not None, "entered"
        key = sample.get(KEY)
        if key is None:
            raise GroupingError("a sample without a key: give it its __key__")
        self._shard.add(encode_sample(key, sample))

    def __enter__(self) -> Self:
        target = self._target
        draft: Draft = open_stdout() if target is None else target.open_draft(1)
        if target is None or self._compressor is not None:
            draft = Packed(draft, self._compressor)
        self._shard = GrowingShard(draft, sha256=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._shard is not None
        try:
            if kind is None:
                self._publish(self._shard)
        finally:
            self._shard.scratch.draft.discard()

    def _publish(self, shard: GrowingShard) -> None:
        shard.flush()
        if not shard.samples:
            shard.scratch.write([])
        index, _ = shard.finish()
        draft = shard.scratch.draft
        if self._target is None:
            draft.sync()
            return
        plain = self._compressor is None
        closed = ClosedShard(1, shard.samples, shard.tar_bytes, index if plain else b"", "")
        self._target.publish(draft, closed)


def is_there(url: str) -> bool:
    """Tell whether an output of this name exists."""
    if url == STDOUT:
        return False
    store, name = locate(url)
    try:
        store.stat(name)
    except NotFound:
        return False
    return True
