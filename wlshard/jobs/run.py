"""Generators, rotation and a consumer together, from start to orderly end: what `wl-run` does."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from wlshard import clock
from wlshard.errors import StoreUnavailable, UsageError, WlshardError
from wlshard.jobs.consumer import Consumer
from wlshard.jobs.job import Job, is_template
from wlshard.jobs.rotation import Rotator
from wlshard.jobs.stopping import StopFlag
from wlshard.jobs.supervise import Generators, Totals
from wlshard.pool.pool import Pool
from wlshard.pool.rotate import Policy
from wlshard.pool.status import PoolStatus
from wlshard.store.connect import is_local, local_path

log = logging.getLogger(__name__)

TURN_S = 1.0  # between two looks at the pool
PATIENCE_S = 10.0  # for the consumer to end by itself after ^C, before it gets SIGTERM
INTERRUPTED = 130


@dataclass(frozen=True)
class Snapshot:
    """What a running pool looks like, once a second; counts of samples.

    `served` and `reuse` (served / promoted) are of the pool's whole life. What readers note of themselves may
    be some seconds old.
    """

    totals: Totals
    buffered: int
    cap: int | None
    generation: int
    samples: int
    served: int
    reuse: float


def run(
    job: Job,
    command: Sequence[str],
    *,
    parallel: int,
    at: int,
    pool_samples: int = 0,
    reuse: float = 0.0,
    gpus: Sequence[str] = (),
    show: Callable[[Snapshot], None],
) -> int:
    """Run generators into a pool, rotate it, and run a command on it; give the command's exit code.

    The command finds the pool's URL in WL_POOL. All ends when the command does, or on SIGINT, SIGTERM
    and SIGHUP (130): the command first, then the generators, which seal. When the generators are done, what
    waits is promoted, and the command goes on alone. A second signal kills what is still there.
    Errors of the generators and the store end the run, too. reuse: a rotation waits until the samples of the
    newest generation have been served so many times, on average, by readers that account for it.
    """
    if is_template(job.target):
        raise UsageError("name a pool: plain shards cannot be rotated", url=job.target)
    if job.cap is not None and job.cap < at:
        raise UsageError(f"a cap of {job.cap} stops the generators before the {at} of --at can be there")
    # The URL is to mean the same in every folder.
    url = os.path.abspath(local_path(job.target)) if is_local(job.target) else job.target
    with StopFlag() as stop:

        def hurry() -> bool:
            return stop.count > 1

        generators = Generators(job, parallel, gpus=gpus, hurry=hurry)
        consumer = Consumer(command, {"WL_POOL": url}, hurry=hurry)
        rotator = Rotator(Pool(job.target), Policy(at, pool_samples))
        course = _Course(generators, rotator, reuse, job.cap, show)
        consumer.require()
        with generators, consumer:
            while consumer.poll() is None and stop.asked is None:
                course.step()
            if stop.asked == signal.SIGINT:
                consumer.interrupt()
                until = clock.monotonic() + PATIENCE_S
                while consumer.poll() is None and clock.monotonic() < until and not hurry():
                    course.step()
            code = consumer.poll()
        with suppress(WlshardError):  # the run is over: that its last line cannot be told is no failure
            course.look()
    return INTERRUPTED if stop.asked is not None or code is None else code


@dataclass
class _Course:
    """What happens again and again while the consumer runs."""

    generators: Generators
    rotator: Rotator
    reuse: float
    cap: int | None
    show: Callable[[Snapshot], None]
    _next: float = 0.0
    _emptied: bool = False

    def step(self) -> None:
        """Hear the generators, for a moment; each second, rotate if due and show how it stands."""
        if clock.monotonic() >= self._next:
            begun = clock.monotonic()
            self._turn()
            took = clock.monotonic() - begun
            self._next = begun + max(TURN_S, 10 * took)  # a pool of very many shards takes long to look at
        self.generators.step(max(0.0, self._next - clock.monotonic()))

    def look(self) -> PoolStatus | None:
        """Show how it stands; None: the store does not say."""
        pool = self.rotator.pool
        try:
            status = pool.status()
        except StoreUnavailable as error:
            log.warning("%s", error)
            return None
        self.show(
            Snapshot(
                totals=self.generators.totals(),
                buffered=status.buffer.samples,
                cap=self.cap,
                generation=status.generation,
                samples=status.samples,
                served=status.served_total,
                reuse=status.reuse_total,
            )
        )
        return status

    def _turn(self) -> None:
        status = self.look()
        if status is None:
            return
        done = self.generators.done
        rest = done and not self._emptied
        due = not status.samples or status.reuse >= self.reuse
        self.rotator.turn(buffered=status.buffer.samples, rest=rest, rotate=due)
        self._emptied |= done and due
