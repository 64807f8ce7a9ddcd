"""The write buffer: sealed shards that no manifest covers yet, and which of them may be promoted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from wlshard.errors import AccessDenied, NotFound, StoreUnavailable
from wlshard.pool.manifest import NOTHING, Quarantined, Watermark, Watermarks
from wlshard.pool.names import SHARDS, ShardName
from wlshard.store.base import Store, object_url
from wlshard.tar.header import BLOCK, END_MARK


class SealedShard(NamedTuple):
    """A shard as the store lists it. `mtime`: when it was sealed, by the store's clock."""

    name: str
    bytes: int
    mtime: float
    parsed: ShardName

    @property
    def samples(self) -> int:
        return self.parsed.samples


def sealed_shards(store: Store) -> Iterator[SealedShard]:
    """List the shards in a pool's folder, covered or not, in no order. What is not named like one is none."""
    skip = len(SHARDS) + 1
    for entry in store.list(f"{SHARDS}/"):
        name = entry.name[skip:]
        parsed = ShardName.parse(name)
        if parsed is not None:
            yield SealedShard(name, entry.bytes, entry.mtime, parsed)


@dataclass
class Verdict:
    """What looking at the write buffer found: good shards, bad ones, and those unreadable now."""

    good: list[SealedShard] = field(default_factory=list)
    bad: list[Quarantined] = field(default_factory=list)
    unreadable: list[SealedShard] = field(default_factory=list)


def verify(store: Store, shards: Iterable[SealedShard]) -> Verdict:
    """Look at each shard, oldest first: its listed size, and locally its end mark.

    Of two shards with one writer and number (one was salvaged while its writer lived on) the one with more
    samples counts: they hold the same samples.
    """
    verdict = Verdict()
    taken: dict[tuple[str, int], str] = {}
    for shard in sorted(
        shards, key=lambda each: (each.parsed.writer, each.parsed.seq, -each.samples, each.name)
    ):
        place = shard.parsed.writer, shard.parsed.seq
        try:
            fault = _fault(store, shard)
        except (StoreUnavailable, AccessDenied, NotFound):
            verdict.unreadable.append(shard)
            continue
        if fault is None and place in taken:
            fault = f"the same samples as in {taken[place]}"
        if fault is None:
            taken[place] = shard.name
            verdict.good.append(shard)
        else:
            verdict.bad.append(Quarantined(shard.name, fault))
    return verdict


def _fault(store: Store, shard: SealedShard) -> str | None:
    """Say what is wrong with a shard's content. Raises where it cannot be read now."""
    name = f"{SHARDS}/{shard.name}"
    mark = bytearray(len(END_MARK))
    if store.can.local:
        with store.open(name, max(0, shard.bytes - len(mark))) as reader:
            if reader.bytes != shard.bytes:  # a network file system may list what it remembers
                raise StoreUnavailable("listed and opened it has two sizes", url=object_url(store.url, name))
            reader.readinto(mark)
    if shard.samples == 0:
        return "it holds no samples"
    if shard.bytes < BLOCK + len(END_MARK) or shard.bytes % BLOCK:
        return f"{shard.bytes} bytes are no whole tar"
    return None if mark == END_MARK else "it does not end in an end mark"


def advance(marks: Watermarks, taken: Iterable[ShardName], listed: set[str]) -> dict[str, Watermark]:
    """Give the child's watermarks: the parent's and what is taken now.

    `listed`: writers of whom the store still lists a shard; who has neither that nor missing numbers goes.
    """
    numbers: dict[str, set[int]] = {}
    for name in taken:
        numbers.setdefault(name.writer, set()).add(name.seq)
    result = {}
    for writer in marks.keys() | numbers.keys():
        last, missing = marks.get(writer, NOTHING)
        new = numbers.get(writer, set())
        end = max(last, *new) if new else last
        mark = Watermark(end, (missing | frozenset(range(last + 1, end + 1))) - new)
        if mark.missing or writer in listed:
            result[writer] = mark
    return result
