"""What wl-map and wl-xargs have in common: their options, and how they run jobs and tell of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from wlshard.cli.entry import SKIPPED
from wlshard.cli.options import (
    engine_option,
    force_option,
    json_option,
    ledger_option,
    max_member_option,
    options,
    parallel_option,
    shards_of,
)
from wlshard.errors import UsageError, counted, printable
from wlshard.sample import fields_of

if TYPE_CHECKING:
    from wlshard.jobs.each import Done, Made, ShardJob

ON_ERROR = {"raise": "raise", "abort": "raise", "skip": "skip", "ignore": "ignore"}

each_options = options([
    click.option("-o", "--output", required=True, metavar="OUT",
                 help="A shard (.tar .tar.gz .tgz .tar.zst .tzst, - for stdout), or by a template one for "
                 "each of IN: out-{0000..0999}.tar, out-%06d.tar."),
    parallel_option,
    ledger_option,
    click.option("--retry-failed", "retry", metavar="LEDGER",
                 help="Only the samples of this ledger; IN may be left out."),
    force_option,
    max_member_option,
    engine_option,
    json_option,
])  # fmt: skip


def sources(source: str | None, retry: str | None) -> tuple[list[str], dict[str, list[str]] | None]:
    """Give the input shards, and of a ledger's samples their keys by shard."""
    from wlshard.jobs.ledger import read

    if retry is None:
        if source is None:
            raise UsageError("name the shards to read, or - for stdin")
        return shards_of(source), None
    keys = read(retry)
    named = list(keys) if source is None else shards_of(source)
    return [url for url in named if url in keys], keys


def do_jobs(
    name: str, plan: Callable[[], list[ShardJob]], *, parallel: int, engine: str, output: str,
    ledger: str | None, as_json: bool, max_member_bytes: int | None = None, every: int | None = None,
    verbose: bool = False, quiet: bool = False, in_process: bool = True, total: Done | None = None,
    **how: Any,
) -> int:  # fmt: skip
    """Plan jobs and run them, keep the ledger, show progress, tell the totals; give the exit code.

    in_process: a single process need be none but this. total: what is done, and has failed, in planning.
    """
    from wlshard import clock
    from wlshard.jobs.engine import open_engine

    start = clock.monotonic()
    alone = parallel == 1 and in_process
    with nullcontext() if alone else open_engine(engine, parallel) as processes:  # they start while we plan
        from wlshard.jobs.each import Done
        from wlshard.jobs.ledger import append, ledger_name
        from wlshard.jobs.plan import left_to_do, run_jobs
        from wlshard.shards.numbered import drop_scratch

        total, jobs = total or Done(), plan()
        drop_scratch(output)
        todo = left_to_do(jobs)
        if max_member_bytes is not None:
            todo = [replace(job, max_member_bytes=max_member_bytes) for job in todo]
        ledger = ledger or ledger_name(output)
        if jobs[0].force and os.path.exists(ledger):
            os.unlink(ledger)
        append(ledger, total.failed)
        with _shown(every, verbose=verbose, quiet=quiet) as (heard, done):
            done(total)
            for one in run_jobs(todo, processes, heard=heard, **how):
                append(ledger, one.failed)
                total.add(one)
                done(total)
    result = {
        "read": total.read, "written": total.written, "dropped": total.dropped, "failed": len(total.failed),
        "faults": total.faults, "shards": total.shards, "already_done": len(jobs) - len(todo),
        "ledger": ledger if total.failed else None, "seconds": clock.monotonic() - start,
    }  # fmt: skip
    _tell(name, result, as_json=as_json and output != "-", quiet=quiet)
    return SKIPPED if total.failed or total.faults else 0


def _tell(name: str, result: dict[str, Any], *, as_json: bool, quiet: bool) -> None:
    if as_json:
        import json

        print(json.dumps(result))
    elif not quiet:
        text = f"{counted(result['read'], 'sample')} read, {result['written']:,} written to "
        text += f"{counted(result['shards'], 'shard')}, {result['dropped']:,} dropped"
        text += f", {result['failed']:,} failed"
        if result["already_done"]:
            text += f"; there already: {counted(result['already_done'], 'shard')}"
        if result["ledger"]:
            text += f"; those that failed are in {printable(result['ledger'])}"
        print(f"{name}: {text}, {result['seconds']:.1f} s", file=sys.stderr)


@contextmanager
def _shown(
    every: int | None, *, verbose: bool, quiet: bool
) -> Iterator[tuple[Callable[[Made], None], Callable[[Done], object]]]:
    """Give who is told of each sample, and who of the totals after each job."""
    bar, seen, told = None, 0, 0
    if sys.stderr.isatty() and not quiet:
        from tqdm import tqdm

        bar = tqdm(unit=" samples")

    def heard(made: Made) -> None:
        nonlocal seen, told
        if every and seen % every == 0:
            print(f"{seen} {printable(made.sample['__key__'])}", file=sys.stderr)
        if made.failed is not None:
            told += 1
            tell(made.failed)
        for sample in made.samples if verbose else ():
            print(printable(sample["__key__"]), *map(printable, fields_of(sample)), file=sys.stderr)
        seen += 1
        if bar is not None:
            bar.update()

    def tell(failed: dict[str, Any]) -> None:
        if not quiet:
            reason = printable(failed["error"]["message"].splitlines()[-1])
            sample = f"{printable(failed['key'])} of " * bool(failed["key"])
            url = failed["error"]["url"] or failed["url"]
            print(f"failed: {sample}{printable(url)}: {reason}", file=sys.stderr)

    def done(total: Done) -> None:
        nonlocal told
        for failed in total.failed[told:]:
            tell(failed)
        told = len(total.failed)
        if bar is not None:
            bar.update(total.read - bar.n)

    try:
        yield heard, done
    finally:
        if bar is not None:
            bar.close()
