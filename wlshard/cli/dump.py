"""wl-dump: fields of samples to files."""

from __future__ import annotations

import sys

import click

from wlshard.cli.entry import command
from wlshard.cli.options import (
    count_option,
    force_option,
    json_option,
    max_member_option,
    seed_option,
    select_option,
    shards_of,
    shuffle_option,
    skip_option,
)
from wlshard.errors import counted


@command(
    "wl-dump",
    example="""
    wl-dump -o 'out/{key}' train.tar
    wl-dump -o 'photo-{index:06d}' -f 'png;jpg cls' -c 10 'train-{0000..0147}.tar'
    wl-dump -o 'threes/{key}' -S '_["cls"] == 3' /data/pool
    """,
)
@click.argument("url")
@click.option("-o", "--output", required=True, metavar="TEMPLATE",
              help="Files are named TEMPLATE.FIELD; {key} and {index:06d} (from 0) stand in it.")  # fmt: skip
@click.option("-f", "--fields", help="What to write; 'png;jpg' is the first that is there.  [all]")
@count_option
@skip_option
@select_option
@shuffle_option
@seed_option
@max_member_option
@force_option
@json_option
def main(
    url: str, output: str, fields: str | None, count: int | None, skip: int, select: str | None,
    shuffle: int, seed: int | None, max_member_bytes: int, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write the fields of samples to files, byte for byte as they stand in the shard.

    A key such as train/00042 makes the folder train. Files stay in the folder that TEMPLATE begins with: a
    key that leads out of it (.., an absolute name) ends the command with 21, a link in the way with 2. What
    is there already is not overwritten. A field that a sample lacks is left out; one that no sample has is an
    error (10).

    URL: shards in any form, a pool (POOL, POOL@n) or - for stdin.
    """
    from tqdm import tqdm

    from wlshard.jobs.dump import FileTree, dump
    from wlshard.jobs.look import look

    tree = FileTree(output, force=force)
    found = look(
        shards_of(url),
        skip=skip,
        count_samples=count,
        select=select,
        shuffle_samples=shuffle,
        seed=seed,
        max_member_bytes=max_member_bytes,
    )
    shown = tqdm(found, total=count, unit=" samples", disable=not sys.stderr.isatty())
    done = dump(shown, tree, fields, single=count == 1)
    if as_json:
        import json

        print(json.dumps(done.as_json()))
    else:
        told = f"{counted(done.samples, 'sample')} in {counted(done.files, 'file')}"
        print(f"wl-dump: {told}, {counted(done.bytes, 'byte')}", file=sys.stderr)


if __name__ == "__main__":
    main()
