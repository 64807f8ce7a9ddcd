"""wl-cat: one field of one sample to stdout, as it stands in the shard."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from wlshard.cli.entry import command
from wlshard.cli.options import look_options, shards_of
from wlshard.errors import NotFound
from wlshard.sample import Sample, choose


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
@look_options
def main(url: str, field: str, skip: int, **looked: Any) -> None:
    """Write one FIELD of the sample after SKIP others (default 0: the first) to stdout, byte for byte.

    URL: shards in any form (x-{0000..0147}.tar, x-@000148.tar, a.tar::b.tar, a glob, a folder, a wids JSON
    index), a pool (POOL, POOL@n), or - for stdin. FIELD may name alternatives, 'png;jpg': the first that is
    there. __key__ and __url__ are fields, too. With an index beside the shard only that sample is read.
    With -S, the first sample after SKIP others of which EXPR is true.
    """
    shards = _shards(url)
    if looked["select"] is None and not looked["shuffle"]:
        sample = _sample(shards, skip, url, looked["max_member_bytes"])
    else:
        from wlshard.jobs.look import first, look
        from wlshard.stream.lazy import stored_fields

        sample = stored_fields(first(look(shards, skip=skip, **looked), url, skip, looked["select"])[1])
    names = [name if name.startswith("__") else name.lower() for name in field.split(";")]
    value = sample[choose(sample, names)]
    sys.stdout.buffer.write(value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value)


def _shards(url: str) -> list[str]:
    # A file is found without the rooms that know of pools: it would cost as much time as all the rest.
    if url == "-" or (os.path.isfile(url) and not url.endswith((".json", ".idx"))):
        return [url]
    return shards_of(url)


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
