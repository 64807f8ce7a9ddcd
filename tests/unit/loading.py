"""Small shards and pools for the tests of reading."""

from __future__ import annotations

from pathlib import Path

from wlshard import Pool, ShardWriter


def write_shards(folder: Path, shards: int, samples: int, *, payload: int = 3) -> str:
    """Write shards of nearly equal size whose samples have `n.index` = 0 … samples-1 in order."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for shard in range(shards):
        with ShardWriter(str(folder / f"x-{shard}-%d.tar"), shard_samples=10**6) as writer:
            end = (shard + 1) * samples // shards
            while number < end:
                writer.write(row(number, payload))
                number += 1
    return str(folder)


def row(number: int, payload: int = 3) -> dict[str, object]:
    return {"__key__": f"{number:06d}", "n.index": number, "raw": bytes([number % 251]) * payload}


def keys(samples: int) -> list[str]:
    return [f"{number:06d}" for number in range(samples)]


def fill_pool(url: str, numbers: range, shard_samples: int = 10) -> Pool:
    """Seal these samples and promote them as a generation of their own."""
    pool = Pool(url)
    if not pool.exists():
        pool.create()
    with ShardWriter(pool, shard_samples=shard_samples) as writer:
        for number in numbers:
            writer.write(row(number))
    pool.rotate()
    return pool
