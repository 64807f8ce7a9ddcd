"""Change one small field of each sample: wl-map's loop against webdataset's reader and writer, and `cat`.

    python tests/bench/bench_map.py [--quick] [--folder DIR] [--only small|photos|xargs]

All contenders of a table run in turn on one processor (but for xargs, -P 2), each into a new file on the same
disk; once with an fsync at the end on every side, once with none on any (nor what has the disk begin before
it: the others do not). Photographs are random bytes of
their size: nobody decodes them. xargs: a command that does nothing, ours from its start to its end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

from warm import warm_memory

from wlshard.jobs.each import run_here
from wlshard.jobs.plan import plan
from wlshard.jobs.transform import Recipe, job_of
from wlshard.shards.output import OutputShard

Contender = Callable[[str], float]  # writes into the folder, gives samples a second
TEXT = b'{"width": 64, "height": 64}'


def make(path: str, samples: int, size: int, *, text: bool) -> None:
    block = os.urandom(size + samples)
    with OutputShard(path) as out:
        for n in range(samples):
            sample = {"__key__": f"{n:09d}", "jpg": block[n : n + size], "cls": b"%d" % (n % 10)}
            out.write(sample | {"json": TEXT} if text else sample)


def ours(path: str, samples: int, *, sync: bool) -> Contender:
    def run(folder: str) -> float:
        start = time.perf_counter()
        (job,) = plan([path], f"{folder}/out.tar", job_of(Recipe(code='_["cls"] += 1')))
        with nullcontext() if sync else _unsynced():
            assert run_here(job).written == samples
        return samples / (time.perf_counter() - start)

    return run


@contextmanager
def _unsynced() -> Iterator[None]:
    with patch("os.fsync", lambda _: None), patch("os.posix_fadvise", lambda *_: None):
        yield


def webdataset(path: str, samples: int, *, sync: bool) -> Contender:
    import webdataset as wds

    def run(folder: str) -> float:
        start = time.perf_counter()
        with open(f"{folder}/out.tar", "wb") as file:
            with wds.TarWriter(file) as out:
                for sample in wds.WebDataset(path, shardshuffle=False):
                    sample["cls"] = str(int(sample["cls"]) + 1).encode()
                    out.write(sample)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        return samples / (time.perf_counter() - start)

    return run


def cat(path: str, samples: int, *, sync: bool) -> Contender:
    then = " && sync {0}/out.tar" if sync else ""

    def run(folder: str) -> float:
        start = time.perf_counter()
        subprocess.run(f"cat {path} > {folder}/out.tar{then.format(folder)}", shell=True, check=True)
        return samples / (time.perf_counter() - start)

    return run


def wl_xargs(path: str, samples: int) -> Contender:
    def run(folder: str) -> float:
        command = [sys.executable, "-P", "-m", "wlshard.cli.xargs", "-q", "-P", "2", "-c", "true", path]
        compiled = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}  # as an installed package is
        start = time.perf_counter()
        subprocess.run([*command, "-o", f"{folder}/out.tar"], env=compiled, check=True)
        return samples / (time.perf_counter() - start)

    return run


def xargs(samples: int) -> Contender:
    lines = "".join(f"{n}\n" for n in range(samples)).encode()

    def run(_: str) -> float:
        start = time.perf_counter()
        subprocess.run(["xargs", "-n", "1", "-P", "2", "sh", "-c", "true"], input=lines, check=True)
        return samples / (time.perf_counter() - start)

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


def show(title: str, base: str, speeds: dict[str, list[float]]) -> None:
    print(f"\n| {title} | samples/s, median | min–max | of {base} |\n|---|---|---|---|")
    reference = statistics.median(speeds[base])
    for name, found in speeds.items():
        middle, low, high = (pick(found) for pick in (statistics.median, min, max))
        print(f"| {name} | {middle:,.0f} | {low:,.0f}–{high:,.0f} | {middle / reference:.2f}× |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer samples and rounds")
    parser.add_argument("--folder", help="where to write (default: a temporary folder)")
    parser.add_argument("--only", choices=["small", "photos", "xargs"], help="one table")
    options = parser.parse_args()
    small, photos, commands, rounds = (
        (5_000, 1_000, 4_000, 5) if options.quick else (50_000, 20_000, 4_000, 7)
    )
    processors = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(dir=options.folder) as parent:
        os.sched_setaffinity(0, {max(processors)})
        for kind, samples, size, fields in (
            ("small", small, 3_000, "3 kB jpg, cls, json"),
            ("photos", photos, 110_000, "110 kB jpg, cls"),
        ):
            if options.only not in (None, kind):
                continue
            path = f"{parent}/{kind}.tar"
            make(path, samples, size, text=kind == "small")
            for sync in (False, True):
                three = {
                    "wlshard": ours(path, samples, sync=sync),
                    "webdataset": webdataset(path, samples, sync=sync),
                    "cat": cat(path, samples, sync=sync),
                }
                title = f"{samples:,} × ({fields}), fsync {'everywhere' if sync else 'nowhere'}"
                show(title, "webdataset", measure(three, rounds, parent))
            os.unlink(path)
        os.sched_setaffinity(0, processors)
        if options.only in (None, "xargs"):
            path = f"{parent}/commands.tar"
            make(path, commands, 3000, text=True)
            pair = {"wl-xargs -P 2 -c true": wl_xargs(path, commands), "xargs -P 2": xargs(commands)}
            show(f"{commands:,} × true", "xargs -P 2", measure(pair, rounds, parent))


if __name__ == "__main__":
    main()
