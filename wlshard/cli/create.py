"""wl-create: shards from files."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from wlshard.cli.each import do_jobs
from wlshard.cli.entry import command, progress
from wlshard.cli.options import (
    SEED,
    Bytes,
    engine_option,
    force_option,
    json_option,
    ledger_option,
    parallel_option,
    resharded_option,
    shard_samples_option,
)

if TYPE_CHECKING:
    from wlshard.jobs.each import ShardJob


@command(
    "wl-create",
    example="""
    wl-create photos -o 'photos-%06d.tar' --classes classes.json --shuffle -P 8
    wl-create pairs -o pairs.tar
    find /data -name '*.jpg' -o -name '*.json' | wl-create - -o 'data-%06d.tar' --shard-bytes 1G
    wl-create --plan samples.jsonl -o 'train-{000..099}.tar' --on-error skip
    """,
)
@click.argument("source", metavar="[DIR|LISTING]", required=False)
@resharded_option
@click.option("--plan", metavar="FILE", help="Samples to make, a line each, instead of DIR.")
@click.option("--classes", metavar="FILE",
              help="Give each sample a field cls: the number of its folder in this JSON list of names, which "
              "is made, sorted, if it is not there.")  # fmt: skip
@shard_samples_option
@click.option("--shard-bytes", type=Bytes(),
              help="Most bytes of one, by the sizes of files here.  [256M; if either is given, the other "
              "does not count]")  # fmt: skip
@click.option("--shuffle", is_flag=True, help="Samples in an order of --seed, not by key or as planned.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of --shuffle.")
@click.option("--follow-links", is_flag=True, help="Take files and folders that links out of DIR lead to.")
@click.option("--allow-empty", is_flag=True, help="Take empty files.")
@click.option("--on-error", type=click.Choice(["raise", "skip"]), default="raise", show_default=True,
              help="Of a sample that cannot be made.")  # fmt: skip
@ledger_option
@parallel_option
@engine_option
@force_option
@json_option
def main(
    source: str | None, output: str, force: bool, ledger: str | None, parallel: int, engine: str,
    as_json: bool, **order: Any,
) -> int:  # fmt: skip
    """Make shards of the files below DIR, of those named in LISTING (- for stdin), or by a --plan.

    A file's name below DIR is its key up to the first dot of the last part, then its field: a/b.jpg and
    a/b.meta.json are one sample. LISTING holds a name a line, relative to its folder, or a URL, whose path
    makes the key. The class of a sample is the first folder of its name, in LISTING the last.

    A line of the plan: {"__key__": "a", "jpg": "img/a.jpg", "cls": 3, "txt": {"value": "a text"}}, or words
    between tabs: a, jpg=img/a.jpg, cls:=3. Names are relative to the plan, or URLs.

    Dotfiles and names without a dot are left out and counted. An empty file, a link that leads out of DIR, a
    name that no shard can hold end it, or are skipped. Run again, it makes the shards that are missing, as
    they would have been, and refuses others that are there (2). The output does not depend on -P.
    """
    from wlshard.jobs.create import CHUNK_SAMPLES, Creation, create_jobs
    from wlshard.jobs.each import Done
    from wlshard.shards.numbered import delete_numbered
    from wlshard.shards.tally import Tally

    creation, total, tally = Creation(source, output, force=force, **order), Done(), Tally()
    outputs: list[str] = []

    def plan() -> list[ShardJob]:
        with progress(" files") as bar:
            jobs = create_jobs(creation, total, tally, bar.update)
        outputs.extend(job.output for job in jobs)
        return jobs

    code = do_jobs(
        "wl-create", plan, parallel=parallel, engine=engine, output=output, ledger=ledger, as_json=as_json,
        total=total, chunk_samples=CHUNK_SAMPLES,
    )  # fmt: skip
    if force:
        delete_numbered(output, but=outputs)
    if tally.passed_over:
        passed = ", ".join(f"{count:,} {what}" for what, count in tally.passed_over.items())
        print(f"wl-create: left out: {passed}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
