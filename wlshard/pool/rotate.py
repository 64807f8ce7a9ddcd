"""Promote the write buffer: one commit makes the next generation."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from wlshard import clock
from wlshard.errors import UsageError
from wlshard.pool.buffer import Verdict, advance, sealed_shards, verify
from wlshard.pool.generations import Generations
from wlshard.pool.manifest import Manifest, PoolShard, Quarantined
from wlshard.pool.names import ShardName
from wlshard.store.base import Store

log = logging.getLogger(__name__)


class Count(NamedTuple):
    """How much: shards, samples, bytes of tar."""

    shards: int = 0
    samples: int = 0
    bytes: int = 0

    @classmethod
    def of(cls, shards: Sequence[PoolShard]) -> Self:
        return cls(len(shards), sum(each.samples for each in shards), sum(each.bytes for each in shards))


@dataclass(frozen=True)
class Rotation:
    """What a rotation did, or with dry_run would do.

    `previous`: the newest generation before it; `generation`: after it. Not committed: nothing was there to
    promote, or too little.
    """

    pool: str
    previous: int
    generation: int
    committed: bool
    promoted: Count
    kept: Count
    dropped: Count
    quarantined: tuple[Quarantined, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Give what `wl-rotate --json` prints."""
        return {
            "pool": self.pool,
            "previous": self.previous,
            "generation": self.generation,
            "committed": self.committed,
            "promoted": self.promoted._asdict(),
            "kept": self.kept._asdict(),
            "dropped": self.dropped._asdict(),
            "quarantined": [bad._asdict() for bad in self.quarantined],
            "seconds": self.seconds,
        }


def rotate(
    store: Store, generations: Generations, url: str, *, at: int, pool_samples: int, dry_run: bool
) -> Rotation:
    """Commit the next generation if `at` samples wait, and at least one; begin again after a lost race."""
    if at < 0 or pool_samples < 0:
        raise UsageError(f"at={at}, pool_samples={pool_samples}: counts of samples are not negative", url=url)
    started = clock.monotonic()
    while True:
        parent = generations.newest()
        assert parent is not None, "the pool is opened before it is rotated"
        child, verdict = _plan(store, parent, pool_samples)
        promoted = [shard for shard in child.shards if shard.promoted == child.generation]
        due = bool(promoted) and Count.of(promoted).samples >= at
        if due and not dry_run:
            committed = generations.commit(child)
            if committed is None:
                log.info("another rotation committed generation %d first: looking again", child.generation)
                continue
        after = child if due else parent
        kept = [shard for shard in after.shards if shard.promoted <= parent.generation]
        return Rotation(
            pool=url,
            previous=parent.generation,
            generation=after.generation,
            committed=due and not dry_run,
            promoted=Count.of(promoted if due else ()),
            kept=Count.of(kept),
            dropped=Count.of(sorted(set(parent.shards) - set(kept))),
            quarantined=tuple(verdict.bad),
            seconds=clock.monotonic() - started,
        )


def _plan(store: Store, parent: Manifest, pool_samples: int) -> tuple[Manifest, Verdict]:
    """Work out the generation that may follow `parent`."""
    listed = list(sealed_shards(store))
    verdict = verify(store, (shard for shard in listed if not parent.covers(shard.parsed)))
    for shard in verdict.unreadable:
        log.warning("%s cannot be read now: it stays in the write buffer", shard.name)
    for bad in verdict.bad:
        log.warning("%s is not promoted: %s", bad.shard, bad.reason)
    generation = parent.generation + 1
    promoted = [PoolShard(each.name, each.bytes, each.samples, generation) for each in verdict.good]
    kept = _keep(parent.shards, pool_samples - Count.of(promoted).samples)
    names = {shard.name for shard in listed}
    quarantined = [bad for bad in parent.quarantined if bad.shard in names] + verdict.bad
    writers = {shard.parsed.writer for shard in listed} | {_parsed(shard.name).writer for shard in kept}
    child = Manifest(
        generation=generation,
        parent=parent.digest,
        txn=os.urandom(16).hex(),
        shards=tuple(sorted(kept + promoted, key=_age)),
        watermarks=advance(parent.watermarks, _taken(verdict), writers),
        quarantined=tuple(quarantined),
        stats={
            "promoted": Count.of(promoted)._asdict(),
            "kept": Count.of(kept)._asdict(),
            "dropped": Count.of(sorted(set(parent.shards) - set(kept)))._asdict(),
        },
        created=clock.now(),
    )
    return child, verdict


def _taken(verdict: Verdict) -> Iterable[ShardName]:
    """List what leaves the write buffer; a bad shard takes along no other of its number that may be good."""
    yield from (shard.parsed for shard in verdict.good)
    unreadable = {shard.parsed[:2] for shard in verdict.unreadable}
    for bad in verdict.bad:
        name = _parsed(bad.shard)
        if name[:2] not in unreadable:
            yield name


def _keep(shards: Iterable[PoolShard], samples: int) -> list[PoolShard]:
    """Choose the newest of the parent's shards until `samples` are held."""
    kept = []
    for shard in sorted(shards, key=_age, reverse=True):
        if samples <= 0:
            break
        kept.append(shard)
        samples -= shard.samples
    return kept


def _age(shard: PoolShard) -> tuple[int, str]:
    return shard.promoted, shard.name


def _parsed(name: str) -> ShardName:
    parsed = ShardName.parse(name)
    assert parsed is not None
    return parsed
