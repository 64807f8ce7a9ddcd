"""Verify a sealed shard of a pool against hashlib's sha256 of the same file.

    python tests/bench/bench_verify.py [--quick] [--folder DIR]

Makes its own pools, reads them warm. Each round runs every contender once, in turn; the tables show medians,
min–max and the ratio of medians. Both use one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from functools import partial

from bench_read import measure
from bench_write import show

from wlshard.pool.pool import Pool
from wlshard.pool.verify import verify_pool
from wlshard.pool.writer import ShardWriter

SHARD_BYTES = 1 << 28
SAMPLES = {"(3 kB jpg, cls, json)": 3_000, "(110 kB jpg, cls, json)": 110_000, "2 × 256³ bytes": 256**3}


def make_pool(folder: str, size: int) -> Pool:
    """Fill one shard of 256 MiB."""
    pool = Pool(folder).create()
    noise = os.urandom(size + 4096)
    with ShardWriter(pool, shard_samples=1 << 30, shard_bytes=1 << 40) as out:
        for number in range(SHARD_BYTES // (size + 2632 if size < 256**3 else 2 * size)):
            jpg = memoryview(noise)[number % 4096 :][:size]
            if size < 256**3:
                out.write({"jpg": bytes(jpg), "cls": b"%d" % (number % 1000), "json": b'{"width": 64}'})
            else:
                out.write({"img.npy": bytes(jpg), "seg.npy": bytes(jpg)})
    return pool


def verified(pool: Pool) -> float:
    start, size = time.perf_counter(), pool.buffer()[0].bytes
    result = verify_pool(pool)
    assert not result.faults, result.faults
    return size / (time.perf_counter() - start)


def hashed(path: str) -> float:
    start = time.perf_counter()
    with open(path, "rb") as file:
        hashlib.file_digest(file, "sha256")
    return os.path.getsize(path) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    parser.add_argument("--folder", help="where the pools are written (default: a temporary folder)")
    options = parser.parse_args()
    for what, size in SAMPLES.items():
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            pool = make_pool(f"{folder}/pool", size)
            (shard,) = pool.buffer()
            contenders = {
                "wl-info --verify": partial(verified, pool),
                "sha256": partial(hashed, pool.shard_url(shard.name)),
            }
            speeds = measure(contenders, 3 if options.quick else 7)
        title = f"verify a shard of {shard.bytes / 2**20:.0f} MiB of {what}"
        show(title, "GB/s", 1e9, "sha256", speeds)


if __name__ == "__main__":
    main()
