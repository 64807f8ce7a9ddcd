"""Run one generator in this process: its samples go through a rolling writer into a pool or plain shards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from wlshard import clock
from wlshard.errors import CodecError, GroupingError, UsageError, UserCodeError
from wlshard.jobs.engine import Answer
from wlshard.jobs.gate import Gate
from wlshard.jobs.job import Job, Progress, Report, SharedTemplate, pool_of
from wlshard.jobs.stopping import SealFirst
from wlshard.jobs.usercode import Function, bind, load, samples_of
from wlshard.pool.seal import SealingTarget
from wlshard.sample import KEY, Sample
from wlshard.seeds import seed_of
from wlshard.shards.writer import RollingWriter

log = logging.getLogger(__name__)

TELL_S = 0.1


def do_job(args: Mapping[str, Any], _: memoryview, tell: Callable[[dict[str, Any]], None]) -> Answer:
    """Do a job: a task that tells its progress, when something is sealed and else ten times a second."""
    job, latest = Job(**args), Progress()
    told_at, told_sealed = float("-inf"), -1

    def report(progress: Progress) -> None:
        nonlocal latest, told_at, told_sealed
        latest, now = progress, clock.monotonic()
        if progress.sealed != told_sealed or now - told_at >= TELL_S:
            told_at, told_sealed = now, progress.sealed
            tell(asdict(progress))

    try:
        function = load(job.function)
    except UserCodeError as error:
        raise error from None  # no accident of the generator's, which may not come again: it stays
    try:
        run_job(job, function, report)
    finally:
        tell(asdict(latest))
    return Answer({})


def run_job(job: Job, function: Function, report: Report) -> Progress:
    """Run a generator function in this process, into a pool or plain shards.

    It yields dicts of fields, or tuples if the job's `fields` names them; what it asks for by parameter name
    of rng (a numpy Generator), worker, workers, device, it is given; `args` fills further ones. If it ends
    before `samples` are made it is called again, its rng going on.

    Blocks until it has ended; at `cap` samples in the write buffer it waits for a rotation. `report` hears of
    each sample and, while waiting, of each look at the write buffer. Whatever ends it (an error, SIGTERM and
    SIGINT too), whole samples already made are sealed first.
    Errors: UsageError, UserCodeError, CodecError, GroupingError, AccessDenied, StoreUnavailable.
    """
    pool = pool_of(job.target)
    if job.cap is not None and pool is None:
        raise UsageError("a cap is for a pool: plain shards have no write buffer")
    if job.when_full not in ("wait", "drop"):
        raise UsageError(f"when full: wait or drop, not {job.when_full!r}")
    call = bind(function, _offered(job), job.args)
    target = (
        SharedTemplate(job.target, job.worker, job.workers, job.done)
        if pool is None
        else SealingTarget(pool, any_schema=job.schema == "any")
    )
    how = {"shard_samples": job.shard_samples, "shard_bytes": job.shard_bytes}
    writer = RollingWriter(target, shard_seconds=job.shard_seconds, **how)
    gate = None if job.cap is None or pool is None else Gate(pool, job.cap, job.workers)
    with SealFirst() as signals:
        run = _Run(job, writer, gate, signals, Progress(), report)
        try:
            target.default_key(0)  # a writer has its id from here on: what it seals is known as its own
            run.progress.writer = getattr(target, "writer", None)
            run.tell()
            run.drive(call)
        finally:
            with signals.held():
                try:
                    writer.close()
                finally:
                    run.tell()
    return run.progress


def _offered(job: Job) -> dict[str, Callable[[], Any]]:
    def rng() -> Any:
        import numpy as np

        return np.random.default_rng(seed_of(job.seed, job.worker, job.start))

    about: dict[str, Any] = {"worker": job.worker, "workers": job.workers, "device": job.device}
    return {"rng": rng} | {name: partial(about.__getitem__, name) for name in about}


@dataclass
class _Run:
    """A job under way."""

    job: Job
    writer: RollingWriter
    gate: Gate | None
    signals: SealFirst
    progress: Progress
    report: Report

    def drive(self, call: Function) -> None:
        """Take samples until the job has its number, or the generator ends and none was asked for."""
        job, progress, again = self.job, self.progress, False
        while job.samples is None or progress.generated < job.samples:
            before = progress.generated
            with closing(samples_of(call, job.function, job.fields)) as made:
                while (job.samples is None or progress.generated < job.samples) and self._take(made):
                    pass
            if progress.generated == before:
                which = f" in worker {job.worker} of {job.workers}" if job.workers > 1 else ""
                what = f"ended without yielding a sample{which}: see why it has nothing to do"
                raise UserCodeError(f"{job.function} {what}")
            if job.samples is None:
                return
            if not again and progress.generated < job.samples:
                told = (
                    "%s ended after %d samples and %d are asked for: it is called again, as often as needed"
                )
                log.warning(told, job.function, progress.generated, job.samples)
                again = True

    def _take(self, samples: Iterator[Sample]) -> bool:
        """Have a sample made, once there is room if that is waited for; False: there is none."""
        full = self.job.when_full
        if full == "wait" and self.gate is not None and not self.gate.is_open(self._open()):
            self.gate.wait(self._open, self.tell)
            self.tell()
        sample = next(samples, None)
        if sample is None:
            return False
        if full == "drop" and self.gate is not None and not self.gate.is_open(self._open()):
            self.progress.dropped += 1
        else:
            with self.signals.held():
                self._write(sample)
        self.tell()
        return True

    def _write(self, sample: Sample) -> None:
        try:
            self.writer.write(sample)
        except (CodecError, GroupingError) as error:
            which = f"{self.job.function}, sample {self.progress.generated} of its start {self.job.start}"
            key = error.key or sample.get(KEY)
            raise type(error)(f"{which}: {error.message}", key=key) from error

    def _open(self) -> int:
        """Count samples that are written and not sealed; without a time limit nobody could wait for those."""
        return self.writer.samples - self.writer.sealed if self.job.shard_seconds else 0

    def tell(self, waiting_s: float | None = None) -> None:
        """Report how far it has come."""
        progress, writer = self.progress, self.writer
        progress.generated = writer.samples + progress.dropped
        progress.sealed, progress.shards, progress.bytes = writer.sealed, len(writer.shards), writer.bytes
        progress.waiting_s = waiting_s
        if self.gate is not None:
            progress.buffered = self.gate.buffered
        self.report(progress)
