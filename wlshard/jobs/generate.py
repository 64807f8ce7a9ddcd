"""Run one generator in this process: its samples go through a rolling writer into a pool or plain shards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from wlshard import clock
from wlshard.errors import CodecError, GroupingError, UsageError, UserCodeError
from wlshard.jobs.engine import Answer
from wlshard.jobs.gate import Gate
from wlshard.jobs.job import Job, Progress, Report
from wlshard.jobs.stopping import SealFirst
from wlshard.jobs.targets import SharedTemplate, pool_of
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
