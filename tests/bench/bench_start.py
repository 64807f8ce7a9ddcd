"""Start-up of wl-cat: process start to end, beside `python -c pass`.

    python tests/bench/bench_start.py [--quick]

The last rows: sample n of a shard of 4 GB by its index; its photographs are holes in the file, its headers
and its index are real.

Each round runs every command once, in turn; the table: medians, min–max, what is added to bare python.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from warm import warm_memory

from wlshard.shards.writer import RollingWriter, TemplateTarget
from wlshard.tar.header import END_MARK, member_header, padding
from wlshard.tar.index import format_index

CAT = "from wlshard.cli.cat import main; main()"


def make_large(path: str, samples: int = 39_000, size: int = 110_000) -> str:
    """Write a shard of 4.3 GB that takes hardly any space, and its index."""
    at, located = 0, []
    with open(f"{path}.tar", "wb") as tar:
        for number in range(samples):
            sample = []
            for field, bytes_ in ("cls", 1), ("jpg", size):
                name = f"{number:09d}.{field}"
                tar.seek(at)
                tar.write(member_header(name, bytes_))
                sample.append((field, at + 512, bytes_, name))
                at += 512 + bytes_ + padding(bytes_)
            located.append(sample)
        tar.seek(at)
        tar.write(END_MARK)
    with open(f"{path}.idx", "wb") as index:
        index.write(format_index(located))
    return f"{path}.tar"


def measure(commands: dict[str, list[str]], rounds: int) -> dict[str, list[float]]:
    """Run all commands in turn, the first round to warm up; milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    warm_memory()
    for round_ in range(rounds + 1):
        for name, arguments in commands.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            if round_:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 rounds")
    rounds = 5 if parser.parse_args().quick else 25
    with tempfile.TemporaryDirectory() as folder:
        with RollingWriter(TemplateTarget(f"{folder}/x-%06d.tar")) as out:
            for number in range(1000):
                out.write({"jpg": os.urandom(3000), "cls": number % 10})
        shard, large = out.shards[0], make_large(f"{folder}/large")
        times = measure(
            {
                "python -c pass": ["-c", "pass"],
                "python -c 'import click'": ["-c", "import click"],
                "wl-cat --help": ["-P", "-c", CAT, "--help"],
                "wl-cat SHARD jpg": ["-P", "-c", CAT, shard, "jpg"],
                "wl-cat SHARD jpg 999 (by its index)": ["-P", "-c", CAT, shard, "jpg", "999"],
                "wl-cat 4GB jpg": ["-P", "-c", CAT, large, "jpg"],
                "wl-cat 4GB jpg 1": ["-P", "-c", CAT, large, "jpg", "1"],
                "wl-cat 4GB jpg 20000": ["-P", "-c", CAT, large, "jpg", "20000"],
                "wl-cat 4GB jpg 38999": ["-P", "-c", CAT, large, "jpg", "38999"],
            },
            rounds,
        )
    base = statistics.median(times["python -c pass"])
    print("| command | ms, median | min–max | more than python |\n|---|---|---|---|")
    for name, found in times.items():
        middle = statistics.median(found)
        print(f"| `{name}` | {middle:.0f} | {min(found):.0f}–{max(found):.0f} | {middle - base:.0f} |")


if __name__ == "__main__":
    main()
