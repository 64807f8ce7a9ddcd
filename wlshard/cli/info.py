"""wl-info: what is in shards, how a pool stands, and whether all of it is whole."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from wlshard.cli.entry import command, progress
from wlshard.cli.options import force_option, json_option, max_member_option, shards_of
from wlshard.errors import TarError, UsageError, WlshardError

if TYPE_CHECKING:
    from wlshard.pool.pool import Pool
    from wlshard.pool.source import Resolved
    from wlshard.report.gather import Gathered
    from wlshard.shards.survey import Survey
    from wlshard.shards.verify import Verification

LOOKED_AT = 1000
WATCH_S = "2"


@command(
    "wl-info",
    example="""
    wl-info 'photos-{000000..000003}.tar'
    wl-info /data/pool --json -c 10
    wl-info /data/pool --verify
    cat train.tar | wl-info - -c 0 -d none
    """,
    bare={"--watch": WATCH_S},
)
@click.argument("url")
@click.option("-c", "--count", type=click.IntRange(min=0), default=LOOKED_AT, show_default=True,
              help="Look into so many samples; 0: into all.")  # fmt: skip
@click.option("-d", "--decode", default="stored", show_default=True, metavar="IMAGES",
              help="Images as stored, rgb8, rgb, gray8, gray …; none: decode no field.")  # fmt: skip
@click.option("--verify", is_flag=True,
              help="Read all of it and list every fault; exit code 20 if there is one.")  # fmt: skip
@click.option("--html", "report", metavar="FILE",
              help="Write a page: fields, histograms, classes, pictures, faults; - is stdout.")  # fmt: skip
@click.option("--watch", type=click.FloatRange(min=0, min_open=True), metavar="[SECONDS]",
              help=f"A pool's state (--json: a line) again and again.  [every {WATCH_S} s]")  # fmt: skip
@force_option
@max_member_option
@json_option
def main(
    url: str, count: int, decode: str, verify: bool, report: str | None, watch: float | None,
    force: bool, max_member_bytes: int, as_json: bool,
) -> int:  # fmt: skip
    """Show the fields of shards or of a pool: how many, of which type, dtype, shape and range.

    URL: shards in any form, a pool (POOL, POOL@n) or - for stdin. Of a pool, its state comes first:
    generation, write buffer, rates, reuse, age. Samples and bytes are of all shards, fields of the first
    --count samples; before the first rotation, of those in the write buffer.

    --verify applies all that strict reading does, and goes on behind damage. It compares indexes with their
    tars; of a pool, shards with the sha256, samples and bytes that name and manifest promise, in all
    generations and the write buffer, and lists what is left over.
    """
    from wlshard.pool.source import resolve
    from wlshard.report.text import told
    from wlshard.shards.survey import Survey

    gathered = _gathered(report, force, as_json)
    survey = Survey(
        limit=count,
        images=None if decode == "none" else decode,
        lenient=verify or gathered is not None,
        watch=None if gathered is None else gathered.watch,
        max_member_bytes=max_member_bytes,
    )
    source = resolve(url)
    if watch is not None:
        if source.pool is None or verify or report is not None:
            raise UsageError("--watch shows how a pool stands, and nothing else", url=url)
        _watch(source.pool, watch, as_json)
    verified = _verify(source, survey, max_member_bytes) if verify else None
    try:
        found = _look(source, survey, verified)
    except WlshardError:
        if verified is None or not verified.faults:
            raise
        found = survey.as_json()
    if verified is not None:
        found.update(verified.as_json())
    if report is not None and gathered is not None:
        _write(report, url, found, gathered, force)
    if report != "-":
        print(json.dumps(found) if as_json else "\n".join(told(found)))
    return TarError.code if verified is not None and verified.faults else 0


def _watch(pool: Pool, interval_s: float, as_json: bool) -> NoReturn:
    from wlshard import clock
    from wlshard.report.screen import drawn, screen

    drawing = sys.stdout.isatty() and not as_json
    if drawing:
        click.clear()
    while True:
        state = pool.status().as_json()
        if as_json:
            print(json.dumps(state), flush=True)
        elif drawing:
            print(drawn(list(screen(state)), *shutil.get_terminal_size()), end="", flush=True)
        else:
            print("\n".join(screen(state)), end="\n\n", flush=True)
        clock.sleep(interval_s)


def _gathered(report: str | None, force: bool, as_json: bool) -> Gathered | None:
    """Get ready for a report, if one is wanted; refuse it now if it could not be written in the end."""
    if report is None:
        return None
    from wlshard.report.gather import Gathered
    from wlshard.shards.output import refuse_there

    if report == "-" and as_json:
        raise UsageError("--html - and --json both want stdout: name a file for the page")
    if not force:
        refuse_there([report])
    return Gathered()


def _write(report: str, url: str, found: dict[str, Any], gathered: Gathered, force: bool) -> None:
    from wlshard.report.html import page
    from wlshard.store.connect import write_object

    data = page(url, found, gathered)
    if report == "-":
        sys.stdout.buffer.write(data)
    else:
        write_object(report, data, force=force)


def _verify(source: Resolved, survey: Survey, max_member_bytes: int) -> Verification:
    from wlshard.pool.verify import verify_pool
    from wlshard.shards.verify import verify

    with progress("B") as bar:

        def shown(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        how: Any = {"look": survey.add, "progress": shown, "max_member_bytes": max_member_bytes}
        if source.pool is None:
            return verify(source.urls, **how)
        return verify_pool(source.pool, source.generation, **how)


def _look(source: Resolved, survey: Survey, verified: Verification | None) -> dict[str, Any]:
    """Give what is printed as JSON; look into the samples unless that was done while verifying."""
    if source.pool is None:
        survey.measure(source.urls, None if verified is None else verified.samples)
        return survey.as_json()
    state = source.pool.status().as_json(each_shard=True)  # before we hold a generation, too
    shards = source.pool.shards(source.generation)
    if shards:
        shards = shards_of(source)
    elif source.generation is None:
        shards = [source.pool.shard_url(shard.name) for shard in source.pool.buffer()]
    survey.measure(shards, None if verified is None else verified.samples)
    inside = survey.as_json()
    names = [
        "looked_at",
        "fields",
        *(["shards", "samples", "bytes"] if source.generation is not None else []),
    ]
    found = state | {name: inside[name] for name in names}
    return found if source.generation is None else found | {"generation": source.generation}


if __name__ == "__main__":
    main()
