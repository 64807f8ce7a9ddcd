"""wl-info: what is in shards, how a pool stands, and whether all of it is whole."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from wlshard.cli.entry import command
from wlshard.cli.options import json_option, max_member_option
from wlshard.errors import TarError, WlshardError

if TYPE_CHECKING:
    from wlshard.pool.source import Resolved
    from wlshard.shards.survey import Survey
    from wlshard.shards.verify import Verification

LOOKED_AT = 1000


@command(
    "wl-info",
    example="""
    wl-info 'photos-{000000..000003}.tar'
    wl-info /data/pool --json -c 10
    wl-info /data/pool --verify
    cat train.tar | wl-info - -c 0 -d none
    """,
)
@click.argument("url")
@click.option("-c", "--count", type=click.IntRange(min=0), default=LOOKED_AT, show_default=True,
              help="Look into so many samples; 0: into all.")  # fmt: skip
@click.option("-d", "--decode", default="stored", show_default=True, metavar="IMAGES",
              help="Images as stored, rgb8, rgb, gray8, gray …; none: decode no field.")  # fmt: skip
@click.option(
    "--verify", is_flag=True, help="Read all of it and list every fault; exit code 20 if there is one."
)
@max_member_option
@json_option
def main(url: str, count: int, decode: str, verify: bool, max_member_bytes: int, as_json: bool) -> int:
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

    source = resolve(url)
    survey = Survey(
        limit=count,
        images=None if decode == "none" else decode,
        lenient=verify,
        max_member_bytes=max_member_bytes,
    )
    verified = _verify(source, survey) if verify else None
    try:
        found = _look(source, survey, verified)
    except WlshardError:
        if verified is None or not verified.faults:
            raise
        found = survey.as_json()
    if verified is not None:
        found.update(verified.as_json())
    print(json.dumps(found) if as_json else "\n".join(told(found)))
    return TarError.code if verified is not None and verified.faults else 0


def _verify(source: Resolved, survey: Survey) -> Verification:
    from tqdm import tqdm

    from wlshard.pool.verify import verify_pool
    from wlshard.shards.verify import verify

    with tqdm(unit="B", unit_scale=True, unit_divisor=1024, disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        if source.pool is None:
            return verify(source.urls, look=survey.add, progress=progress)
        return verify_pool(source.pool, source.generation, look=survey.add, progress=progress)


def _look(source: Resolved, survey: Survey, verified: Verification | None) -> dict[str, Any]:
    """Give what is printed as JSON; look into the samples unless that was done while verifying."""
    if source.pool is None:
        survey.measure(source.urls, None if verified is None else verified.samples)
        return survey.as_json()
    shards = source.pool.shards(source.generation)
    if not shards and source.generation is None:
        shards = [source.pool.shard_url(shard.name) for shard in source.pool.buffer()]
    survey.measure(shards, None if verified is None else verified.samples)
    inside = survey.as_json()
    found = {
        **source.pool.status().as_json(),
        "looked_at": inside["looked_at"],
        "fields": inside["fields"],
    }
    if source.generation is not None:
        about = {name: inside[name] for name in ("shards", "samples", "bytes")}
        found.update(about, generation=source.generation)
    return found


if __name__ == "__main__":
    main()
