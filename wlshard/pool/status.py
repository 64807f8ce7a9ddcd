"""The state of a pool, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wlshard.pool.buffer import sealed_shards
from wlshard.pool.rotate import Count

if TYPE_CHECKING:
    from wlshard.pool.pool import Pool

WINDOW_S = 60.0  # over which rates are taken


@dataclass(frozen=True)
class PoolStatus:
    """A pool's state. `shards`, `samples`, `bytes` are of the read pool.

    `generated_per_s`: samples sealed in the last `window_s` seconds of the store's time; `served_per_s`: of
    readers that noted anything in that time; `reuse`: times the read pool's samples were served, on
    average; `oldest_age_s`: since the oldest of its shards was sealed; `never_read`: at least this share of
    them was not served yet. None: not known, for the read pool is empty or the store cannot tell.
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

    def as_json(self) -> dict[str, Any]:
        """Give what `wl-info --json` prints of a pool; `fields` is left for who looks into shards."""
        return {
            "kind": "pool",
            "pool": self.pool,
            "shards": self.shards,
            "samples": self.samples,
            "bytes": self.bytes,
            "fields": {},
            "generation": self.generation,
            "buffer": self.buffer._asdict(),
            "generated_per_s": self.generated_per_s,
            "served_per_s": self.served_per_s,
            "served": self.served,
            "waited_s": self.waited_s,
            "reuse": self.reuse,
            "never_read": self.never_read,
            "oldest_age_s": self.oldest_age_s,
            "window_s": self.window_s,
            "leases": [],
        }


def pool_status(pool: Pool) -> PoolStatus:
    """Look at everything once: one listing of shards, one of the newest generation's readers."""
    newest = pool.newest()
    now = pool.store.now()
    reading = {shard.name for shard in newest.shards} if newest else set()
    waiting, recent, oldest = [], 0, None
    for shard in sealed_shards(pool.store):
        if newest is None or not newest.covers(shard.parsed):
            waiting.append(shard)
        if now - shard.mtime <= WINDOW_S:
            recent += shard.samples
        if shard.name in reading:
            oldest = shard.mtime if oldest is None else min(oldest, shard.mtime)
    notes = pool.served(newest.generation) if newest else []
    served = sum(note.served for note in notes)
    samples = newest.samples if newest else 0
    return PoolStatus(
        pool=pool.url,
        generation=newest.generation if newest else -1,
        shards=len(newest.shards) if newest else 0,
        samples=samples,
        bytes=Count.of(newest.shards).bytes if newest else 0,
        buffer=Count(len(waiting), sum(s.samples for s in waiting), sum(s.bytes for s in waiting)),
        generated_per_s=recent / WINDOW_S,
        served_per_s=sum(note.per_s for note in notes if now - note.updated <= WINDOW_S),
        served=served,
        waited_s=sum(note.waited_s for note in notes),
        reuse=served / samples if samples else 0.0,
        never_read=max(0.0, 1 - served / samples) if samples else None,
        oldest_age_s=None if oldest is None else max(0.0, now - oldest),
        window_s=WINDOW_S,
    )
