"""Take foreign shards into a pool: read strictly, written anew, one for one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wlshard.jobs.job import Progress
from wlshard.pool.names import ShardName
from wlshard.pool.pool import Pool
from wlshard.pool.seal import SealingTarget
from wlshard.shards.reader import read_samples
from wlshard.shards.writer import ClosedShard, RollingWriter
from wlshard.store.base import Draft

WHOLE = 2**62  # no limit: a shard stays one


class _Adopting(SealingTarget):
    """Seals under a writer id made of the bytes: who adopts the same shard again changes nothing."""

    def publish(self, draft: Draft, shard: ClosedShard) -> str:
        self.fix(draft)
        writer = f"19700101T000000-adopted-{shard.sha256[:16]}"
        name = ShardName(writer, 1, shard.samples, shard.sha256[:32])
        if self.seal(draft, shard, name):
            return self.pool.shard_url(str(name))
        return super().publish(draft, shard)  # other bytes have the name


def adopt(
    urls: Sequence[str],
    pool: Pool,
    *,
    any_schema: bool = False,
    report: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Seal the samples of each shard as a shard of the pool, which is made if absent.

    Whatever its form was (GNU, PAX, compressed), it becomes plain; one that our writers wrote stays as it is,
    byte for byte. A shard that is damaged is not taken in, those before it are. Errors: NotFound, TarError,
    GroupingError (keys, fields, or unlike the pool's schema), AccessDenied, StoreUnavailable.
    """
    pool.create()
    target, done = _Adopting(pool, any_schema=any_schema), Progress()
    for url in urls:
        with RollingWriter(target, shard_samples=WHOLE, shard_bytes=WHOLE) as writer:
            for sample in read_samples(url):
                writer.write(sample)
        done.generated += writer.samples
        done.sealed, done.shards = done.sealed + writer.sealed, done.shards + len(writer.shards)
        done.bytes += writer.bytes
        report(done)
    return done
