"""wl-index: write the index beside plain shards that have none."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import Any

import click

from wlshard.cli.entry import command, progress, tell
from wlshard.cli.options import force_option, json_option
from wlshard.errors import GroupingError, TarError, UsageError, WlshardError, counted


@command(
    "wl-index",
    example="""
    wl-index 'train-{0000..0147}.tar'
    wl-index --missing /data/shards
    wl-index 's3://bucket/train-*.tar' -o s3://bucket/train.idx
    curl -s http://host/train.tar | wl-index - > train.idx
    """,
)
@click.argument("shards", nargs=-1, required=True)
@click.option("--missing", is_flag=True, help="Only shards that have no index yet.")
@click.option("-o", "--output", metavar="FILE.idx", help="One index of all these shards instead.")
@force_option
@json_option
def main(shards: tuple[str, ...], missing: bool, output: str | None, force: bool, as_json: bool) -> None:
    """Write x.idx beside each plain tar x.tar: counts, random access and resume need no scan any more.

    The format is that of DALI's wds2idx. SHARDS: in any form; - reads stdin and writes the index to stdout,
    as -o - does of a single shard.
    Each index is published whole. A shard that is damaged gets none, is told, and ends the command with 20 or
    21 when the others are done. Compressed shards cannot have one (2).

    -o writes one index of a whole data set, which stands for it as a source everywhere: nothing is asked of a
    shard then before it is read, so that a large bucket opens with a few requests. Shards that have changed
    since are told, and looked at as if they were not in it.
    """
    from wlshard.shards.expand import STDIN, expand
    from wlshard.shards.indexing import check_indexable, make_index, without_index

    # Headers live for a moment; to look at all of them every 700 takes a tenth of the time. Not where the
    # user's code runs: what it leaves in cycles may be large.
    gc.set_threshold(10_000)
    urls = expand(shards)
    if output == "-" or (output is None and urls == [STDIN]):
        if missing or len(urls) > 1:
            raise UsageError("stdout takes the index of one shard: name one, without --missing", url="-")
        sys.stdout.buffer.write(make_index(urls[0]).text)
        return
    if output is not None and (missing or STDIN in urls or not output.endswith(".idx")):
        raise UsageError("-o names one x.idx for all SHARDS: without --missing, and not for stdin (> x.idx)")
    if output is not None:
        made, fault = _write_one(urls, output, force), None
    else:
        if missing:
            urls = without_index(urls)
        check_indexable(urls, force=force)
        made, fault = _write(urls, force)
    text = f"{counted(made['samples'], 'sample')} in {counted(made['shards'], 'shard')} indexed"
    tell("wl-index", made, text, as_json=as_json)
    if fault is not None:
        raise fault


def _write_one(urls: Sequence[str], output: str, force: bool) -> dict[str, Any]:
    from wlshard.shards.dataset import write_dataset

    steps = write_dataset(urls, output, force=force)
    samples = sum(progress(" shards", len(urls), of=steps))
    return {"shards": len(urls), "samples": samples, "indexes": [output]}


def _write(urls: Sequence[str], force: bool) -> tuple[dict[str, Any], WlshardError | None]:
    """Index the shards; give what was done, and the first fault, having told the others."""
    from wlshard.shards.indexing import write_index

    made: dict[str, Any] = {"shards": 0, "samples": 0, "indexes": []}
    first: WlshardError | None = None
    with progress(" shards", len(urls)) as bar:
        for url in urls:
            try:
                index, samples = write_index(url, force=force)
            except (TarError, GroupingError) as fault:
                if first is not None:
                    bar.write(f"wl-index: {fault}", file=sys.stderr)
                first = first or fault
            else:
                made["shards"] += 1
                made["samples"] += samples
                made["indexes"].append(index)
            bar.update()
    return made, first


if __name__ == "__main__":
    main()
