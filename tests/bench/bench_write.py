"""Write shards: small samples against webdataset's ShardWriter, large volumes against dd.

    python tests/bench/bench_write.py [--quick] [--folder DIR]

Each round runs every contender once, in turn; the table shows medians, min–max and the ratio of medians.
Ours includes the index and fsync; webdataset does neither; dd ends in fsync (conv=fsync). A pool adds a
sha256 of each shard. Pages that a virtual machine has to fetch from its host slow all of them down, the
fast ones most: a folder in memory (--folder /dev/shm) shows the cost of the programs alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable

from warm import warm_memory

from wlshard.pool.pool import Pool
from wlshard.pool.writer import ShardWriter

VOLUME = 256**3
Contender = Callable[[str], float]  # writes into the folder, gives units a second


def small_ours(samples: int) -> Contender:
    jpg, text = os.urandom(3000), json.dumps({"width": 64, "height": 64}).encode()

    def run(folder: str) -> float:
        start = time.perf_counter()
        with ShardWriter(f"{folder}/x-%06d.tar") as out:
            for number in range(samples):
                out.write({"__key__": f"{number:09d}", "jpg": jpg, "cls": b"3", "json": text})
        return samples / (time.perf_counter() - start)

    return run


def small_webdataset(samples: int) -> Contender:
    import webdataset

    jpg, text = os.urandom(3000), json.dumps({"width": 64, "height": 64}).encode()

    def run(folder: str) -> float:
        start = time.perf_counter()
        with webdataset.ShardWriter(f"{folder}/x-%06d.tar", maxcount=10_000, verbose=0) as out:
            for number in range(samples):
                out.write({"__key__": f"{number:09d}", "jpg": jpg, "cls": b"3", "json": text})
        return samples / (time.perf_counter() - start)

    return run


def volumes(count: int, *, pool: bool) -> Contender:
    image, label = bytearray(os.urandom(VOLUME)), bytearray(VOLUME)

    def run(folder: str) -> float:
        target = Pool(folder).create() if pool else f"{folder}/x-%06d.tar"
        start = time.perf_counter()
        with ShardWriter(target) as out:
            for number in range(count):
                out.write({"__key__": f"{number:09d}", "img.bin": image, "seg.bin": label})
        return 2 * VOLUME * count / (time.perf_counter() - start)

    return run


def dd(count: int) -> Contender:
    def run(folder: str) -> float:
        command = ["dd", "if=/dev/zero", f"of={folder}/x", f"bs={VOLUME}", f"count={2 * count}", "conv=fsync"]
        start = time.perf_counter()
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return 2 * VOLUME * count / (time.perf_counter() - start)

    return run


def measure(contenders: dict[str, Contender], rounds: int, parent: str) -> dict[str, list[float]]:
    """Run all contenders in turn, the first round to warm up."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    warm_memory()
    for round_ in range(rounds + 1):
        for name, run in contenders.items():
            folder = tempfile.mkdtemp(dir=parent)
            try:
                speed = run(folder)
            finally:
                shutil.rmtree(folder)
            if round_:
                speeds[name].append(speed)
    return speeds


def show(title: str, unit: str, scale: float, base: str, speeds: dict[str, list[float]]) -> None:
    print(f"\n| {title} | {unit}, median | min–max | of {base} |\n|---|---|---|---|")
    reference = statistics.median(speeds[base])
    for name, found in speeds.items():
        middle, low, high = (pick(found) / scale for pick in (statistics.median, min, max))
        ratio = middle * scale / reference
        print(f"| {name} | {middle:,.2f} | {low:,.2f}–{high:,.2f} | {ratio:.2f}× |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples, 3 rounds")
    parser.add_argument("--folder", help="where to write (default: a temporary folder)")
    options = parser.parse_args()
    samples, count, rounds = (10_000, 4, 3) if options.quick else (100_000, 12, 5)
    with tempfile.TemporaryDirectory(dir=options.folder) as parent:
        small = {"wlshard": small_ours(samples), "webdataset": small_webdataset(samples)}
        speeds = measure(small, rounds, parent)
        show(f"write {samples:,} × (3 kB jpg, cls, json)", "samples/s", 1, "webdataset", speeds)
        large = {
            "wlshard, plain shards": volumes(count, pool=False),
            "wlshard, sealed into a pool": volumes(count, pool=True),
            "dd conv=fsync": dd(count),
        }
        speeds = measure(large, rounds, parent)
        show(f"write {count} × 2 × 256³ bytes", "GB/s", 1e9, "dd conv=fsync", speeds)


if __name__ == "__main__":
    main()
