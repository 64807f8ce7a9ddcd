"""Read undecoded samples through the Loader; how soon a commit is seen; memory held against announced.

    python tests/bench/bench_loader.py [--quick] [--folder DIR]

Speed: each round runs every contender once, in turn, on the same warm shards in one process; the table shows
medians, min–max and the ratio of medians. Latency: from the return of `Pool.rotate` to the first batch of a
loader that waits, and of one at its next epoch. Memory: peak RSS of a process that reads, less what it had
before, against `stats()["announced_bytes"]`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from warm import warm_memory

from wlshard import Loader, Pool, ShardWriter, samples

Contender = Callable[[], int]


def write(folder: str, count: int, payload: int, per_shard: int) -> None:
    jpg, text = os.urandom(payload), json.dumps({"width": 64, "height": 64}).encode()
    with ShardWriter(f"{folder}/x-%06d.tar", shard_samples=per_shard) as out:
        for number in range(count):
            out.write({"__key__": f"{number:09d}", "jpg": jpg, "cls": b"3", "json": text})


def drained(make: Callable[[], Iterable[Any]], size: int = 1) -> Contender:
    def run() -> int:
        source = make()
        count = sum(1 for _ in source) * size
        if isinstance(source, Loader):
            source.close()
        return count

    return run


def contenders(folder: str, cache: str) -> dict[str, Contender]:
    import webdataset

    urls = sorted(f"{folder}/{name}" for name in os.listdir(folder) if name.endswith(".tar"))

    def loader(**options: Any) -> Callable[[], Loader]:
        return lambda: Loader(urls, decode=False, cache_dir=cache, **options)

    def plain() -> Iterable[Any]:
        return webdataset.WebDataset(urls, shardshuffle=False)

    def batches() -> Iterable[Any]:
        return plain().shuffle(1000).to_tuple("jpg", "cls", "json").batched(64)

    return {
        "webdataset": drained(plain),
        "webdataset shuffle(1000).to_tuple.batched(64)": drained(batches, 64),
        "samples()": drained(lambda: samples(urls, decode=False)),
        "Loader()": drained(loader()),
        "Loader(batch_size=64)": drained(loader(batch_size=64), 64),
        "Loader(shuffle=1000)": drained(loader(shuffle=1000)),
        'Loader("jpg cls json", batch_size=64, shuffle=1000)': drained(
            loader(fields="jpg cls json", batch_size=64, shuffle=1000), 64
        ),
        "tar xO": lambda: [
            subprocess.run(["tar", "xOf", url], stdout=subprocess.DEVNULL, check=True) for url in urls
        ].__len__(),
    }


def speed(count: int, rounds: int, parent: str) -> None:
    folder = f"{parent}/small"
    os.mkdir(folder)
    write(folder, count, 3000, 10_000)
    found: dict[str, list[float]] = {}
    for round_ in range(rounds + 1):
        for name, run in contenders(folder, f"{parent}/cache").items():
            start = time.perf_counter()
            run()
            if round_:
                found.setdefault(name, []).append(count / (time.perf_counter() - start))
    print(f"\n| read {count:,} × (3 kB jpg, cls, json) | samples/s, median | min–max | of webdataset |")
    print("|---|---|---|---|")
    base = statistics.median(found["webdataset"])
    for name, speeds in found.items():
        middle = statistics.median(speeds)
        print(f"| {name} | {middle:,.0f} | {min(speeds):,.0f}–{max(speeds):,.0f} | {middle / base:.1f}× |")


def latency(rounds: int, parent: str) -> None:
    waiting, following = [], []
    for round_ in range(rounds + 1):
        pool = Pool(f"{parent}/pool-{round_}").create()
        with Loader(pool, batch_size=4, shuffle=48) as loader:
            first: list[float] = []

            def wait(loader: Loader = loader, first: list[float] = first) -> None:
                next(iter(loader))
                first.append(time.perf_counter())

            reader = threading.Thread(target=wait)
            reader.start()
            time.sleep(0.3)
            committed = commit(pool)
            reader.join()
            waiting.append(first[0] - committed)
            committed = commit(pool)
            next(iter(loader))
            following.append(time.perf_counter() - committed)
            assert loader.stats()["generation"] == 2
    print("\n| from commit to the first batch | ms, median | min–max |\n|---|---|---|")
    for name, found in {"of a loader that waits": waiting[1:], "at the next epoch": following[1:]}.items():
        low, middle, high = (1e3 * pick(found) for pick in (min, statistics.median, max))
        print(f"| {name} | {middle:.0f} | {low:.0f}–{high:.0f} |")


def commit(pool: Pool) -> float:
    with ShardWriter(pool) as writer:
        for _ in range(200):
            writer.write({"img.bin": bytes(3000)})
    pool.rotate()
    return time.perf_counter()


_READ = """
import sys, json, numpy
from wlshard import Loader
import wlshard.loader, wlshard.stream.collate
def peak(): return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
base = peak()
most = 0
with Loader(sys.argv[1], decode=False, cache_dir=sys.argv[2], **json.loads(sys.argv[3])) as loader:
    for batch in loader:
        del batch
        if not most: most = loader.stats()["announced_bytes"]
print(peak() - base, most)
"""


def memory(count: int, parent: str) -> None:
    print("\n| memory, MiB | held | announced |\n|---|---|---|")
    cases = [
        ("3 kB", 3000, count, {"batch_size": 64}),
        ("3 kB", 3000, count, {"batch_size": 64, "shuffle": 1000}),
        ("3 kB", 3000, count, {"batch_size": 64, "shuffle": 20_000}),
        ("110 kB", 110_000, count // 10, {"batch_size": 16, "shuffle": 1000}),
        ("16 MB", 2**24, 64, {"batch_size": 1, "shuffle": 12}),
        ("16 MB", 2**24, 64, {"batch_size": 1}),
    ]
    for name, payload, samples_, options in cases:
        folder = f"{parent}/{payload}"
        if not os.path.isdir(folder):
            os.mkdir(folder)
            write(folder, samples_, payload, max(1, samples_ // 8))
        command = [sys.executable, "-c", _READ, folder, f"{parent}/cache", json.dumps(options)]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        held, announced = (int(value) / 2**20 for value in shown.split())
        print(f"| {samples_:,} × {name}, {options} | {held:,.0f} | {announced:,.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples, 3 rounds")
    parser.add_argument("--folder", help="where to write (default: a temporary folder)")
    options = parser.parse_args()
    count, rounds = (10_000, 3) if options.quick else (100_000, 5)
    with tempfile.TemporaryDirectory(dir=options.folder) as parent:
        warm_memory()
        speed(count, rounds, parent)
        warm_memory()
        latency(rounds, parent)
        memory(count, parent)


if __name__ == "__main__":
    main()
