"""Promote the write buffer: one commit makes the next generation."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from wlshard import clock
from wlshard.errors import UsageError
from wlshard.pool.accounting import WINDOW_S
from wlshard.pool.buffer import SealedShard, advance, sealed_shards, verify, waiting
from wlshard.pool.generations import Generations
from wlshard.pool.manifest import Manifest, PoolShard, Quarantined, Stub
from wlshard.pool.names import writer_of
from wlshard.store.base import Store

log = logging.getLogger(__name__)


class Count(NamedTuple):
    """How much: shards, samples, bytes of tar."""

    shards: int = 0
    samples: int = 0
    bytes: int = 0

    @classmethod
    def of(cls, shards: Collection[PoolShard] | Collection[SealedShard]) -> Self:
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
            **vars(self),
            "promoted": self.promoted._asdict(),
            "kept": self.kept._asdict(),
            "dropped": self.dropped._asdict(),
            "quarantined": [bad._asdict() for bad in self.quarantined],
        }


@dataclass(frozen=True)
class Policy:
    """When to rotate, `at` so many samples, and what of the old generation to keep.

    That is: its newest shards until `pool_samples` are held, but none sealed more than `max_age_s` ago. keep:
    so many generations stay readable; by default what the pool was made with.
    """

    at: int = 0
    pool_samples: int = 0
    max_age_s: float | None = None
    keep: int | None = None

    def __post_init__(self) -> None:
        if self.at < 0 or self.pool_samples < 0:
            about = f"at={self.at}, pool_samples={self.pool_samples}"
            raise UsageError(f"{about}: counts of samples are not negative")
        if self.keep is not None and self.keep < 2:
            raise UsageError(f"keep={self.keep}: readers need the one before the newest, so 2 or more")


def rotate(
    store: Store,
    generations: Generations,
    url: str,
    policy: Policy,
    *,
    dry_run: bool,
) -> Rotation:
    """Commit the next generation if enough waits, and at least one sample; begin again after a lost race."""
    started = clock.monotonic()
    while True:
        parent = generations.newest()
        assert parent is not None, "the pool is opened before it is rotated"
        plan = _plan(store, parent, generations.stubs(parent), policy)
        due = plan.promoted.shards > 0 and plan.promoted.samples >= policy.at
        if due and not dry_run and generations.commit(plan.child) is None:
            log.info("another rotation committed generation %d first: looking again", plan.child.generation)
            continue
        return Rotation(
            pool=url,
            previous=parent.generation,
            generation=plan.child.generation if due else parent.generation,
            committed=due and not dry_run,
            promoted=plan.promoted if due else Count(),
            kept=plan.kept if due else Count.of(parent.shards),
            dropped=plan.dropped if due else Count(),
            quarantined=plan.bad,
            seconds=clock.monotonic() - started,
        )


class _Plan(NamedTuple):
    """The generation that may follow, what it would do, and what is bad in the write buffer."""

    child: Manifest
    promoted: Count
    kept: Count
    dropped: Count
    bad: tuple[Quarantined, ...]


def _plan(store: Store, parent: Manifest, stubs: list[Stub], policy: Policy) -> _Plan:
    generation = parent.generation + 1
    # An old one is told by its mtime; of what the parent names there is nothing else to learn.
    listed = list(sealed_shards(store, parent.names if policy.max_age_s is None else ()))
    verdict = verify(store, waiting(listed, parent))
    new = [PoolShard(each.name, each.bytes, each.samples, generation) for each in verdict.good]
    promoted = Count.of(new)
    young = parent.shards
    now = store.now()
    if policy.max_age_s is not None:
        oldest = now - policy.max_age_s
        stale = {shard.name for shard in listed if shard.mtime < oldest}
        young = tuple(shard for shard in young if shard.name not in stale)
    old = _keep(young, policy.pool_samples - promoted.samples)
    kept, before = Count.of(old), Count.of(parent.shards)
    dropped = Count(*(had - has for had, has in zip(before, kept, strict=True)))
    names = parent.names.union(shard.name for shard in listed)
    child = Manifest(
        generation=generation,
        parent=parent.digest,
        txn=os.urandom(16).hex(),
        shards=(*old, *sorted(new)),
        watermarks=advance(parent.watermarks, verdict.taken, set(map(writer_of, names)), now),
        quarantined=(*(bad for bad in parent.quarantined if bad.shard in names), *verdict.bad),
        floor=parent.floor + len(stubs),
        stats={
            "promoted": promoted._asdict(),
            "kept": kept._asdict(),
            "dropped": dropped._asdict(),
            **_history(parent, verdict.good, sum(stub.served for stub in stubs)),
            **_reuse(parent, stubs, generation, kept.samples + promoted.samples, {s.promoted for s in old}),
        },
        created=clock.now(),
    )
    return _Plan(child, promoted, kept, dropped, tuple(verdict.bad))


def _history(parent: Manifest, promoted: Iterable[SealedShard], served: int) -> dict[str, Any]:
    """Carry on what is known of all generations so far.

    totals: samples promoted in all, and served of generations below `floor`. sealed: how many in which second
    of the store's time, for the last minute up to the newest.
    """
    totals = parent.stats.get("totals", {"promoted": 0, "served": 0})
    sealed = Counter(dict(parent.stats.get("sealed", [])))
    count = 0
    for shard in promoted:
        sealed[int(shard.mtime)] += shard.samples
        count += shard.samples
    since = max(sealed, default=0) - WINDOW_S
    return {
        "totals": {"promoted": totals["promoted"] + count, "served": totals["served"] + served},
        "sealed": sorted(item for item in sealed.items() if item[0] > since),
    }


def _reuse(
    parent: Manifest, stubs: Iterable[Stub], generation: int, samples: int, promoted: set[int]
) -> dict[str, Any]:
    """Carry on what tells how often each shard was served.

    sizes: samples of each generation from `floor` on. reused: by the generation that promoted them, how often
    the samples that are still there were served in generations below `floor`.
    """
    sizes = dict(parent.stats.get("sizes", [])) | {generation: samples}
    reused = {number: times for number, times in parent.stats.get("reused", []) if number in promoted}
    for stub in stubs:
        if size := sizes.pop(stub.generation, 0):
            for number in promoted:
                if number <= stub.generation:
                    reused[number] = reused.get(number, 0.0) + stub.served / size
    return {"sizes": sorted(sizes.items()), "reused": sorted(reused.items())}


def _keep(shards: tuple[PoolShard, ...], samples: int) -> tuple[PoolShard, ...]:
    """Choose the newest of the parent's shards, the last in it, until `samples` are held."""
    first = len(shards)
    while first and samples > 0:
        first -= 1
        samples -= shards[first].samples
    return shards[first:]
