"""wl-dump: fields of samples to files."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import click

from wlshard.cli.entry import command, progress, tell
from wlshard.cli.options import (
    count_option,
    force_option,
    json_option,
    look_options,
    shards_of,
    skip_option,
)
from wlshard.errors import counted


@command(
    "wl-dump",
    example="""
    wl-dump -o 'out/{key}' train.tar
    wl-dump -o 'photo-{index:06d}' -f 'png;jpg cls' -c 10 'train-{0000..0147}.tar'
    wl-dump -o - -f json train.tar | sha256sum
    wl-dump -o 'threes/{key}' -S '_["cls"] == 3' /data/pool
    """,
)
@click.argument("url")
@click.option("-o", "--output", required=True, metavar="TEMPLATE",
              help="Files are named TEMPLATE.FIELD; {key} and {index:06d} (from 0) stand in it. "
              "-: stdout, one field after the other.")  # fmt: skip
@click.option("-f", "--fields", help="What to write; 'png;jpg' is the first that is there.  [all]")
@count_option
@skip_option
@look_options
@force_option
@json_option
def main(url: str, output: str, fields: str | None, force: bool, as_json: bool, **looked: Any) -> None:
    """Write the fields of samples to files, byte for byte as they stand in the shard.

    A key such as train/00042 makes the folder train. Files stay in the folder that TEMPLATE begins with: a
    key that leads out of it (.., an absolute name) ends the command with 21, a link in the way with 2. What
    is there already is not overwritten. A field that a sample lacks is left out; one that no sample has is an
    error (10).

    URL: shards in any form, a pool (POOL, POOL@n) or - for stdin.
    """
    from wlshard.jobs.dump import FileTree, Stream, dump
    from wlshard.jobs.look import look

    tree = Stream(sys.stdout.buffer) if output == "-" else FileTree(output, force=force)
    count = looked["count"]
    found = progress(" samples", count, of=look(shards_of(url), **looked))
    done = dump(found, tree, fields, single=count == 1)
    told = f"{counted(done.samples, 'sample')} in {counted(done.files, 'file')}"
    tell("wl-dump", asdict(done), f"{told}, {counted(done.bytes, 'byte')}", as_json=as_json and output != "-")


if __name__ == "__main__":
    main()
