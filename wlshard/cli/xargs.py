"""wl-xargs: a shell command run on each sample of shards."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from wlshard.cli.each import ON_ERROR, do_jobs, each_options, sources
from wlshard.cli.entry import command
from wlshard.cli.options import listed

if TYPE_CHECKING:
    from wlshard.jobs.each import ShardJob

CHUNK_SAMPLES = 16  # a command takes a millisecond at least, and may take minutes


def _range(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int | None]:
    if value is None:
        return 0, None
    found = re.fullmatch(r"\(?\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)?", value)
    if found is None:
        raise click.BadParameter(f"{value!r}: write N, or START,STOP")
    first, stop = found.groups()
    return (0, int(first)) if stop is None else (int(first), int(stop))


@command(
    "wl-xargs",
    example="""
    wl-xargs -P 4 -c 'mogrify -resize 256x256 sample.jpg' train.tar -o small.tar
    wl-xargs -S segment.sh -e skip 'in-{000..099}.tar' -o 'out-{000..099}.tar'
    """,
)
@click.argument("source", metavar="[IN]", required=False)
@click.option("-c", "--command", "shell", metavar="SHELL", help="A command for sh, run for each sample.")
@click.option("-S", "--script", metavar="SCRIPT", help="A script for --interpreter instead.")
@click.option("--interpreter", default="bash", show_default=True, help="What runs the SCRIPT.")
@click.option("-w", "--working-dir", "workdir", metavar="DIR",
              help="Where the folders of samples are made.  [in memory, if there is room]")  # fmt: skip
@click.option("-b", "--base", default="sample", show_default=True, help="The key in file names.")
@click.option("-f", "--fields", callback=listed, help="Only these fields, a,b; the others are left out.")
@click.option("-F", "--fieldmode", "missing", type=click.Choice(["ignore", "error"]), default="ignore",
              show_default=True, help="Of a sample that lacks one of --fields.")  # fmt: skip
@click.option("-e", "--error-handling", "--on-error", "on_error", type=click.Choice(list(ON_ERROR)),
              default="raise", show_default=True,
              help="Of a sample whose command fails: abort (raise), skip it, or ignore: take it unchanged.",
              )  # fmt: skip
@click.option("-E", "--exclude", metavar="REGEX", help="Files to leave out of the output.")
@click.option("-I", "--include", metavar="REGEX", help="The only files to take into the output.")
@click.option("-s", "--separator", default="", help="Between the key and the base of a further sample.")
@click.option("--count", "span", callback=_range, metavar="N|START,STOP",
              help="Only these samples of each output.")  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Show keys and fields of what comes out.")
@click.option("-q", "--silent", "quiet", is_flag=True, help="Say nothing but errors.")
@each_options
def main(
    source: str | None, shell: str | None, span: tuple[int, int | None], on_error: str, retry: str | None,
    output: str, force: bool, parallel: int, engine: str, ledger: str | None, max_member_bytes: int,
    as_json: bool, verbose: bool, quiet: bool, **order: Any,
) -> int:  # fmt: skip
    """Run a shell command on each sample of IN and write what it leaves to OUT, in order.

    It runs in a private folder that holds the fields as files, sample.jpg, sample.cls …; files that it adds,
    removes and changes become the sample. Files with another base become further samples, their key being
    the sample's, SEPARATOR, and that base; files without a dot are of no interest. WL_KEY, WL_URL and
    WL_INDEX (from 0, in its shard) are in its environment; its stdout goes to stderr.

    IN: shards in any form, a pool, or - for stdin. With -P n and many shards each process does one at a time;
    run again, it does those that are missing. The output does not depend on -P.
    """

    def planned() -> list[ShardJob]:
        from wlshard.jobs.command import Order, job_of
        from wlshard.jobs.plan import plan

        inputs, keys = sources(source, retry)
        policy: Any = ON_ERROR[on_error]
        job = job_of(Order(command=shell, **order), policy)
        return plan(inputs, output, replace(job, start=span[0], stop=span[1], keys=keys, force=force))

    return do_jobs(
        "wl-xargs", planned, parallel=parallel, engine=engine, output=output, ledger=ledger,
        max_member_bytes=max_member_bytes, as_json=as_json, verbose=verbose, quiet=quiet,
        chunk_samples=CHUNK_SAMPLES, in_process=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
