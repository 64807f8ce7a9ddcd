"""wl-rotate: promote the write buffer into the next generation, once or again and again."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from wlshard.cli.entry import INTERRUPTED, SKIPPED, command
from wlshard.cli.options import json_option
from wlshard.errors import NotFound, UsageError, counted

if TYPE_CHECKING:
    from wlshard.pool.pool import Pool
    from wlshard.pool.retire import Retirement
    from wlshard.pool.rotate import Rotation

WATCH_S = "2"


@command(
    "wl-rotate",
    example="""
    wl-rotate /data/pool
    wl-rotate /data/pool --at 5000 --watch 10 --pool-samples 20000 --metrics rotate.jsonl
    wl-rotate /data/pool --pin best   # keeps the newest generation for a week
    """,
    bare={"--watch": WATCH_S},
)
@click.argument("pool")
@click.option("--at", type=click.IntRange(min=0), default=0, help="Only if so many samples wait.  [any]")
@click.option("--watch", type=click.FloatRange(min=0, min_open=True), metavar="[SECONDS]",
              help=f"Look again and again, until ^C.  [every {WATCH_S} s]")  # fmt: skip
@click.option("--pool-samples", type=click.IntRange(min=0), default=0,
              help="Fill up to so many samples with the newest old ones.  [none: a full swap]")  # fmt: skip
@click.option("--max-age", "max_age_s", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
              help="Of the old ones, none sealed longer ago than that.")  # fmt: skip
@click.option("--keep", type=click.IntRange(min=2), metavar="K",
              help="Generations that stay readable, in this run.  [what the pool was made with]")  # fmt: skip
@click.option("--pin", metavar="NAME", help="Keep what is newest then readable for 7 days, under this name.")
@click.option("--unpin", metavar="NAME", help="Release a pin; nothing is promoted.")
@click.option("--metrics", metavar="FILE", help="With --watch: append the pool's state as lines of JSON.")
@click.option("--dry-run", is_flag=True, help="Say what would be promoted; change nothing.")
@json_option
def main(
    pool: str, at: int, watch: float | None, pool_samples: int, max_age_s: float | None, keep: int | None,
    pin: str | None, unpin: str | None, metrics: str | None, dry_run: bool, as_json: bool,
) -> int:  # fmt: skip
    """Promote what waits in POOL's write buffer: one atomic commit makes it the next generation.

    Readers see the old generation or the new one, never something between. Nothing to promote, or less than
    --at, is no error: nothing is committed. Exit code 3: a bad shard was set aside.

    Then generations older than the newest K are retired, except those that readers or pins hold, and shards
    that none names any more are deleted. Any number of these may run at once. With --watch, --json prints a
    line for each rotation.
    """
    from wlshard.jobs.rotation import Rotator
    from wlshard.jobs.rotation import watch as keep_watch
    from wlshard.pool.accounting import check_pin
    from wlshard.pool.pool import Pool
    from wlshard.pool.rotate import Policy

    def show(done: Rotation, retired: Retirement | None, pinned: int | None = None) -> None:
        if as_json:
            told = {**done.as_json(), "retired": retired and retired.as_json(), "pinned": pinned}
            print(json.dumps(told), flush=True)
        else:
            print(f"wl-rotate: {_told(done, retired, dry_run)}", file=sys.stderr)
            if pinned is not None:
                print(f"wl-rotate: generation {pinned} is pinned as {pin}", file=sys.stderr)

    opened = Pool(pool)
    if watch is not None:
        if dry_run or pin is not None or unpin is not None:
            raise UsageError("--dry-run, --pin and --unpin look once: leave out --watch")
        rotator = Rotator(opened, Policy(at, pool_samples, max_age_s, keep))
        keep_watch(rotator, watch, show, metrics)
        return INTERRUPTED
    if metrics is not None:
        raise UsageError("--metrics are of many looks: add --watch")
    if unpin is not None:
        if dry_run or pin is not None:
            raise UsageError("--unpin is done by itself: leave out --dry-run and --pin")
        return _unpin(opened, unpin, keep, as_json)
    if pin is not None:
        check_pin(pin)
    done = opened.rotate(at=at, pool_samples=pool_samples, max_age_s=max_age_s, dry_run=dry_run)
    pinned = opened.pin(pin) if pin is not None and not dry_run else None
    show(done, None if dry_run else opened.retire(keep), pinned)
    return SKIPPED if done.quarantined else 0


def _unpin(pool: Pool, name: str, keep: int | None, as_json: bool) -> int:
    pool.require()
    released = pool.unpin(name)
    if not released:
        raise NotFound(f"there is no pin {name!r}: see wl-info", url=pool.url)
    retired = pool.retire(keep)
    if as_json:
        print(json.dumps({"pool": pool.url, "unpinned": released, "retired": retired.as_json()}))
    else:
        print(f"wl-rotate: released generation {' '.join(map(str, released))}", file=sys.stderr)
    return 0


def _told(done: Rotation, retired: Retirement | None, dry_run: bool) -> str:
    if done.generation == done.previous:
        text = f"generation {done.previous} stays: not enough waits in the write buffer"
    else:
        promoted, kept, dropped = done.promoted, done.kept, done.dropped
        would = "would commit " if dry_run else ""
        came = f"{counted(promoted.samples, 'sample')} in {counted(promoted.shards, 'shard')} promoted"
        left = f"{kept.samples:,} kept, {dropped.samples:,} dropped"
        text = f"{would}generation {done.generation}: {came}, {left}"
    if retired is not None and (retired.retired or retired.held):
        held = "".join(f"; {number} held by {', '.join(by)}" for number, by in retired.held.items())
        deleted = f"{counted(retired.shards, 'shard')} deleted{held}"
        text += f"; {counted(len(retired.retired), 'generation')} retired, {deleted}"
    bad = "".join(f"\nset aside: {shard} ({reason})" for shard, reason in done.quarantined)
    return text + bad
