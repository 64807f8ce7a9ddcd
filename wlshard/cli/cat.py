"""wl-cat: one field of one sample to stdout, as it stands in the shard."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from wlshard.cli.entry import command
from wlshard.cli.options import max_member_option, seed_option, select_option, shards_of, shuffle_option
from wlshard.errors import NotFound, printable

if TYPE_CHECKING:
    from wlshard.sample import Sample


@command(
    "wl-cat",
    example="""
    wl-cat 'photos-{000000..000003}.tar' jpg 17 > photo.jpg
    wl-cat train.tar 'png;jpg' | display -
    wl-cat train.tar jpg -S '_["cls"] == 3' --shuffle 100 > some-three.jpg
    curl -s http://host/train.tar | wl-cat - __key__
    """,
)
@click.argument("url")
@click.argument("field")
@click.argument("skip", type=click.IntRange(min=0), default=0)
@select_option
@shuffle_option
@seed_option
@max_member_option
def main(
    url: str, field: str, skip: int, select: str | None, shuffle: int, seed: int | None, max_member_bytes: int
) -> None:  # fmt: skip
    """Write one FIELD of the sample after SKIP others (default 0: the first) to stdout, byte for byte.

    URL: shards in any form (x-{0000..0147}.tar, x-@000148.tar, a.tar::b.tar, a glob, a folder, a wids JSON
    index), a pool (POOL, POOL@n), or - for stdin. FIELD may name alternatives, 'png;jpg': the first that is
    there. __key__ and __url__ are fields, too. With an index beside the shard only that sample is read.
    With -S, the first sample after SKIP others of which EXPR is true.
    """
    shards = _shards(url)
    if select is None and not shuffle:
        sample = _sample(shards, skip, url, max_member_bytes)
    else:
        sample = _looked_for(shards, skip, select, shuffle, seed, url, max_member_bytes)
    names = [name if name.startswith("__") else name.lower() for name in field.split(";")]
    for name in names:
        if name in sample:
            value = sample[name]
            is_text = isinstance(value, str)
            sys.stdout.buffer.write(value.encode("utf-8", "surrogateescape") if is_text else value)
            return
    there = " ".join(printable(name) for name in sample if not name.startswith("__"))
    raise NotFound(f"no field {field!r}; there are: {there}", url=sample["__url__"], key=sample["__key__"])


def _shards(url: str) -> list[str]:
    # A file is found without the rooms that know of pools: it would cost as much time as all the rest.
    if url == "-" or (os.path.isfile(url) and not url.endswith(".json")):
        return [url]
    return shards_of(url)


def _looked_for(
    shards: list[str], skip: int, select: str | None, shuffle: int, seed: int | None, source: str, most: int
) -> Sample:
    from wlshard.jobs.look import look
    from wlshard.stream.lazy import stored_fields

    found = look(shards, skip=skip, select=select, shuffle_samples=shuffle, seed=seed, max_member_bytes=most)
    for _, sample in found:
        return stored_fields(sample)
    raise NotFound(f"no sample after {skip} others" + (" of which -S is true" if select else ""), url=source)


def _sample(shards: list[str], skip: int, source: str, most: int) -> Sample:
    from wlshard.shards.sought import samples_from

    found = samples_from(shards, skip, max_member_bytes=most)
    try:
        return next(found)
    except StopIteration as end:
        there = skip - end.value
    raise NotFound(f"no sample {skip}, counted from 0: there are {there}", url=source)


if __name__ == "__main__":
    main()
