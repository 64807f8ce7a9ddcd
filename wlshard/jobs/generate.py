"""Run one generator in this process: its samples go through a rolling writer into a pool or plain shards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from wlshard.errors import CodecError, GroupingError, UsageError, UserCodeError
from wlshard.jobs.gate import Gate, log_waits
from wlshard.jobs.job import Job, Progress, Report, WhenFull
from wlshard.jobs.stopping import SealFirst
from wlshard.jobs.targets import open_target, pool_of
from wlshard.jobs.usercode import Function, bind, function_name, load, samples_of
from wlshard.sample import KEY, Sample
from wlshard.seeds import fresh_seed, seed_of
from wlshard.shards.writer import RollingWriter

log = logging.getLogger(__name__)


def generate(
    function: Function | str,
    target: str,
    *,
    samples: int | None = None,
    seed: int | None = None,
    fields: Sequence[str] | None = None,
    args: Mapping[str, Any] | None = None,
    cap: int | None = None,
    when_full: WhenFull = "wait",
    shard_samples: int = 10_000,
    shard_bytes: int = 2**28,
    shard_seconds: float | None = 60.0,
) -> Progress:
    """Run a generator function in this process, into a pool (made if absent) or a template `x-%06d.tar`.

    function: yields dicts of fields, or tuples if `fields` names them; what it asks for by parameter name of
    rng (a numpy Generator), worker, workers, device, it is given; `args` fills further ones. If it ends
    before `samples` are made it is called again, its rng going on. seed: None is fresh entropy.

    Blocks until it has ended; at `cap` samples in the write buffer it waits for a rotation, and says so.
    Whatever ends it (an error, SIGTERM and SIGINT too), whole samples already made are sealed first.
    Errors: UsageError, UserCodeError, CodecError, GroupingError, AccessDenied, StoreUnavailable.
    """
    pool = pool_of(target)
    if pool is not None:
        pool.create()
    job = Job(
        function=function if isinstance(function, str) else function_name(function),
        target=target,
        samples=samples,
        seed=fresh_seed() if seed is None else seed,
        fields=fields,
        args=args or {},
        cap=cap,
        when_full=when_full,
        shard_samples=shard_samples,
        shard_bytes=shard_bytes,
        shard_seconds=shard_seconds,
    )
    return run_job(job, load(function) if isinstance(function, str) else function, log_waits(target))


def run_job(job: Job, function: Function, report: Report) -> Progress:
    """Do a job; `report` hears of each sample and, while waiting, of each look at the write buffer."""
    pool = pool_of(job.target)
    if job.cap is not None and pool is None:
        raise UsageError("a cap is for a pool: plain shards have no write buffer")
    if job.when_full not in ("wait", "drop"):
        raise UsageError(f"when full: wait or drop, not {job.when_full!r}")
    call = bind(function, _offered(job), job.args)
    target = open_target(job.target, job.worker, job.workers, job.done, any_schema=job.schema == "any")
    writer = RollingWriter(
        target,
        shard_samples=job.shard_samples,
        shard_bytes=job.shard_bytes,
        shard_seconds=job.shard_seconds,
    )
    gate = None if job.cap is None or pool is None else Gate(pool, job.cap, job.workers)
    progress = Progress()
    with SealFirst() as signals:
        try:
            target.default_key(0)  # a writer has its id from here on: what it seals is known as its own
            progress.writer = getattr(target, "writer", None)
            report(progress)
            _drive(job, call, _Intake(job, writer, gate, signals, progress, report))
        finally:
            with signals.held():
                try:
                    writer.close()
                finally:
                    _note(progress, writer)
                    progress.waiting_s = None
                    report(progress)
    return progress


def _offered(job: Job) -> dict[str, Callable[[], Any]]:
    def rng() -> Any:
        import numpy as np

        return np.random.default_rng(seed_of(job.seed, job.worker, job.start))

    return {
        "rng": rng,
        "worker": lambda: job.worker,
        "workers": lambda: job.workers,
        "device": lambda: job.device,
    }


def _drive(job: Job, call: Function, intake: _Intake) -> None:
    """Take samples until the job has its number, or the generator ends and none was asked for."""
    progress, again = intake.progress, False
    while job.samples is None or progress.generated < job.samples:
        before = progress.generated
        with closing(samples_of(call, job.function, job.fields)) as made:
            for sample in intake.admitted(made):
                intake.take(sample)
                if job.samples is not None and progress.generated >= job.samples:
                    return
        if progress.generated == before:
            which = f" in worker {job.worker} of {job.workers}" if job.workers > 1 else ""
            raise UserCodeError(
                f"{job.function} ended without yielding a sample{which}: see why it has nothing to do"
            )
        if job.samples is None:
            return
        if not again:
            log.warning(
                "%s ended after %d samples and %d are asked for: it is called again, as often as needed",
                job.function, progress.generated, job.samples,
            )  # fmt: skip
            again = True


@dataclass
class _Intake:
    """What happens to each sample of one job."""

    job: Job
    writer: RollingWriter
    gate: Gate | None
    signals: SealFirst
    progress: Progress
    report: Report

    def admitted(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        """Pass samples on; before each one is made, wait for room if that is what to do when full."""
        while True:
            if self.gate is not None and self.job.when_full == "wait" and not self.gate.is_open(self._open()):
                self.gate.wait(self._open, self._wait)
                self.progress.waiting_s = None
                self.report(self.progress)
            sample = next(samples, None)
            if sample is None:
                return
            yield sample

    def take(self, sample: Sample) -> None:
        if self.gate is not None and self.job.when_full == "drop" and not self.gate.is_open(self._open()):
            self.progress.buffered = self.gate.buffered
            self.progress.dropped += 1
            self.progress.generated += 1
        else:
            with self.signals.held():
                self._write(sample)
        self.report(self.progress)

    def _write(self, sample: Sample) -> None:
        try:
            self.writer.write(sample)
        except (CodecError, GroupingError) as error:
            which = f"{self.job.function}, sample {self.progress.generated} of its start {self.job.start}"
            key = error.key or sample.get(KEY)
            raise type(error)(f"{which}: {error.message}", key=key) from error
        finally:
            _note(self.progress, self.writer)

    def _open(self) -> int:
        """Count samples that are written and not sealed; without a time limit nobody could wait for those."""
        return self.writer.samples - self.writer.sealed if self.job.shard_seconds else 0

    def _wait(self, seconds: float) -> None:
        assert self.gate is not None
        _note(self.progress, self.writer)
        self.progress.waiting_s, self.progress.buffered = seconds, self.gate.buffered
        self.report(self.progress)


def _note(progress: Progress, writer: RollingWriter) -> None:
    progress.generated = writer.samples + progress.dropped
    progress.sealed, progress.shards, progress.bytes = writer.sealed, len(writer.shards), writer.bytes
