"""Start-up of wl-cat: process start to end, beside `python -c pass`.

    python tests/bench/bench_start.py [--quick]

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

from wlshard.shards.writer import RollingWriter, TemplateTarget

CAT = "from wlshard.cli.cat import main; main()"


def measure(commands: dict[str, list[str]], rounds: int) -> dict[str, list[float]]:
    """Run all commands in turn, the first round to warm up; milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in commands}
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
        shard = out.shards[0]
        times = measure(
            {
                "python -c pass": ["-c", "pass"],
                "python -c 'import click'": ["-c", "import click"],
                "wl-cat --help": ["-P", "-c", CAT, "--help"],
                "wl-cat SHARD jpg": ["-P", "-c", CAT, shard, "jpg"],
                "wl-cat SHARD jpg 999 (by its index)": ["-P", "-c", CAT, shard, "jpg", "999"],
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
