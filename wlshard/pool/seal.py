"""Sealing: a whole shard becomes visible under its final name, and with that joins the write buffer."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from wlshard.errors import GroupingError, NotFound, StoreUnavailable
from wlshard.pool.names import SHARDS, ShardName, new_writer, scratch_name
from wlshard.pool.schema import Schema, fix_schema, read_schema
from wlshard.sample import Sample
from wlshard.shards.writer import ClosedShard
from wlshard.store.base import Buffer, Draft, Store
from wlshard.tar.index import index_name

if TYPE_CHECKING:
    from wlshard.pool.pool import Pool


def seal(store: Store, draft: Draft, name: ShardName, size: int, index: Buffer) -> bool:
    """Make a finished draft of `size` bytes durable and visible: index first, then the tar, then the folder.

    May be called again after any error. False: something else has the name, and stays as it is.
    """
    shown = _show(store, draft, name, size, index)
    if shown:
        _settle(store, draft)
    return shown


def _show(store: Store, draft: Draft, name: ShardName, size: int, index: Buffer) -> bool:
    tar = f"{SHARDS}/{name}"
    sealed = _present(store, tar, name, size)  # by an earlier try whose reply was lost, or by a salvager
    if sealed is None:
        draft.sync()
        if not _put_index(store, index_name(tar), index):
            return False
        sealed = draft.publish(tar) or bool(_present(store, tar, name, size))
    return sealed


def _settle(store: Store, draft: Draft) -> None:
    store.sync(SHARDS)
    draft.discard()


def _put_index(store: Store, name: str, index: Buffer) -> bool:
    """Put an index, or find it there. False: there is another."""
    if store.create(name, index):
        return True
    with suppress(NotFound):
        return store.read(name) == index
    # Swept in between, after a shard that an earlier try made visible.
    return store.create(name, index) or store.read(name) == index


def _present(store: Store, tar: str, name: ShardName, size: int) -> bool | None:
    """Tell whether the name holds the bytes it promises. None: it is free. Reads them where it is taken."""
    try:
        reader = store.open(tar)
    except NotFound:
        return None
    digest, block, found = hashlib.sha256(), memoryview(bytearray(1 << 20)), 0
    with reader:
        while count := reader.readinto(block):
            digest.update(block[:count])
            found += count
    return found == size and digest.hexdigest().startswith(name.sha256)


class SealingTarget:
    """Where a ShardWriter's shards go in a pool. Each process is a writer of its own, a forked one too.

    any_schema: samples need not be like those that are in the pool.
    """

    wants_sha256 = True

    def __init__(self, pool: Pool, *, any_schema: bool = False) -> None:
        self.pool = pool
        self._any = any_schema
        self._schema = Schema()
        self.writer: str | None = None
        self._pid = 0
        self._seq = 1  # of the shard being written, in this writer
        self._shown: ShardName | None = None

    def open_draft(self, seq: int) -> Draft:  # noqa: ARG002 — a new writer counts anew
        self.pool.require()  # or a folder that is no pool any more would be filled
        return self.pool.store.draft(scratch_name(self._begun(), self._seq))

    def admit(self, sample: Sample) -> None:
        if not self._any:
            self._begun()
            self._schema.take(sample)

    def publish(self, draft: Draft, shard: ClosedShard) -> str:
        self.pool.require()
        self.fix(draft)
        for _ in range(2):
            name = ShardName(self._begun(), self._seq, shard.samples, shard.sha256[:32])
            if self.seal(draft, shard, name):
                return self.pool.shard_url(str(name))
            self.writer = None
        advice = "its name is taken by other bytes, under two writer ids: see what writes into this folder"
        raise StoreUnavailable(advice, url=self.pool.shard_url(str(name)))

    def seal(self, draft: Draft, shard: ClosedShard, name: ShardName) -> bool:
        """Seal under this name. False: something else has it."""
        store = self.pool.store
        # What an earlier try has shown may have been promoted and swept since: it is not shown again.
        if self._shown != name and not _show(store, draft, name, shard.bytes, shard.index):
            return False
        self._shown = name
        _settle(store, draft)
        self._seq += 1
        return True

    def fix(self, draft: Draft) -> None:
        """Make the samples of the pool's first shard its schema. GroupingError: it is another's already."""
        if not self._any:
            try:
                self._schema = fix_schema(self.pool.store, self._schema)
            except GroupingError:
                draft.discard()  # or it would be salvaged
                raise

    def default_key(self, n: int) -> str:
        return f"{self._begun()}-{n:09d}"

    def _begun(self) -> str:
        """Give the writer id of this process, made at first need; dead writers are salvaged then."""
        if self.writer is None or self._pid != os.getpid():
            self.pool.salvage()
            self._schema = Schema() if self._any else read_schema(self.pool.store)
            self.pool.store.sync("")  # who made pool and schema may have died before this
            self.writer, self._pid, self._seq = new_writer(), os.getpid(), 1
        return self.writer
