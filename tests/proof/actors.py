"""What each process of the kill loop does, for ever, telling of each step: `actors.py ROLE POOL NUMBER`."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from wlshard.errors import LostLease, NotFound
from wlshard.pool.follow import Follower
from wlshard.pool.pool import Pool
from wlshard.pool.writer import ShardWriter
from wlshard.shards.reader import read_samples

LEAD = 3  # generations that a rotator may be ahead of the loop; with two of them, fewer than the pool keeps


def tell(what: str) -> None:
    sys.stdout.write(what + "\n")
    sys.stdout.flush()


def payload(key: str) -> bytes:
    """What sample `key` holds: 0.2 to 12 kB that nobody else has."""
    seed = hashlib.sha256(key.encode()).digest()
    return seed * (8 + int.from_bytes(seed[:2], "big") % 400)


def generator(pool: Pool, number: str) -> None:
    told = 0
    with ShardWriter(pool, shard_samples=50) as writer:
        count = 0
        while True:
            key = f"{number}/{count:06d}"
            writer.write({"__key__": key, "bin": payload(key), "txt": key})
            count += 1
            for url in writer.shards[told:]:
                tell(f"sealed {number} {count} {url.rpartition('/')[2]}")
            told = len(writer.shards)


def looked_at(pool: Pool) -> Path:
    """Where the loop, which has no lease, says up to which generation it has looked."""
    return Path(f"{pool.url}.looked")


def rotator(pool: Pool, number: str) -> None:
    while True:
        if pool.newest().generation - int(looked_at(pool).read_text()) >= LEAD:
            continue
        done = pool.rotate(at=1000, pool_samples=1500)
        if done.committed:
            tell(f"rotated {done.generation}")


def sweeper(pool: Pool, number: str) -> None:
    while True:
        done = pool.retire()
        if done.retired or done.shards:
            tell(f"retired {len(done.retired)} {done.shards}")


def reader(pool: Pool, number: str) -> None:
    follower = Follower(pool, None, follow=True, timeout_s=600)
    while True:
        manifest = follower.choose()
        seen: Counter[str] = Counter()
        try:
            for url in follower.urls(manifest):
                for sample in read_samples(url):
                    key = sample["__key__"]
                    if bytes(sample["bin"]) != payload(key) or bytes(sample["txt"]) != key.encode():
                        tell(f"FAULT I7: {key} is not what was written")
                    seen[key] += 1
                follower.check()
        except NotFound as error:
            try:
                follower.check()
            except LostLease:
                continue
            tell(f"FAULT I4: {error}")
        if seen.total() != manifest.samples or max(seen.values()) > 1:
            tell(f"FAULT I5: generation {manifest.generation} gave {seen.total()} of {manifest.samples}")
        tell(f"read {manifest.generation} {seen.total()}")


ROLES: dict[str, Callable[[Pool, str], None]] = {
    "generator": generator,
    "rotator": rotator,
    "sweeper": sweeper,
    "reader": reader,
}

if __name__ == "__main__":
    role, url, number = sys.argv[1:]
    if os.getppid() == 1:
        raise SystemExit("its parent is gone")
    ROLES[role](Pool(url), number)
