"""Batches made by two worker processes, beside webdataset and torch's DataLoader with two.

    python tests/bench/bench_workers.py [--quick] [--folder DIR] [--only transport tiles …]

Each round runs every contender once, in turn, in one process, on warm data; the first round does not count.
The tables show medians, min–max and the ratio of medians. Whoever consumes looks at one byte of each page of
each array, and holds a batch until the next one is there, as a `for` loop does.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from warm import warm_memory

from wlshard import Loader, Pool, ShardWriter
from wlshard.workers.memory import Memory, shared_file
from wlshard.workers.slots import FILL_BYTES, SLOTS

WORKERS = 2
Contender = Callable[[], float]  # gives samples, or bytes, a second


def touch(value: Any) -> int:
    """Look at a byte of each page; give the bytes."""
    if isinstance(value, dict):
        return sum(map(touch, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(touch, value))
    if isinstance(value, bytes):
        return len(value)
    array = value.numpy() if hasattr(value, "numpy") else value
    if not isinstance(array, np.ndarray):
        return 0
    flat = array.reshape(-1).view(np.uint8)
    flat[::4096].max(initial=0)
    return flat.nbytes


def consume(loader: Iterable[Any], batches: int) -> tuple[float, int]:
    """Give the seconds that `batches` take, behind a quarter as many that do not count, and their bytes."""
    start, size, before = 0.0, 0, warm(batches)
    for number, batch in enumerate(loader):
        if number == before:
            start, size = time.perf_counter(), 0
        size += touch(batch)
        if number == before + batches - 1:
            break
    return time.perf_counter() - start, size


def warm(batches: int) -> int:
    return max(8, batches // 4)


def compare(title: str, unit: str, rounds: int, base: str, contenders: dict[str, Contender]) -> None:
    found: dict[str, list[float]] = {name: [] for name in contenders}
    warm_memory()
    for round_ in range(rounds + 1):
        for name, run in contenders.items():
            speed = run()
            if round_:
                found[name].append(speed)
    bottom = statistics.median(found[base])
    print(f"\n| {title} | {unit}, median | min–max | of {base} |\n|---|---|---|---|")
    for name, speeds in found.items():
        middle = statistics.median(speeds)
        places = ",.2f" if bottom < 100 else ",.0f"
        spread = f"{min(speeds):{places}}–{max(speeds):{places}}"
        print(f"| {name} | {middle:{places}} | {spread} | {middle / bottom:.1f}× |")
    sys.stdout.flush()


# --- transport


class Arrays:
    """A torch data set of equal arrays."""

    def __init__(self, arrays: list[np.ndarray], count: int) -> None:
        self.arrays, self.count = arrays, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> np.ndarray:
        return self.arrays[number % len(self.arrays)]


def bare(sources: list[np.ndarray], size: int, batches: int) -> float:
    """Give the bytes/s of two processes that copy batches into slots, and of this one that looks at them."""
    each = max(1, FILL_BYTES // size)  # batches a message
    messages = (batches + warm(batches)) // (WORKERS * each)
    rings: list[tuple[list[np.ndarray], socket.socket]] = []
    for _ in range(WORKERS):
        ours, theirs = socket.socketpair()
        ring = []
        for _ in range(SLOTS):
            memory = Memory(fd := shared_file(size * each), size * each)
            os.close(fd)
            memory.fill()
            ring.append(memory.whole())
        rings.append((ring, ours))
        ours.send(b"." * SLOTS)
        if os.fork() == 0:
            for message in range(messages):
                theirs.recv(1)
                for number, row in enumerate(ring[message % SLOTS].reshape(-1, sources[0].size)):
                    row[:] = sources[number % len(sources)]
                theirs.send(b".")
            os._exit(0)
    start, before = 0.0, messages // 5
    for message in range(messages):
        if message == before:
            start = time.perf_counter()
        for ring, end in rings:
            end.recv(1)
            touch(ring[message % SLOTS])
            if message + SLOTS < messages:
                end.send(b".")
    seconds = time.perf_counter() - start
    for _, end in rings:
        end.close()
        os.wait()
    return (messages - before) * WORKERS * each * size / seconds


def transport(rounds: int, quick: bool) -> None:
    from torch.utils.data import DataLoader

    for mebibytes, batch, batches in ((1, 8, 2000), (32, 32, 60), (128, 128, 16)):
        batches = batches // 4 if quick else batches
        arrays = [np.full(2**20 * mebibytes // batch, n, np.uint8) for n in range(4)]
        rows = [
            {"__key__": "k", "__url__": "u", "x": arrays[n % 4]}
            for n in range(batch * (batches + warm(batches)))
        ]

        def ours(
            method: str = "fork", rows: list = rows, batch: int = batch, batches: int = batches
        ) -> float:
            with Loader(rows, "x", batch_size=batch, workers=WORKERS, start_method=method) as loader:
                seconds, size = consume(loader, batches)
            return size / seconds / 1e9

        def theirs(arrays: list = arrays, batch: int = batch, batches: int = batches) -> float:
            loader = DataLoader(
                Arrays(arrays, batch * (batches + warm(batches))), batch_size=batch, num_workers=WORKERS
            )
            seconds, size = consume(loader, batches)
            return size / seconds / 1e9

        def copy(mebibytes: int = mebibytes, batches: int = batches) -> float:
            source, target = np.ones(2**20 * mebibytes, np.uint8), np.ones(2**20 * mebibytes, np.uint8)
            start = time.perf_counter()
            for _ in range(batches):
                target[:] = source
            return 2**20 * mebibytes * batches / (time.perf_counter() - start) / 1e9

        def limit(arrays: list = arrays, size: int = 2**20 * mebibytes, batches: int = batches) -> float:
            return bare(arrays, size, batches) / 1e9

        compare(
            f"batches of {mebibytes} MiB", "GB/s", rounds, "DataLoader",
            {
                "DataLoader": theirs,
                "Loader": ours,
                "Loader, forkserver": partial(ours, "forkserver"),
                "Loader, spawn": partial(ours, "spawn"),
                "copied by two, looked at": limit,
                "memory copy": copy,
            },
        )  # fmt: skip


# --- shards


def per_second(make: Callable[[], Any], batches: int, batch: int) -> Contender:
    def run() -> float:
        loader = make()
        seconds, _ = consume(loader, batches)
        if isinstance(loader, Loader):
            loader.close()
        return batches * batch / seconds

    return run


def shards_of(folder: str, samples: Iterable[dict[str, Any]], per_shard: int) -> list[str]:
    os.makedirs(folder, exist_ok=True)
    with ShardWriter(f"{folder}/x-%06d.tar", shard_samples=per_shard) as writer:
        for sample in samples:
            writer.write(sample)
    return sorted(f"{folder}/{name}" for name in os.listdir(folder) if name.endswith(".tar"))


def piped(
    urls: list[str],
    fields: str,
    batch: int | None,
    *,
    decode: Any = None,
    shuffle: int = 0,
    transform: Any = None,
) -> Any:
    """Give webdataset + DataLoader as their documentation has it: batches are made in the workers."""
    import webdataset
    from torch.utils.data import DataLoader

    data = webdataset.WebDataset(urls, shardshuffle=False).shuffle(shuffle)
    if decode is not None:
        data = data.decode(*decode)
    data = data.to_tuple(*fields.split())
    if transform is not None:
        data = data.map(transform)
    if batch is not None:
        data = data.batched(batch)
    return DataLoader(data, batch_size=None, num_workers=WORKERS)


def volumes(rounds: int, quick: bool, parent: str) -> None:
    count = 12 if quick else 24
    random = np.random.default_rng(0)
    image = random.integers(0, 255, (256,) * 3, np.uint8)
    pairs = ({"__key__": f"{n:06d}", "image.npy": image, "label.npy": image // 64} for n in range(count))
    pool = Pool(f"{parent}/pool").create()
    with ShardWriter(pool, shard_samples=2) as writer:
        for pair in pairs:
            writer.write({name: value for name, value in pair.items() if name != "__key__"})
    pool.rotate()
    urls = [pool.shard_url(shard.name) for shard in pool.manifest(1).shards] * 4
    batches = count * 2

    def ours(**options: Any) -> Callable[[], Loader]:
        return lambda: Loader(pool, "image.npy label.npy", epochs=4, **options)

    compare(
        "256³ uint8 pairs from a pool", "samples/s", rounds, "webdataset + DataLoader",
        {
            "webdataset + DataLoader": per_second(
                lambda: piped(urls, "image.npy label.npy", None, decode=()), batches, 1
            ),
            "Loader": per_second(ours(batch_size=1, workers=WORKERS), batches, 1),
            "Loader, shuffle=12": per_second(ours(batch_size=1, workers=WORKERS, shuffle=12), batches, 1),
            "Loader without batches": per_second(ours(workers=WORKERS), batches, 1),
            "Loader, workers=0": per_second(ours(), batches, 1),
        },
    )  # fmt: skip


def cropped_cv2(sample: tuple[Any, ...]) -> tuple[Any, ...]:
    import cv2

    image, label = sample
    scale = 256 / min(image.shape[:2])
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
    return image[top : top + 224, left : left + 224], label


def cropped_pil(sample: tuple[Any, ...]) -> tuple[Any, ...]:
    image, label = sample
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), 2)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    return np.asarray(image.crop((left, top, left + 224, top + 224))), label


def by_cv2(key: str, data: bytes) -> Any:
    import cv2

    if not key.endswith("jpg"):
        return None
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


_BARE = """
import sys, time, cv2, numpy as np
sys.path.insert(0, sys.argv[1])
from bench_workers import cropped_cv2
cv2.setNumThreads(1)
data = np.frombuffer(open(sys.argv[2], "rb").read(), np.uint8)
for count in (10, int(sys.argv[3])):
    start = time.perf_counter()
    for _ in range(count):
        cropped_cv2((cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), 0))
print(count / (time.perf_counter() - start))
"""


def photos(rounds: int, quick: bool, parent: str) -> None:
    import cv2

    random = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(random.integers(0, 255, (375, 500, 3), np.uint8), (0, 0), 0.8)
    qualities = ([cv2.IMWRITE_JPEG_QUALITY, quality] for quality in range(99, 10, -1))
    encoded = (cv2.imencode(".jpg", smooth, quality)[1].tobytes() for quality in qualities)
    jpg = next(data for data in encoded if len(data) < 111_000)
    batches = 8 if quick else 24
    count = 64 * (batches + warm(batches))
    urls = shards_of(
        f"{parent}/photos", ({"__key__": f"{n:06d}", "jpg": jpg, "cls": n % 10} for n in range(count)), 400
    )
    with open(f"{parent}/one.jpg", "wb") as file:
        file.write(jpg)

    def ours(decode: str, transform: Callable[..., Any]) -> Callable[[], Loader]:
        return lambda: Loader(
            urls,
            "jpg cls",
            batch_size=64,
            shuffle=1000,
            decode=decode,
            transform=transform,
            workers=WORKERS,
            epochs=2,
        )

    def theirs(how: Any, transform: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: piped(urls * 2, "jpg cls", 64, decode=(how,), shuffle=1000, transform=transform)

    def bare() -> float:
        command = [
            sys.executable,
            "-c",
            _BARE,
            os.path.dirname(__file__),
            f"{parent}/one.jpg",
            str(batches * 32),
        ]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(WORKERS)]
        return sum(float(one.communicate()[0]) for one in both)

    compare(
        f"{len(jpg) / 1e3:.0f} kB photographs to 224, batch 64", "samples/s", rounds,
        "webdataset + DataLoader, PIL",
        {
            "webdataset + DataLoader, PIL": per_second(theirs("pil", cropped_pil), batches, 64),
            "webdataset + DataLoader, cv2": per_second(theirs(by_cv2, cropped_cv2), batches, 64),
            "Loader, cv2": per_second(ours("rgb8", cropped_cv2), batches, 64),
            "Loader, PIL": per_second(ours("pil", cropped_pil), batches, 64),
            "decoder alone, two processes": bare,
        },
    )  # fmt: skip


def tiles(rounds: int, quick: bool, parent: str) -> None:
    batches = 20 if quick else 60
    count = 100 * (batches + warm(batches))
    image = np.random.default_rng(0).integers(0, 60_000, (160, 160), np.uint16)
    mask = (image % 5).astype(np.uint8)
    urls = shards_of(
        f"{parent}/tiles",
        ({"__key__": f"{n:06d}", "image.npy": image, "mask.npy": mask} for n in range(count)),
        1000,
    )

    def ours(**options: Any) -> Callable[[], Loader]:
        return lambda: Loader(urls, "image.npy mask.npy", batch_size=100, epochs=2, **options)

    compare(
        "160×160 uint16 tiles and masks, batch 100", "samples/s", rounds, "webdataset + DataLoader",
        {
            "webdataset + DataLoader": per_second(
                lambda: piped(urls * 2, "image.npy mask.npy", 100, decode=()), batches, 100
            ),
            "Loader": per_second(ours(workers=WORKERS), batches, 100),
            "Loader, shuffle=1000": per_second(ours(workers=WORKERS, shuffle=1000), batches, 100),
            "Loader, workers=0": per_second(ours(), batches, 100),
        },
    )  # fmt: skip


def small(rounds: int, quick: bool, parent: str) -> None:
    batches = 40 if quick else 1000  # 200 take a quarter of a second, in which workers have just begun
    count = 256 * 250
    epochs = -(-(batches + warm(batches)) // 250)
    jpg = os.urandom(3000)
    urls = shards_of(
        f"{parent}/small",
        ({"__key__": f"{n:09d}", "jpg": jpg, "cls": b"3", "json": b'{"width": 64}'} for n in range(count)),
        5000,
    )

    def ours(**options: Any) -> Callable[[], Loader]:
        return lambda: Loader(urls, "jpg cls", batch_size=256, decode=False, epochs=epochs, **options)

    compare(
        "3 kB samples undecoded, batch 256", "samples/s", rounds, "webdataset + DataLoader",
        {
            "webdataset + DataLoader": per_second(
                lambda: piped(urls * epochs, "jpg cls", 256), batches, 256
            ),
            "webdataset + DataLoader, shuffle(1000)": per_second(
                lambda: piped(urls * epochs, "jpg cls", 256, shuffle=1000), batches, 256
            ),
            "Loader": per_second(ours(workers=WORKERS), batches, 256),
            "Loader, shuffle=1000": per_second(ours(workers=WORKERS, shuffle=1000), batches, 256),
            "Loader, workers=0": per_second(ours(), batches, 256),
        },
    )  # fmt: skip


def start(rounds: int, parent: str) -> None:
    urls = shards_of(
        f"{parent}/start", ({"__key__": f"{n:06d}", "x.npy": np.zeros(1000)} for n in range(2000)), 500
    )
    warm_memory()
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for method in ("fork", "forkserver", "spawn"):
            began = time.perf_counter()
            with Loader(urls, batch_size=32, shuffle=500, workers=WORKERS, start_method=method) as loader:
                next(iter(loader))
                first = time.perf_counter()
            for name, seconds in (
                ("to the first batch", first - began),
                ("to close", time.perf_counter() - first),
            ):
                found.setdefault(f"{method}, {name}", []).append(1e3 * seconds)
    print("\n| two workers | ms, median | min–max |\n|---|---|---|")
    for name, times in found.items():
        print(f"| {name} | {statistics.median(times):.0f} | {min(times):.0f}–{max(times):.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less data, 3 rounds")
    parser.add_argument("--folder", help="where to write (default: a temporary folder)")
    parser.add_argument(
        "--only", nargs="*", default=["transport", "volumes", "photos", "tiles", "small", "start"]
    )
    options = parser.parse_args()
    rounds = 3 if options.quick else 7
    with tempfile.TemporaryDirectory(dir=options.folder) as parent:
        os.environ["XDG_CACHE_HOME"] = parent
        if "transport" in options.only:
            transport(rounds, options.quick)
        for run in (volumes, photos, tiles, small):
            if run.__name__ in options.only:
                run(rounds, options.quick, parent)
        if "start" in options.only:
            start(rounds, parent)


if __name__ == "__main__":
    main()
