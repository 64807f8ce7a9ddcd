"""wl-rotate: promote the write buffer into the next generation, once or again and again."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from wlshard.cli.entry import INTERRUPTED, SKIPPED, command
from wlshard.cli.options import json_option
from wlshard.errors import UsageError

if TYPE_CHECKING:
    from wlshard.pool.rotate import Rotation

WATCH_S = "2"


@command(
    "wl-rotate",
    example="""
    wl-rotate /data/pool
    wl-rotate /data/pool --at 5000 --watch 10 --pool-samples 20000
    """,
    bare={"--watch": WATCH_S},
)
@click.argument("pool")
@click.option("--at", type=click.IntRange(min=0), default=0, help="Only if so many samples wait.  [any]")
@click.option("--watch", type=click.FloatRange(min=0, min_open=True), metavar="[SECONDS]",
              help=f"Look again and again, until ^C.  [every {WATCH_S} s]")  # fmt: skip
@click.option("--pool-samples", type=click.IntRange(min=0), default=0,
              help="Fill up to so many samples with the newest old ones.  [none: a full swap]")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would happen; change nothing.")
@json_option
def main(pool: str, at: int, watch: float | None, pool_samples: int, dry_run: bool, as_json: bool) -> int:
    """Promote what waits in POOL's write buffer: one atomic commit makes it the next generation.

    Readers see the old generation or the new one, never something between. Any number of these may run at
    once. Nothing to promote, or less than --at, is no error: nothing is committed. Exit code 3: a bad shard
    was set aside. With --watch, --json prints a line for each rotation.
    """
    from wlshard.jobs.rotation import Rotator
    from wlshard.jobs.rotation import watch as keep_watch
    from wlshard.pool.pool import Pool

    def show(done: Rotation) -> None:
        if as_json:
            print(json.dumps(done.as_json()), flush=True)
        else:
            print(f"wl-rotate: {_told(done, dry_run)}", file=sys.stderr)

    if watch is not None:
        if dry_run:
            raise UsageError("--dry-run looks once: leave out --watch")
        keep_watch(Rotator(Pool(pool), at=at, pool_samples=pool_samples), watch, show)
        return INTERRUPTED
    done = Pool(pool).rotate(at=at, pool_samples=pool_samples, dry_run=dry_run)
    show(done)
    return SKIPPED if done.quarantined else 0


def _told(done: Rotation, dry_run: bool) -> str:
    if done.generation == done.previous:
        text = f"generation {done.previous} stays: not enough waits in the write buffer"
    else:
        promoted, kept, dropped = done.promoted, done.kept, done.dropped
        would = "would commit " if dry_run else ""
        text = (
            f"{would}generation {done.generation}: {promoted.samples} samples in "
            f"{promoted.shards} shards promoted, {kept.samples} kept, {dropped.samples} dropped"
        )
    bad = "".join(f"\nset aside: {shard} ({reason})" for shard, reason in done.quarantined)
    return text + bad
