"""wl-run: generators, rotation and a consumer, supervised as one."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from wlshard.cli.entry import command
from wlshard.cli.options import COUNT, generator_options
from wlshard.errors import UsageError

if TYPE_CHECKING:
    from wlshard.jobs.run import Snapshot

AT = 100  # samples a rotation, unless told otherwise
CAPS = 4  # times that many may wait before the generators do
LINE_S = 10.0  # between two status lines where they cannot be drawn over each other


@command(
    "wl-run",
    example="""
    wl-run --demo
    wl-run mygen.py:make /data/pool -P 4 --at 500 -- python train.py   # reads os.environ["WL_POOL"]
    """,
)
@click.argument("function", metavar="MODULE:FUNCTION", required=False)
@click.argument("pool", required=False)
@click.argument("consumer", metavar="-- COMMAND…", nargs=-1, type=click.UNPROCESSED)
@generator_options
@click.option("--at", type=COUNT, default=AT, show_default=True, help="Samples that make a rotation.")
@click.option(
    "--pool-samples",
    type=click.IntRange(min=0),
    default=0,
    help="Fill a generation up to so many samples with the newest old ones.  [none: a full swap]",
)
@click.option("--cap", type=COUNT, help=f"Samples in the write buffer at which to wait.  [{CAPS} times --at]")
@click.option(
    "--shard-samples", type=COUNT, help="Samples in a shard.  [so that --at makes two for each process]"
)
def main(
    function: str | None, pool: str | None, consumer: tuple[str, ...], parallel: int, seed: int | None,
    gpus: tuple[str, ...] | None, args: tuple[tuple[str, Any], ...], at: int, pool_samples: int,
    cap: int | None, shard_samples: int | None, **settings: Any,
) -> int:  # fmt: skip
    """Run generators into POOL (made if absent), rotate it, and run COMMAND, which trains on it.

    COMMAND finds the pool in the environment variable WL_POOL. When it ends, or on ^C, everything ends in
    order, and what the generators made is sealed; its exit code is ours. Generators that fail are started
    anew, five times in a row at most. They pause at --cap, so that the disk does not fill.
    """
    from wlshard.jobs.job import Job
    from wlshard.jobs.run import run
    from wlshard.seeds import fresh_seed

    if function is None or pool is None or not consumer:
        raise UsageError("say what generates, where to, and what trains: MODULE:FUNCTION POOL -- COMMAND")
    cap = cap or CAPS * at
    per_shard = shard_samples or max(1, at // (2 * parallel))
    job = Job(
        function, pool, seed=fresh_seed() if seed is None else seed, args=dict(args), cap=cap,
        shard_samples=per_shard, **settings,
    )  # fmt: skip
    print(
        f"wl-run: a rotation each {at} samples; generators pause at {cap}; seed {job.seed}", file=sys.stderr
    )
    with StatusLine() as line:
        keep = {"at": at, "pool_samples": pool_samples}
        return run(job, consumer, parallel=parallel, gpus=gpus or (), show=line.show, **keep)


class StatusLine:
    """One line on stderr: drawn in place on a terminal, else a new one every ten seconds."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown_at = float("-inf")
        self._drawn = False

    def show(self, snapshot: Snapshot) -> None:
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{told(snapshot)[:width]}", end="", file=sys.stderr, flush=True)
            self._drawn = True
        elif time.monotonic() - self._shown_at >= LINE_S:
            self._shown_at = time.monotonic()
            print(told(snapshot), file=sys.stderr, flush=True)

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn:
            print(file=sys.stderr)


def told(snapshot: Snapshot) -> str:
    """Say a snapshot in a line."""
    totals = snapshot.totals
    parts = [
        f"generated {totals.generated}",
        f"buffered {snapshot.buffered}" + (f"/{snapshot.cap}" if snapshot.cap else ""),
        f"generation {snapshot.generation} ({snapshot.samples} samples)",
        f"served {snapshot.served}",
        f"reuse {snapshot.reuse:.1f}",
    ]
    if totals.waiting_s is not None:
        parts.append(f"generators wait {totals.waiting_s:.0f} s")
    if totals.dropped:
        parts.append(f"dropped {totals.dropped}")
    if totals.restarts:
        parts.append(f"restarts {totals.restarts}")
    return " · ".join(parts)
