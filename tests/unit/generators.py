"""Generators and a small language of files for the tests of jobs: they run in child processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wlshard.jobs.gate import log_waits
from wlshard.jobs.generate import run_job
from wlshard.jobs.job import Job, Progress
from wlshard.jobs.usercode import load
from wlshard.pool.pool import Pool

Sample = dict[str, Any]


def generate(function: Any, target: str, **settings: Any) -> Progress:
    """Run a generator in this process."""
    if not target.endswith(".tar"):
        Pool(target).create()
    name = function if isinstance(function, str) else function.__qualname__
    job = Job(name, target, **{one: value for one, value in settings.items() if value is not None})
    return run_job(job, load(function) if isinstance(function, str) else function, log_waits(target))


def numbered(rng: np.random.Generator, worker: int) -> Iterator[Sample]:
    """Samples without end that say whose they are and what their rng gave."""
    n = 0
    while True:
        yield {"json": {"worker": worker, "n": n, "draw": int(rng.integers(2**62))}}
        n += 1


def five(rng: np.random.Generator) -> Iterator[Sample]:
    for n in range(5):
        yield {"json": {"n": n, "draw": int(rng.integers(2**62))}}


def blocking(rng: np.random.Generator, worker: int, folder: str, after: int = 3) -> Iterator[Sample]:
    """A few samples; then say so by a file, and hang until a signal comes."""
    for n in range(after):
        yield {"json": {"n": n, "draw": int(rng.integers(2**62))}}
    Path(folder, f"hangs-{worker}-{os.getpid()}").touch()
    while True:
        time.sleep(60)


def dies_once(rng: np.random.Generator, folder: str, after: int = 7) -> Iterator[Sample]:
    """In its first start: a few samples, then SIGKILL. Later starts go on for ever."""
    first = not Path(folder, "died").exists()
    n = 0
    while True:
        if first and n == after:
            Path(folder, "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield {"json": {"n": n, "draw": int(rng.integers(2**62))}, "bin": bytes(1 << 20)}
        n += 1


def fails() -> Iterator[Sample]:
    yield {"cls": 1}
    raise ValueError("the scanner is on fire")


def fails_at_first() -> Iterator[Sample]:
    raise ValueError("no subject")
    yield {}


def killed() -> Iterator[Sample]:
    os.kill(os.getpid(), signal.SIGKILL)
    yield {}


def exits() -> Iterator[Sample]:
    yield {"cls": 1}
    os._exit(0)


def quits() -> Iterator[Sample]:
    yield {"cls": 1}
    raise SystemExit(0)


def nothing() -> Iterator[Sample]:
    yield from ()


def first_only(worker: int, folder: str) -> Iterator[Sample]:
    """Two samples from worker 0; nothing from the others, once those are there."""
    if worker:
        while not Path(folder, "done").exists():
            time.sleep(0.01)
        return
    yield {"cls": 1}
    yield {"cls": 2}
    Path(folder, "done").touch()


def no_generator() -> int:
    return 3


def triples() -> Iterator[tuple[int, int, int]]:
    yield 1, 2, 3


def pairs() -> Iterator[tuple[int, str]]:
    for n in range(4):
        yield n, f"text {n}"


def bare() -> Iterator[int]:
    yield from range(4)


def unencodable() -> Iterator[Sample]:
    yield {"npy": object()}


def same_key() -> Iterator[Sample]:
    while True:
        yield {"__key__": "a", "cls": 1}


def threaded() -> Iterator[Sample]:
    """Leaves a thread behind that never ends."""
    threading.Thread(target=threading.Event().wait).start()
    yield {"cls": 1}


class Subjects:
    """A generator that is a method."""

    def make(self) -> Iterator[Sample]:
        yield {"cls": 1}


subjects = Subjects()


def prints() -> Iterator[Sample]:
    print("printed by the user")
    yield {"cls": 1}


def asks(worker: int, workers: int, device: str, *, size: int, name: str = "x") -> Iterator[Sample]:
    yield {"json": [worker, workers, device, size, name]}


def spawns(folder: str) -> Iterator[Sample]:
    """A child of its own that would live on, and then hang."""
    child = os.fork()
    if not child:
        while True:
            time.sleep(60)
    Path(folder, f"child-{child}").touch()
    yield {"cls": 1}
    Path(folder, f"hangs-0-{os.getpid()}").touch()
    while True:
        time.sleep(60)


def deaf(folder: str) -> Iterator[Sample]:
    """Does not end when asked to."""
    yield {"cls": 1}
    while True:
        try:
            Path(folder, f"hangs-0-{os.getpid()}").touch()
            time.sleep(60)
        except BaseException:  # noqa: BLE001 — that is its fault
            pass
