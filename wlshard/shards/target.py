"""Where a writer's shards go: what it asks of any target, and plain shards numbered by a template."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from wlshard.errors import NotFound, StoreUnavailable, UsageError
from wlshard.sample import Sample
from wlshard.store.base import EXISTS, Buffer, Draft, Store, object_url
from wlshard.store.connect import locate
from wlshard.tar.index import index_name

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClosedShard:
    """A shard that is complete in its draft: all that a target needs to name it."""

    seq: int  # from 1, within its writer
    samples: int
    bytes: int
    index: Buffer  # empty: it has none
    sha256: str  # of the whole tar, hex; "" unless the target wants it


class Target(Protocol):
    """Where a writer's shards go."""

    wants_sha256: bool

    def admit(self, sample: Sample) -> None:
        """Look at a sample before it is taken. GroupingError: it may not come in."""
        ...

    def open_draft(self, seq: int) -> Draft:
        """Start the shard number `seq` (from 1). UsageError if its output is there already."""
        ...

    def publish(self, draft: Draft, shard: ClosedShard) -> str:
        """Make the shard durable and visible, its index first; give its URL.

        Called again with the same shard after an error.
        """
        ...

    def default_key(self, n: int) -> str:
        """Give the key of the writer's sample number n (from 0) that has none."""
        ...


class PlainTarget:
    """Plain shards, each with its index beside it; where number `seq` goes is the subclass's to say.

    force: replace outputs that are there; they are refused (UsageError) otherwise.
    """

    wants_sha256 = False

    def __init__(self, *, force: bool = False) -> None:
        self._force = force
        self._named = 0  # the newest shard whose tar has its name

    def admit(self, sample: Sample) -> None:
        """Take any."""

    def open_draft(self, seq: int) -> Draft:
        store, name = self._locate(seq)
        if not self._force:
            self._refuse_existing(store, name)
        left = store.reopen(name)
        if left is not None:
            log.warning(
                "%s.partial was left by a writer that died: it is dropped", object_url(store.url, name)
            )
            store.drop(name)
            left.close()
        return store.draft(name)

    def publish(self, draft: Draft, shard: ClosedShard) -> str:
        store, name = self._locate(shard.seq)
        if self._named != shard.seq:  # else an earlier try came that far
            draft.sync()
            self._give_name(store, name, draft, shard.index)
            self._named = shard.seq
        store.sync("")
        if self._force and shard.index:
            store.put(index_name(name), shard.index)
        return object_url(store.url, name)

    def _give_name(self, store: Store, name: str, draft: Draft, text: Buffer) -> None:
        index = index_name(name)
        if self._force:
            # An index must never stand beside another tar than its own, whenever the power fails.
            if text:
                store.delete(index)
                store.sync("")
            draft.publish(name, replace=True)
            return
        if text and not store.create(index, text):
            self._refuse_existing(store, name)
            store.put(index, text)  # one without its tar, left by a writer that died
        if not draft.publish(name):
            self._refuse_existing(store, name)
            raise StoreUnavailable(
                "its name was taken for a moment: try again", url=object_url(store.url, name)
            )

    def default_key(self, n: int) -> str:
        return f"{n:09d}"

    def _locate(self, seq: int) -> tuple[Store, str]:
        raise NotImplementedError

    @staticmethod
    def _refuse_existing(store: Store, name: str) -> None:
        try:
            store.stat(name)
        except NotFound:
            return
        url = object_url(store.url, name)
        raise UsageError(EXISTS, url=url)


class TemplateTarget(PlainTarget):
    """Plain shards `x-%06d.tar`, numbered from 0."""

    def __init__(self, template: str, *, force: bool = False) -> None:
        super().__init__(force=force)
        self._template = template
        try:
            first, second = template % 0, template % 1
        except (TypeError, ValueError) as error:
            raise UsageError(f"not a template ({error}): write it like x-%06d.tar", url=template) from error
        if first == second or not first.endswith(".tar"):
            advice = "write it like x-%06d.tar; wl-reshard packs them, -o 'x-%06d.tar.gz'"
            raise UsageError(f"shards are named by number and end in .tar: {advice}", url=template)
        if index_name(first) == index_name(second):
            advice = "the number must come before the first dot, or all shards would share one index"
            raise UsageError(f"{advice}: {index_name(first)}", url=template)

    def _locate(self, seq: int) -> tuple[Store, str]:
        return locate(self._template % (seq - 1))
