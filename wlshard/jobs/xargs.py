"""Run a shell command on each sample of shards: `wl-xargs`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from wlshard.jobs.command import Order, check
from wlshard.jobs.each import OnError, ShardJob
from wlshard.jobs.plan import plan

WORK = "wlshard.jobs.command:command"


def xargs_jobs(
    inputs: Sequence[str],
    output: str,
    order: Order,
    *,
    on_error: OnError = "raise",
    start: int = 0,
    stop: int | None = None,
    keys: dict[str, list[str]] | None = None,
    force: bool = False,
) -> list[ShardJob]:
    """Plan the jobs that run a command for each sample of shards. See `plan.outputs_of` for the output.

    start, stop: these samples of each output, counted from 0; keys: only these, by URL of their shard.
    """
    check(order)
    job = ShardJob([], "", WORK, asdict(order), on_error, start=start, stop=stop, keys=keys, force=force)
    return plan(inputs, output, job)
