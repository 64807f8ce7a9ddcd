"""Whether memory stays flat: one Loader with two workers that goes on for ten minutes.

    python tests/bench/bench_soak.py [--seconds 600] [--folder DIR]

Arrays, strings and ragged fields, shuffled, transformed; the consumer keeps the last three batches, and
breaks an epoch off now and then. Prints what all its processes hold (memory they share counts once), and the
slope of the second half of the time, by least squares.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from warm import warm_memory

from wlshard import Loader, ShardWriter

SAMPLES = 4000


def write(folder: str) -> None:
    random = np.random.default_rng(0)
    with ShardWriter(f"{folder}/x-%d.tar", shard_samples=500) as writer:
        for n in range(SAMPLES):
            ragged = np.arange(n % 100, dtype=np.float32)
            image = random.integers(0, 255, (64, 64, 3), np.uint8)
            writer.write({"image.npy": image, "txt": f"sample {n}", "ragged.npy": ragged})


def flipped(sample: tuple[Any, ...], rng: np.random.Generator) -> tuple[Any, ...]:
    image, *rest = sample
    return image[:, ::-1] if rng.random() < 0.5 else image, *rest


def held(process: int) -> float:
    """Give the MiB of a process; a page that n of them share counts an n-th in each."""
    with open(f"/proc/{process}/smaps_rollup") as file:
        return int(file.read().partition("\nPss:")[2].split()[0]) / 1024


def batches(loader: Loader, until: float) -> Iterator[Any]:
    epoch = 0
    while True:
        epoch += 1
        for number, batch in enumerate(loader):
            yield batch
            if time.monotonic() > until:
                return
            if epoch % 10 == 0 and number == 20:
                break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--folder", help="where to write (default: a temporary folder)")
    options = parser.parse_args()
    fields = "image.npy txt ragged.npy"
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write(folder)
        warm_memory()
        began, shown = time.monotonic(), 0.0
        kept: deque[Any] = deque(maxlen=3)
        seen: list[tuple[float, float, int]] = []
        print("| s | MiB held by all | descriptors |\n|---|---|---|")
        with Loader(folder, fields, batch_size=32, shuffle=1000, transform=flipped, workers=2) as loader:
            for batch in batches(loader, began + options.seconds):
                kept.append(batch)
                now = time.monotonic() - began
                if now < shown:
                    continue
                pids = [os.getpid(), *(worker.pid for worker in loader._hands._workers)]  # type: ignore[attr-defined]
                seen.append((now, sum(map(held, pids)), len(os.listdir("/proc/self/fd"))))
                print(f"| {now:.0f} | {seen[-1][1]:.1f} | {seen[-1][2]} |", flush=True)
                shown = now + options.seconds / 40
            stats = loader.stats()
    half = seen[len(seen) // 2 :]
    slope, _ = np.polyfit([now for now, *_ in half], [size for _, size, _ in half], 1)
    print(f"\n{stats['samples']:,} samples in {stats['epochs']} epochs, {stats['slots_left']} slots left;")
    print(f"slope of the second half: {slope * 3600:+.2f} MiB an hour")


if __name__ == "__main__":
    main()
