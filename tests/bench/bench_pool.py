"""How fast a pool is: commit until a waiting reader sees it, rotation of many shards, sealing.

python tests/bench/bench_pool.py [--quick] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from warm import warm_memory

from wlshard.loader import Loader
from wlshard.pool.manifest import Stub, parse_manifest
from wlshard.pool.names import ShardName, new_writer
from wlshard.pool.pool import Pool
from wlshard.pool.writer import ShardWriter
from wlshard.tar.header import END_MARK, member_header, padding

POLL_S = 0.005  # of the waiting reader


def tar_of(number: int) -> bytes:
    payload = b"%d" % number
    return (
        member_header(f"{number:09d}.cls", len(payload)) + payload + bytes(padding(len(payload))) + END_MARK
    )


def lay_shards(pool: Pool, count: int) -> None:
    """Seal shards without the fsyncs that a real writer pays for each."""
    folder = Path(pool.url, "shards")
    folder.mkdir(exist_ok=True)
    writers = [new_writer() for _ in range(16)]
    for number in range(count):
        data = tar_of(number)
        name = ShardName(writers[number % 16], number // 16 + 1, 1, hashlib.sha256(data).hexdigest()[:32])
        (folder / str(name)).write_bytes(data)
        (folder / str(name)).with_suffix(".idx").write_bytes(b"v1.2 1\n")


def rotate_many(folder: Path, shards: int) -> float:
    pool = Pool(folder).create()
    lay_shards(pool, shards)
    began = time.perf_counter()
    done = pool.rotate()
    seconds = time.perf_counter() - began
    assert done.promoted.shards == shards
    return seconds


def rotate_few_of_many(folder: Path, shards: int) -> float:
    """A rotation that promotes one shard where `shards` lie covered already."""
    pool = Pool(folder).create()
    lay_shards(pool, shards)
    pool.rotate()
    lay_shards(pool, 1)
    began = time.perf_counter()
    pool.rotate(pool_samples=10**9)
    return time.perf_counter() - began


def commit_to_visible(folder: Path, rounds: int) -> list[float]:
    """Seconds from the return of `rotate` in this process until a thread that polls has the manifest."""
    pool = Pool(folder).create()
    seen: dict[int, float] = {}

    def wait() -> None:
        watcher, last = Pool(folder), 0
        while last < rounds:
            newest = watcher.newest(after=last)
            if newest is None:
                time.sleep(POLL_S)
            else:
                last = newest.generation
                seen[last] = time.perf_counter()

    thread = threading.Thread(target=wait)
    thread.start()
    latencies = []
    for generation in range(1, rounds + 1):
        lay_shards(pool, 1)
        pool.rotate()
        committed = time.perf_counter()
        while generation not in seen:
            time.sleep(0.0005)
        latencies.append(max(0.0, seen[generation] - committed))
    thread.join()
    return latencies


def seal(folder: Path, shards: int, shard_bytes: int, *, synced: bool = True) -> float:
    """Seconds to write and seal shards, fsync (but for `synced=False`) and sha256 included."""
    pool = Pool(folder).create()
    payload = os.urandom(1 << 20)
    with ExitStack() as stack:
        if not synced:
            stack.enter_context(patch("os.fsync", lambda fd: None))
        began = time.perf_counter()
        writer = stack.enter_context(ShardWriter(pool, shard_samples=shard_bytes // len(payload)))
        for _ in range(shards * (shard_bytes // len(payload))):
            writer.write({"bin": payload})
        writer.close()
        return time.perf_counter() - began


def cost_of_fsync(base: str, shards: int, pairs: int) -> list[float]:
    """Speeds of sealing shards of 32 MB, each as a part of that of the same writer without fsync."""
    parts = []
    for pair in range(-1, pairs):  # the first is the warm-up
        took = {}
        for synced in (pair % 2 == 0, pair % 2 == 1):
            os.sync()  # or one side would pay for what the other has left
            with tempfile.TemporaryDirectory(dir=base) as folder:
                took[synced] = seal(Path(folder, "pool"), shards, 1 << 25, synced=synced)
        if pair >= 0:
            parts.append(took[False] / took[True])
    return parts


def plain_write(folder: Path, shards: int, shard_bytes: int) -> float:
    """The same bytes by plain write and fsync: what the disk gives."""
    folder.mkdir()
    payload = os.urandom(1 << 20)
    began = time.perf_counter()
    for number in range(shards):
        with open(folder / str(number), "wb", buffering=0) as file:
            file.writelines(payload for _ in range(shard_bytes // len(payload)))
            os.fsync(file.fileno())
    return time.perf_counter() - began


def lay_large(folder: Path, shards: int, generations: int) -> None:
    """A pool whose newest three generations each name all shards; those before are stubs."""
    pool = Pool(folder).create()
    lay_shards(pool, shards)
    pool.rotate()
    first = pool.newest()
    assert first is not None
    slots = folder / "generations"
    for number in range(generations - 3):
        stub = Stub(number, first.digest, first.txn)
        (slots / f"{number:010d}.json").write_bytes(stub.encode())
    parent = first
    for number in range(generations - 3, generations):
        data = replace(parent, generation=number, parent=parent.digest, floor=generations - 3).encode()
        (slots / f"{number:010d}.json").write_bytes(data)
        parent = parse_manifest(data, "")


LARGE = """
import sys, time
from wlshard.pool.pool import Pool
from wlshard.pool.writer import ShardWriter
folder, what = sys.argv[1:]
if what == "rotate":
    with ShardWriter(folder) as writer:
        writer.write({"cls": 1})
began, used = time.perf_counter(), time.process_time()
if what == "open":
    Pool(folder).newest()
elif what == "status":
    Pool(folder).status()
elif what == "rotate":
    assert Pool(folder).rotate(pool_samples=10**9).committed
else:
    Pool(folder).retire()
took, used = time.perf_counter() - began, time.process_time() - used
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(took, used, int(peak[0].split()[1]) / 1024)
"""


def large(folder: Path, what: str) -> tuple[float, float, float]:
    """Seconds, seconds of the processor and peak MiB of a process that does one thing to a large pool."""
    command = [sys.executable, "-c", LARGE, str(folder), what]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, used, megabytes = map(float, said.split())
    return seconds, used, megabytes


def lease_cost(folder: Path, samples: int) -> tuple[float, float]:
    """Seconds of an epoch, sample by sample, from a pool with its lease; from its shards as plain ones."""
    if not folder.exists():
        pool = Pool(folder).create()
        with ShardWriter(pool, shard_samples=1000) as writer:
            for number in range(samples):
                writer.write({"cls": number})
        pool.rotate()
    took = []
    for source in (str(folder), Pool(folder).shards()):
        with Loader(source, decode=False) as loader:
            len(loader)
            began = time.perf_counter()
            assert sum(1 for _ in loader) == samples
            took.append(time.perf_counter() - began)
    return took[0], took[1]


def row(name: str, values: list[float], unit: str) -> str:
    return f"| {name} | {statistics.median(values):.4g} | {min(values):.4g}–{max(values):.4g} | {unit} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="on the disk to measure")
    options = parser.parse_args()
    many = 1000 if options.quick else 10_000
    runs = 2 if options.quick else 5
    shards, shard_bytes = (2, 1 << 23) if options.quick else (4, 1 << 26)
    full, few, sealing, plain = [], [], [], []
    latencies: list[float] = []
    warm_memory()
    for run in range(-1, runs):  # the first is the warm-up
        with tempfile.TemporaryDirectory(dir=options.folder) as base:
            folder = Path(base)
            taken = (
                rotate_many(folder / "a", many),
                rotate_few_of_many(folder / "b", many),
                seal(folder / "c", shards, shard_bytes),
                plain_write(folder / "d", shards, shard_bytes),
            )
            visible = commit_to_visible(folder / "e", 20)
        if run >= 0:
            for values, value in zip((full, few, sealing, plain), taken, strict=True):
                values.append(value)
            latencies += visible
    megabytes = shards * shard_bytes / 1e6
    print("| what | median | min–max | unit |\n|---|---|---|---|")
    print(row(f"rotate {many} sealed shards", full, "s"))
    print(row(f"rotate 1 more, {many} kept", few, "s"))
    print(row(f"commit to visible, polled every {POLL_S * 1e3:.0f} ms", [v * 1e3 for v in latencies], "ms"))
    print(row(f"seal shards of {shard_bytes >> 20} MiB", [megabytes / value for value in sealing], "MB/s"))
    print(row("plain write + fsync of the same", [megabytes / value for value in plain], "MB/s"))
    with tempfile.TemporaryDirectory(dir=options.folder) as base:
        lay_large(Path(base, "large"), 10 * many, many // 10)
        about = f"{10 * many:,} shards, {many // 10:,} generations"
        for what in ("open", "status", "rotate", "retire"):
            figures = zip(*(large(Path(base, "large"), what) for _ in range(runs)), strict=True)
            for of, unit, values in zip(
                (about, "processor", "peak"), ("s", "s", "MiB"), figures, strict=True
            ):
                print(row(f"{what}: {of}", list(values), unit))
        costs = [lease_cost(Path(base, "lease"), 2 * many) for _ in range(2 * runs)]
        print(row("an epoch with a lease / without", [ours / theirs for ours, theirs in costs], "×"))
    parts = cost_of_fsync(options.folder, 4 if options.quick else 16, 3 * runs)
    print(row("seal shards of 32 MiB / without fsync", parts, "×"))
    ratios = [theirs / ours for ours, theirs in zip(sealing, plain, strict=True)]
    print(row("seal / plain write", ratios, "×"))


if __name__ == "__main__":
    main()
