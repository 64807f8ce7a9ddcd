"""The state of a pool, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wlshard.pool.accounting import WINDOW_S
from wlshard.pool.buffer import sealed_shards, waiting
from wlshard.pool.manifest import Manifest
from wlshard.pool.rotate import Count

if TYPE_CHECKING:
    from wlshard.pool.pool import Pool


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
            **vars(self),
            "buffer": self.buffer._asdict(),
            "leases": [],
        }


def pool_status(pool: Pool) -> PoolStatus:
    """Look at everything once: one listing of shards, one of the newest generation's readers."""
    newest = pool.newest() or Manifest(-1, None, "")
    reading = Count.of(newest.shards)
    names = {shard.name for shard in newest.shards}
    listed = list(sealed_shards(pool.store))
    now = pool.store.now()
    notes = pool.served(newest.generation)
    served = sum(note.served for note in notes)
    oldest = min((shard.mtime for shard in listed if shard.name in names), default=None)
    return PoolStatus(
        pool=pool.url,
        generation=newest.generation,
        **reading._asdict(),
        buffer=Count.of(list(waiting(listed, newest))),
        generated_per_s=sum(shard.samples for shard in listed if now - shard.mtime <= WINDOW_S) / WINDOW_S,
        served_per_s=sum(note.per_s for note in notes if now - note.updated <= WINDOW_S),
        served=served,
        waited_s=sum(note.waited_s for note in notes),
        reuse=served / reading.samples if reading.samples else 0.0,
        never_read=max(0.0, 1 - served / reading.samples) if reading.samples else None,
        oldest_age_s=None if oldest is None else max(0.0, now - oldest),
        window_s=WINDOW_S,
    )
