"""Rotate whenever enough waits, then retire: the loop of `wl-rotate --watch` and of `wl-run`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from wlshard import clock
from wlshard.errors import StoreUnavailable, WlshardError
from wlshard.jobs.ledger import append
from wlshard.jobs.stopping import StopFlag
from wlshard.pool.pool import Pool
from wlshard.pool.retire import Retirement
from wlshard.pool.rotate import Policy, Rotation

log = logging.getLogger(__name__)

FAILURES = 5  # of the store in a row before the watch is given up
METRICS_S = 10.0  # between two lines of metrics while nothing happens


class Rotator:
    """Rotates a pool when it is due, and retires. A store that fails is asked again at the next turn, five
    times. `retirement`: what the last turn retired; None: there was no need to look."""

    def __init__(self, pool: Pool, policy: Policy) -> None:
        self.pool, self.policy = pool, policy
        self.retirement: Retirement | None = None
        self._failures = 0
        self._look = True  # there may be something to retire

    def turn(
        self, *, buffered: int | None = None, rest: bool = False, rotate: bool = True
    ) -> Rotation | None:
        """Rotate if it is due, then retire; None if no generation was committed, or the store failed.

        buffered: what is known to wait, else it is looked up (20 ms for 1,000 local shards). rest: whatever
        waits will do, for no more will come. rotate: False only retires.
        """
        self.retirement, done = None, None
        try:
            policy = self.policy
            if buffered is None:
                self.pool.salvage()
                buffered = sum(shard.samples for shard in self.pool.buffer())
            if rotate and (rest or buffered >= max(1, policy.at)):
                done = self.pool.rotate(
                    at=0 if rest else policy.at, pool_samples=policy.pool_samples, max_age_s=policy.max_age_s
                )
                self._look |= done.committed
            if self._look:
                self.retirement = self.pool.retire(self.policy.keep)
                self._look = bool(self.retirement.held)
        except StoreUnavailable as error:
            self._failures += 1
            if self._failures >= FAILURES:
                raise
            log.warning("no rotation (failure %d of %d): %s", self._failures, FAILURES, error)
        else:
            self._failures = 0
        return done if done is not None and done.committed else None


def watch(
    rotator: Rotator,
    interval_s: float,
    show: Callable[[Rotation, Retirement | None], None],
    metrics: str | None = None,
) -> None:
    """Look every `interval_s` seconds, until a signal asks to end; show each rotation that committed.

    A pool that takes long to look at is looked at less often. metrics: a file that gets a line of JSON for
    each turn that did something, and every ten seconds: `time`, the pool's state, `rotation`, `retired`.
    """
    rotator.pool.require()
    noted = float("-inf")
    with StopFlag() as stop:
        while stop.asked is None:
            begun = clock.monotonic()
            done = rotator.turn()
            if done is not None:
                show(done, rotator.retirement)
            news = done is not None or (rotator.retirement is not None and rotator.retirement.retired)
            if metrics is not None and (news or begun - noted >= METRICS_S):
                noted = begun
                _write_metrics(metrics, rotator, done)
            took = clock.monotonic() - begun
            stop.wait(max(0.0, interval_s - took, 5 * took - interval_s))


def _write_metrics(path: str, rotator: Rotator, done: Rotation | None) -> None:
    retired = rotator.retirement
    try:
        line: dict[str, Any] = {"time": clock.now(), **rotator.pool.status().as_json()}
        line["rotation"] = done.as_json() if done else None
        line["retired"] = retired.as_json() if retired else None
        append(path, [line])
    except WlshardError as error:  # the pool matters more
        log.warning("no metrics: %s", error)
