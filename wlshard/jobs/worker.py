"""One worker of a generator run: the process it has now, and what all its starts have made so far."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from wlshard.errors import UserCodeError, WlshardError
from wlshard.jobs.engine import error_of
from wlshard.jobs.frames import send
from wlshard.jobs.job import Job, Progress, pool_of, published
from wlshard.jobs.process import Process, how_it_ended
from wlshard.pool.buffer import sealed_shards


class Worker:
    """Starts a process for its share of a job, hears its progress, and settles what it left.

    `left`: samples of the share that no start has sealed or dropped; None: no share, the generator decides.
    `failures`: starts in a row that failed; one that went on after sealing a shard begins a new row, and
    has `proven` that it can work. `error`: of the last start; `accident`: it may not come again.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.left = job.samples
        self.done = job.samples == 0
        self.failures = 0
        self.proven = False
        self.due: float | None = None  # when the next start is, by the monotonic clock
        self.error: WlshardError | None = None
        self.accident = True
        self.warned = ""  # the last error that was warned of
        self.latest = Progress()
        self._before = Progress()  # sum of the starts that ended
        self._code = 0  # what the last process ended with
        self._unread = b""
        self.silent = False  # the process has closed its pipe

    process: Process  # the latest

    def start(self) -> None:
        """Start the next process: a new writer with its own seed."""
        self.due, self.error, self.accident = None, None, True
        self.latest, self._unread, self.silent = Progress(), b"", False
        job = replace(self.job, samples=self.left, done=(self._before.shards, self._before.sealed))
        self.job = replace(self.job, start=self.job.start + 1)
        # numpy's and torch's threads, unless the user says how many: P times all cores is slower than one
        threads = max(1, (os.cpu_count() or 1) // self.job.workers)
        self.process = Process("wlshard.jobs.serve", {"OMP_NUM_THREADS": str(threads), **os.environ})
        os.set_blocking(self.process.status, False)
        task = {"function": "wlshard.jobs.generate:do_job", "args": asdict(job), "tells": True}
        with suppress(BrokenPipeError):  # dead already: its end will be seen
            send(self.process.to, task)

    def hear(self) -> None:
        """Take in what the process has told."""
        with suppress(BlockingIOError):
            while data := os.read(self.process.status, 65536):
                *lines, self._unread = (self._unread + data).split(b"\n")
                for line in lines:
                    if line.startswith(b"[{"):
                        self._take(json.loads(line)[0])
                    else:  # printed by something that runs before us: a sitecustomize, say
                        os.write(2, line + b"\n")
            self.silent = True

    def _take(self, told: dict[str, Any]) -> None:
        if "news" in told:
            progress = Progress(**told["news"])
            if self.latest.sealed and progress.generated > self.latest.generated:
                self.failures, self.proven = 0, True
            self.latest = progress
        elif "error" in told:
            self.error, self.accident = error_of(told["error"]), told["accident"]
        else:
            self.done = True

    def total(self) -> Progress:
        """Sum up all starts."""
        return self._before.plus(self.latest)

    def reap(self) -> None:
        """Take leave of a process that ended, and of whatever it started."""
        self.hear()
        self._code = self.process.reap()

    def settle(self) -> None:
        """After `reap`, seal and count what the process left. It is done, or `error` tells why not."""
        if not self.done:
            self.failures += 1
            if self.error is None:
                which = f"{self.job.function}, worker {self.job.worker}, start {self.job.start - 1}"
                how = f"its process {how_it_ended(self._code)}; see above for what it printed"
                self.error = UserCodeError(f"{which}: {how}")
            self._count_what_is_there()
        self._before, self.latest = self.total(), Progress()
        if self.job.samples is not None:
            self.left = max(0, self.job.samples - self._before.sealed - self._before.dropped)

    def _count_what_is_there(self) -> None:
        """Correct the progress of a process that could not tell its last: by what is published."""
        latest, pool = self.latest, pool_of(self.job.target)
        if pool is None:
            shards, samples, size = published(
                self.job.target, self.job.worker, self.job.workers, self._before.shards
            )
        else:
            pool.salvage()
            # Twice the same number: it was salvaged while it lived on. The larger holds the smaller.
            own = {
                shard.parsed.seq: shard
                for shard in sorted(sealed_shards(pool.store), key=lambda each: each.samples)
                if shard.parsed.writer == latest.writer
            }
            samples = sum(shard.samples for shard in own.values())
            shards, size = len(own), sum(shard.bytes for shard in own.values())
        if samples > latest.sealed:
            latest.sealed, latest.shards, latest.bytes = samples, shards, size
        latest.generated = max(latest.generated, latest.sealed + latest.dropped)
