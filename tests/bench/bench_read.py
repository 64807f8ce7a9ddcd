"""Read shards: small samples against webdataset and tar, volumes against cat, memory on a big shard.

    python tests/bench/bench_read.py [--quick] [--folder DIR]

Makes its own shards in a temporary folder (about 8 GB; --quick 1 GB), reads them warm. Each round runs every
contender once, in turn; the table shows medians, min–max and the ratio of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from bench_write import show
from warm import warm_memory

from wlshard.shards.access import ShardAccess
from wlshard.shards.reader import read_samples
from wlshard.shards.writer import RollingWriter, TemplateTarget

VOLUME = 256**3
Contender = Callable[[], float]  # gives units a second


def write_small(folder: str, samples: int) -> list[str]:
    pick = random.Random(1)
    noise = os.urandom(1 << 20)
    with RollingWriter(TemplateTarget(f"{folder}/small-%06d.tar"), shard_samples=samples // 4) as out:
        for number in range(samples):
            at = pick.randrange(1 << 19)
            caption = json.dumps({"id": number, "caption": "a picture of " + "x" * pick.randrange(60)})
            jpg = noise[at : at + pick.randrange(2500, 3500)]
            out.write(
                {
                    "__key__": f"{number:08d}",
                    "cls": b"%d" % (number % 1000),
                    "jpg": jpg,
                    "json": caption.encode(),
                }
            )
    return out.shards


def write_volumes(folder: str, count: int) -> list[str]:
    image, label = bytearray(os.urandom(VOLUME)), bytearray(VOLUME)
    head = b"\x93NUMPY\x01\x00v\x00" + b" " * 118
    target = TemplateTarget(f"{folder}/large-%06d.tar")
    with RollingWriter(target, shard_bytes=1 << 40) as out:
        for number in range(count):
            out.write({"__key__": f"{number:06d}", "img.npy": head + image, "seg.npy": head + label})
    return out.shards


def ours(urls: list[str], *, copy: bool) -> Contender:
    def run() -> float:
        start, samples = time.perf_counter(), 0
        for url in urls:
            for _ in read_samples(url, copy=copy):
                samples += 1
        return samples / (time.perf_counter() - start)

    return run


def ours_in_runs(urls: list[str], count: int) -> Contender:
    def run() -> float:
        start, samples = time.perf_counter(), 0
        for url in urls:
            with ShardAccess(url) as shard:
                total = shard.samples or 0
                for first in range(0, total, count):
                    samples += len(shard.read(first, min(count, total - first)))
        return samples / (time.perf_counter() - start)

    return run


def webdataset(urls: list[str]) -> Contender:
    import webdataset as wds

    def run() -> float:
        start, samples = time.perf_counter(), 0
        for _ in wds.WebDataset(urls, shardshuffle=False):
            samples += 1
        return samples / (time.perf_counter() - start)

    return run


def program(command: str, urls: list[str], units: int) -> Contender:
    def run() -> float:
        start = time.perf_counter()
        for url in urls:
            subprocess.run(["sh", "-c", f"{command} {url} > /dev/null"], check=True)
        return units / (time.perf_counter() - start)

    return run


def indexed(urls: list[str], units: int) -> Contender:
    command = [sys.executable, "-P", "-m", "wlshard.cli.index", "--force", *urls]
    compiled = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}  # as an installed package is

    def run() -> float:
        start = time.perf_counter()
        subprocess.run(command, env=compiled, capture_output=True, check=True)
        return units / (time.perf_counter() - start)

    return run


def look(sample: dict[str, object]) -> int:
    """Look at every byte of a sample, as a decoder would; keep nothing."""
    import numpy as np

    total = 0
    for field in ("img.npy", "seg.npy"):
        np.frombuffer(sample[field], np.uint64).max()
        total += len(sample[field])
    return total


def touched(urls: list[str]) -> Contender:
    def run() -> float:
        start = time.perf_counter()
        total = sum(sum(map(look, read_samples(url))) for url in urls)
        return total / (time.perf_counter() - start)

    return run


def touched_webdataset(urls: list[str]) -> Contender:
    import webdataset as wds

    def run() -> float:
        start = time.perf_counter()
        total = sum(map(look, wds.WebDataset(urls, shardshuffle=False)))
        return total / (time.perf_counter() - start)

    return run


def measure(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Run all contenders in turn, the first round to warm up."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    warm_memory()
    for round_ in range(rounds + 1):
        for name, run in contenders.items():
            speed = run()
            if round_:
                speeds[name].append(speed)
    return speeds


def peak_kib(url: str) -> tuple[int, int]:
    """Give the peak memory of a fresh process before it reads a shard, and after."""
    out = subprocess.run([sys.executable, "-c", PEAK, url], check=True, capture_output=True, text=True)
    before, after = map(int, out.stdout.split())
    return before, after


PEAK = """
import sys
from wlshard.shards.reader import read_samples

def peak():
    with open("/proc/self/status") as lines:
        return next(line.split()[1] for line in lines if line.startswith("VmHWM"))

before = peak()
for sample in read_samples(sys.argv[1]):
    pass
print(before, peak())
"""


def write_big(folder: str, size: int) -> str:
    """Write one shard of this many bytes, keys not ascending."""
    noise = os.urandom(1 << 17)
    with RollingWriter(
        TemplateTarget(f"{folder}/big-%06d.tar"), shard_samples=1 << 40, shard_bytes=1 << 50
    ) as out:
        for number in range(size // 111_616):
            out.write({"__key__": f"{number ^ 1:08d}", "jpg": noise[:110_000], "cls": b"1"})
    return out.shards[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the data, 3 rounds")
    parser.add_argument("--folder", help="where the shards are written (default: a temporary folder)")
    options = parser.parse_args()
    samples, count, big, rounds = (10_000, 8, 1 << 28, 3) if options.quick else (100_000, 40, 4 << 30, 5)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        urls = write_small(folder, samples)
        small = {
            "wlshard": ours(urls, copy=False),
            "wlshard, bytes": ours(urls, copy=True),
            "wlshard, runs of 20 by index": ours_in_runs(urls, 20),
            "webdataset": webdataset(urls),
            "tar xO": program("tar xO -f", urls, samples),
        }
        speeds = measure(small, rounds)
        title = f"read {samples:,} × (3 kB jpg, cls, json)"
        show(title, "samples/s", 1, "webdataset", speeds)
        show(title, "samples/s", 1, "tar xO", speeds)
        both = {"wl-index": indexed(urls, samples), "tar tf": program("tar tf", urls, samples)}
        show(f"list {samples:,} × (3 kB jpg, cls, json)", "samples/s", 1, "tar tf", measure(both, rounds))
        urls = write_volumes(folder, count)
        large = {
            "wlshard, every byte touched": touched(urls),
            "webdataset, every byte touched": touched_webdataset(urls),
            "cat": program("cat", urls, 2 * VOLUME * count),
        }
        show(f"read {count} × 2 × 256³ bytes", "GB/s", 1e9, "cat", measure(large, rounds))
        url = write_big(folder, big)
        before, after = peak_kib(url)
        print(f"\n| peak memory on a shard of {os.path.getsize(url) / 1e9:.2f} GB | MiB |\n|---|---|")
        print(f"| before reading | {before / 1024:.1f} |\n| after, keys not ascending | {after / 1024:.1f} |")
        before, after = peak_kib(urls[0])
        print(f"| after {count} pairs of volumes, 16 MiB each | {after / 1024:.1f} |")


if __name__ == "__main__":
    main()
