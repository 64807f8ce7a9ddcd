"""A full shuffle of more than memory holds: passes of I/O, memory, and time against `cat` of the same bytes.

    python tests/bench/bench_reshard.py [--quick] [--folder DIR] [--bytes N] [--memory N]

10 GB of 110 kB samples with 1 GB of memory; --quick: 300 MB with 32 MB. Bytes read and written are those of
/proc/self/io (rchar, wchar) of the process that shuffles: what the page cache gives counts as read. `cat` is
followed by `sync` of its file, as the shards are synced.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from warm import warm_memory

from wlshard.shards.output import OutputShard

SAMPLE_BYTES = 110_000
# The process of wl-reshard tells of itself when it is done.
MEASURED = """
import atexit, json, resource, sys
from wlshard.cli.reshard import main

def tell():
    io = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"read": int(io["rchar"]), "written": int(io["wchar"]), "peak": peak}))

atexit.register(tell)
main(sys.argv[1:], prog_name="wl-reshard")
"""
HOW = {"--shuffle": ["--shuffle", "--seed", "1"], "--sort key": ["--sort", "key"], "split": []}


def make(path: str, size: int) -> int:
    """Write a shard of random samples; give its bytes."""
    block = os.urandom(2 * SAMPLE_BYTES)
    with OutputShard(path) as out:
        for n in range(size // (SAMPLE_BYTES + 1500)):
            at = n * 7919 % SAMPLE_BYTES
            out.write({"__key__": f"{n * 7919 % 1_000_003:09d}", "jpg": block[at : at + SAMPLE_BYTES]})
    return os.path.getsize(path)


def cat(folder: str) -> float:
    start = time.perf_counter()
    command = f"cat {folder}/in.tar > {folder}/cat.tar && sync {folder}/cat.tar"
    subprocess.run(command, shell=True, check=True)
    elapsed = time.perf_counter() - start
    os.unlink(f"{folder}/cat.tar")
    return elapsed


def reshard(folder: str, memory: int, how: list[str]) -> tuple[float, dict[str, int]]:
    start = time.perf_counter()
    words = [f"{folder}/in.tar", "-o", f"{folder}/out-%06d.tar", "--memory", str(memory), "--force", *how]
    told = subprocess.run(
        [sys.executable, "-P", "-c", MEASURED, *words], capture_output=True, check=True
    ).stdout
    return time.perf_counter() - start, json.loads(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="300 MB with 32 MB of memory")
    parser.add_argument("--folder", help="where to write (default: a temporary folder)")
    parser.add_argument("--bytes", type=int, default=10 * 10**9)
    parser.add_argument("--memory", type=int, default=10**9)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.quick:
        options.bytes, options.memory = 3 * 10**8, 1 << 25
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        size = make(f"{folder}/in.tar", options.bytes)
        cats: list[float] = []
        runs: dict[str, list[tuple[float, dict[str, int]]]] = {name: [] for name in HOW}
        warm_memory()
        for _ in range(options.rounds):
            cats.append(cat(folder))
            for name, how in HOW.items():
                runs[name].append(reshard(folder, options.memory, how))
    base = statistics.median(cats)
    print(f"{size / 1e9:.2f} GB, {options.memory / 1e6:.0f} MB of memory, cat + sync {base:.2f} s (median)\n")
    print("| wl-reshard | read | written | passes in all | peak memory | time | of cat |")
    print("|---|---|---|---|---|---|---|")
    for name, found in runs.items():
        elapsed, io = statistics.median(one for one, _ in found), found[-1][1]
        peak = max(one["peak"] for _, one in found)
        passes = [io["read"] / size, io["written"] / size]
        print(
            f"| {name} | {passes[0]:.2f} | {passes[1]:.2f} | {sum(passes):.2f} | {peak / 1e6:.0f} MB "
            f"| {elapsed:.2f} s | {elapsed / base:.2f}× |"
        )


if __name__ == "__main__":
    main()
