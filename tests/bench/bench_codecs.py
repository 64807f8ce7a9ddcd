"""Codecs against webdataset's, interleaved, medians of several runs; and what a volume of the demo takes.

python tests/bench/bench_codecs.py [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from warm import warm_memory
from webdataset import autodecode, writer

from wlshard.codecs import decoder, encode
from wlshard.demo.brains import generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three runs, no volumes above 64³")
    options = parser.parse_args()
    runs = 3 if options.quick else 7
    warm_memory()
    print("| field | decode, µs | webdataset | ratio | encode, µs | webdataset | ratio |")
    print("|---|---|---|---|---|---|---|")
    for field, value, count in fields():
        print(row(field, value, count, runs))
    print("\n| demo volume | s | first |")
    print("|---|---|---|")
    for size in (48, 64) if options.quick else (48, 64, 128, 256):
        print(volumes(size, runs))


def fields():
    rng = np.random.default_rng(0)
    smooth = np.clip(np.cumsum(rng.normal(0, 3, (375, 500, 3)), 1) + 128, 0, 255).astype(np.uint8)
    yield "cls", 7, 20_000
    yield "json", {"label": 7, "name": "photo", "box": [1, 2, 3, 4]}, 5_000
    yield "mp", {"label": 7, "name": "photo", "box": [1, 2, 3, 4]}, 5_000
    yield "jpg", smooth, 30
    yield "png", smooth, 10
    yield "npy", rng.integers(0, 255, (64, 64, 64), dtype=np.uint8), 300
    yield "npy", rng.integers(0, 255, (256, 256, 256), dtype=np.uint8), 5
    yield "ten", [rng.random((64, 64, 64), np.float32)], 100


def row(field, value, count, runs):
    data = bytes(encode(field, value))
    image = autodecode.Decoder([autodecode.imagehandler("rgb8")])
    ours, theirs = decoder(field), lambda data: image.decode1(field, data)
    decode = race(lambda: ours(data), lambda: theirs(data), count, runs)
    handlers = writer.default_handlers
    encoded = race(
        lambda: encode(field, value),
        lambda: writer.encode_based_on_extension1(value, field, handlers),
        count,
        runs,
    )
    shape = getattr(value, "shape", "")
    return f"| {field} {shape} | {' | '.join([*decode, *encoded])} |"


def race(ours, theirs, count, runs):
    """Run both in turns; gives medians with their range, µs a call, and the ratio theirs / ours."""
    times = [[], []]
    for run in range(runs + 1):  # the first one warms up
        for call, taken in zip((ours, theirs), times, strict=True):
            began = time.perf_counter()
            for _ in range(count):
                call()
            if run:
                taken.append((time.perf_counter() - began) / count * 1e6)
    mine, other = (statistics.median(taken) for taken in times)
    said = [f"{statistics.median(t):.4g} ({min(t):.4g}–{max(t):.4g})" for t in times]
    return [*said, f"{other / mine:.1f}"]


def volumes(size, runs):
    source = generate(np.random.default_rng(0), size=size)
    times = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        next(source)
        times.append(time.perf_counter() - began)
    first, rest = times[0], times[1:]
    return f"| {size}³ | {statistics.median(rest):.4f} ({min(rest):.4f}–{max(rest):.4f}) | {first:.3f} |"


if __name__ == "__main__":
    main()
