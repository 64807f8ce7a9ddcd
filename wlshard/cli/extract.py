"""wl-extract: fields of samples as lines of text."""

from __future__ import annotations

import sys
from typing import Any

import click

from wlshard.cli.entry import command
from wlshard.cli.options import count_option, json_option, look_options, shards_of, skip_option


@command(
    "wl-extract",
    example="""
    wl-extract -f '__key__ cls' 'train-{0000..0147}.tar' | sort -k2 -n
    wl-extract -f '__key__ json' -F json -c 10 train.tar | jq .
    wl-extract -P '_["size"] = len(_["txt"])' -f '__key__ size' -S '_["cls"] > 5' train.tar
    """,
)
@click.argument("url")
@click.option("-f", "--fields", default="__key__", show_default=True,
              help="What to write; 'png;jpg' is the first that is there.")  # fmt: skip
@click.option("-F", "--format", "form", type=click.Choice(["tsv", "json"]), help="[default: tsv]")
@click.option("-P", "--proc", metavar="CODE",
              help="Python statements, run as they stand on each selected sample, which is _.")  # fmt: skip
@count_option
@skip_option
@look_options
@click.option("-d", "--decode", "images", default="rgb8", show_default=True, metavar="IMAGES",
              help="How images are decoded: rgb8, rgb, gray8, gray, stored …")  # fmt: skip
@json_option
def main(
    url: str, fields: str, form: str | None, proc: str | None, as_json: bool, **looked: Any
) -> None:  # fmt: skip
    """Write one line a sample to stdout: the values of its fields, decoded.

    tsv: columns between tabs; tab, newline, backslash and control characters in values are escaped: \\t, \\n,
    \\\\, \\x1b. json (--json says it too): one object a line. Dicts, lists and arrays are JSON in both, bytes
    base64, NaN and infinities null. A field that a sample lacks is empty, or null; one that no sample has is
    an error (10).

    URL: shards in any form, a pool (POOL, POOL@n) or - for stdin.
    """
    from wlshard.jobs.extract import extract
    from wlshard.jobs.look import look

    found = look(shards_of(url), **looked)
    for line in extract(found, fields, as_json=form == "json" or (as_json and not form), proc=proc):
        sys.stdout.buffer.write(line.encode("utf-8", "surrogateescape") + b"\n")


if __name__ == "__main__":
    main()
