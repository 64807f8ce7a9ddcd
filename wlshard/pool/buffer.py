"""The write buffer: sealed shards that no manifest covers yet, and which of them may be promoted."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple

from wlshard.errors import AccessDenied, NotFound, StoreUnavailable
from wlshard.pool.manifest import NOTHING, Manifest, Quarantined, Watermark, Watermarks
from wlshard.pool.names import SHARDS, ShardName, samples_in
from wlshard.store.base import Store, object_url
from wlshard.tar.header import BLOCK, END_MARK

log = logging.getLogger(__name__)

REMEMBERED_S = 30 * 86_400.0  # a writer whose shards are all gone; some 60 bytes of each manifest


class SealedShard(NamedTuple):
    """A shard as the store lists it. `mtime`: when it was sealed, by the store's clock."""

    name: str
    bytes: int
    mtime: float
    samples: int

    @property
    def parsed(self) -> ShardName:
        """Take the name apart; not kept: a pool may have a hundred thousand of them."""
        parsed = ShardName.parse(self.name)
        assert parsed is not None, "it was listed as a shard"
        return parsed


def sealed_shards(store: Store, but: Container[str] = ()) -> Iterator[SealedShard]:
    """List the shards in a pool's folder, covered or not, in no order, `but` for those of these names.

    What is not named like one is none.
    """
    skip = len(SHARDS) + 1
    for entry in store.list(f"{SHARDS}/", ".tar", but):
        name = entry.name[skip:]
        samples = samples_in(name)
        if samples is not None:
            yield SealedShard(name, entry.bytes, entry.mtime, samples)


def waiting(listed: Iterable[SealedShard], manifest: Manifest) -> Iterator[SealedShard]:
    """Pass on the write buffer: what a manifest does not cover."""
    return (shard for shard in listed if not manifest.covers(shard.parsed))


class Verdict(NamedTuple):
    """What looking at the write buffer found; `taken`: the (writer, seq) that leave it."""

    good: list[SealedShard]
    bad: list[Quarantined]
    taken: set[tuple[str, int]]


def verify(store: Store, shards: Iterable[SealedShard]) -> Verdict:
    """Look at each shard, oldest first: its listed size, and locally its end mark.

    One that cannot be read now stays in the write buffer. Of two shards with one writer and number (one was
    salvaged while its writer lived on) the one with more samples counts: they hold the same samples.
    """
    good: dict[tuple[str, int], SealedShard] = {}
    bad: list[Quarantined] = []
    faulty, unreadable = set(), set()
    for shard in sorted(shards, key=lambda each: (*each.parsed[:2], -each.samples, each.name)):
        place = shard.parsed[:2]
        try:
            fault = _fault(store, shard)
        except (StoreUnavailable, AccessDenied, NotFound) as error:
            log.warning("%s cannot be read now, it stays in the write buffer: %s", shard.name, error)
            unreadable.add(place)
            continue
        if fault is None and place in good:
            fault = f"the same samples as in {good[place].name}"
        if fault is None:
            good[place] = shard
        else:
            log.warning("%s is not promoted: %s", shard.name, fault)
            bad.append(Quarantined(shard.name, fault))
            faulty.add(place)
    # A bad shard takes along no other of its number that may be good.
    return Verdict(list(good.values()), bad, good.keys() | (faulty - unreadable))


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


def advance(
    marks: Watermarks, taken: Iterable[tuple[str, int]], listed: set[str], now: float
) -> dict[str, Watermark]:
    """Give the child's watermarks: the parent's and the (writer, seq) taken now.

    `listed`: writers of whom the store still lists a shard; who has neither that nor missing numbers goes,
    but not before REMEMBERED_S: a seal whose reply was lost may be tried again, by it or its salvager.
    """
    numbers: defaultdict[str, set[int]] = defaultdict(set)
    for writer, seq in taken:
        numbers[writer].add(seq)
    result = {}
    for writer in marks.keys() | numbers.keys():
        last, missing, gone = marks.get(writer, NOTHING)
        new = numbers[writer]
        end = max(new | {last})
        missing = (missing | frozenset(range(last + 1, end + 1))) - new
        gone = None if writer in listed else now if gone is None else gone
        if missing or gone is None or now - gone < REMEMBERED_S:
            result[writer] = Watermark(end, missing, gone)
    return result
