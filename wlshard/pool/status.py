"""The state of a pool, as numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from wlshard.pool.accounting import WINDOW_S
from wlshard.pool.buffer import sealed_shards, waiting
from wlshard.pool.manifest import NO_GENERATION, Manifest, PoolShard
from wlshard.pool.rotate import Count

if TYPE_CHECKING:
    from wlshard.pool.pool import Pool


_SPREAD: dict[str, Callable[[list[float]], float]] = {"min": min, "median": median, "max": max}


@dataclass(frozen=True)
class PoolStatus:
    """A pool's state. `shards`, `samples`, `bytes` are of the read pool.

    `generated_per_s`: samples sealed in the last `window_s` seconds of the store's time; `served_per_s`: of
    readers that noted anything in that time; `reuse`: times the read pool's samples were served in this
    generation, on average; `oldest_age_s`: since the oldest of its shards was sealed; `never_read`: at least
    this share of them was not served in it yet. None: not known, for the read pool is empty.

    Of the pool's whole life: `sealed_total` good samples, `promoted_total` of them promoted; `served_total`
    counts each time that one was given to a consumer, `reuse_total` is that for each one promoted;
    `shard_reuse`: how often the samples of each shard of the read pool were served so far, in all
    generations that named it. A whole epoch serves each once, a part of one counts as its share of all.
    """

    pool: str
    generation: int
    shards: int
    samples: int
    bytes: int
    buffer: Count
    generated_per_s: float
    served_per_s: float
    served: int
    waited_s: float
    reuse: float
    never_read: float | None
    oldest_age_s: float | None
    window_s: float
    sealed_total: int
    promoted_total: int
    served_total: int
    reuse_total: float
    shard_reuse: tuple[tuple[str, float], ...]
    set_aside: int
    leases: tuple[dict[str, Any], ...]

    def as_json(self, *, each_shard: bool = False) -> dict[str, Any]:
        """Give what `wl-info --json` prints of a pool; `fields` is left for who looks into shards."""
        times = [reuse for _, reuse in self.shard_reuse]
        reuse = {name: of(times) if times else None for name, of in _SPREAD.items()}
        return {
            "kind": "pool",
            "pool": self.pool,
            "shards": self.shards,
            "samples": self.samples,
            "bytes": self.bytes,
            "fields": {},
            **vars(self),
            "buffer": self.buffer._asdict(),
            "shard_reuse": reuse | ({"shards": self.shard_reuse} if each_shard else {}),
            "leases": list(self.leases),
        }


def pool_status(pool: Pool) -> PoolStatus:
    """Look at everything once: one listing of shards, and what readers noted."""
    newest = pool.newest() or NO_GENERATION
    reading, first = Count.of(newest.shards), _firsts(newest.shards)
    listed = list(sealed_shards(pool.store, newest.names - first))
    buffer = list(waiting(listed, newest))
    now = pool.store.now()
    notes = pool.served(newest.generation)
    served, served_since = sum(note.served for note in notes), pool.served_since(newest)
    oldest = min((shard.mtime for shard in listed if shard.name in first), default=None)
    totals = newest.stats.get("totals", {"promoted": 0, "served": 0})
    promoted, served_total = int(totals["promoted"]), int(totals["served"]) + sum(served_since.values())
    recent = sum(count for second, count in newest.stats.get("sealed", ()) if now - second <= WINDOW_S)
    recent += sum(shard.samples for shard in buffer if now - shard.mtime <= WINDOW_S)
    return PoolStatus(
        pool=pool.url,
        generation=newest.generation,
        **reading._asdict(),
        buffer=Count.of(buffer),
        generated_per_s=recent / WINDOW_S,
        served_per_s=sum(note.per_s for note in notes if now - note.updated <= WINDOW_S),
        served=served,
        waited_s=sum(note.waited_s for note in notes),
        reuse=served / reading.samples if reading.samples else 0.0,
        never_read=max(0.0, 1 - served / reading.samples) if reading.samples else None,
        oldest_age_s=None if oldest is None else max(0.0, now - oldest),
        window_s=WINDOW_S,
        sealed_total=promoted + sum(shard.samples for shard in buffer),
        promoted_total=promoted,
        served_total=served_total,
        reuse_total=served_total / promoted if promoted else 0.0,
        shard_reuse=_shard_reuse(newest, served_since),
        set_aside=len(newest.quarantined),
        leases=tuple(
            {"generation": one.generation, "holder": one.holder, "pin": one.pin, "left_s": one.left_s(now)}
            for one in pool.leases()
        ),
    )


def _firsts(shards: Iterable[PoolShard]) -> set[str]:
    """Find the first shard of each writer, which seals one after the other: none of its is older."""
    first: dict[str, tuple[int, str]] = {}
    for shard in shards:
        writer, seq, _, _ = shard.name.rsplit("-", 3)
        place = int(seq), shard.name
        if place < first.setdefault(writer, place):
            first[writer] = place
    return {name for _, name in first.values()}


def _shard_reuse(newest: Manifest, served: Mapping[int, int]) -> tuple[tuple[str, float], ...]:
    """Add up what each generation that named a shard served: all from the one that promoted it."""
    sizes, reused = dict(newest.stats.get("sizes", [])), dict(newest.stats.get("reused", []))
    since, times = dict[int, float](), 0.0
    for generation in sorted(served, reverse=True):
        times += served[generation] / sizes[generation] if sizes.get(generation) else 0.0
        since[generation] = times
    return tuple(
        (shard.name, reused.get(shard.promoted, 0.0) + since.get(shard.promoted, times))
        for shard in newest.shards
    )
