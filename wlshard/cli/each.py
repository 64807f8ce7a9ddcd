"""What wl-map and wl-xargs have in common: their options, and how they run jobs and tell of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from wlshard.cli.entry import SKIPPED, progress, tell
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
        with closing(_Shown(every, verbose, quiet)) as shown:
            shown.totals(total)
            for one in run_jobs(todo, processes, heard=shown.sample, **how):
                append(ledger, one.failed)
                total.add(one)
                shown.totals(total)
    result = {
        "read": total.read, "written": total.written, "dropped": total.dropped, "failed": len(total.failed),
        "faults": total.faults, "shards": total.shards, "already_done": len(jobs) - len(todo),
        "ledger": ledger if total.failed else None, "seconds": clock.monotonic() - start,
    }  # fmt: skip
    as_json = as_json and output != "-"
    if as_json or not quiet:
        tell(name, result, _said(result), as_json=as_json)
    return SKIPPED if total.failed or total.faults else 0


def _said(result: Mapping[str, Any]) -> str:
    text = f"{counted(result['read'], 'sample')} read, {result['written']:,} written to "
    text += f"{counted(result['shards'], 'shard')}, {result['dropped']:,} dropped"
    text += f", {result['failed']:,} failed"
    if result["already_done"]:
        text += f"; there already: {counted(result['already_done'], 'shard')}"
    if result["ledger"]:
        text += f"; those that failed are in {printable(result['ledger'])}"
    return f"{text}, {result['seconds']:.1f} s"


class _Shown:
    """Hears of each sample, and of the totals after each job; tells what was asked for on stderr."""

    def __init__(self, every: int | None, verbose: bool, quiet: bool) -> None:
        self._every, self._verbose, self._quiet = every, verbose, quiet
        seen = sys.stderr.isatty() and not quiet
        self._bar = progress(" samples") if seen else None  # tqdm takes 20 ms to import
        self._seen = self._told = 0

    def sample(self, made: Made) -> None:
        if self._every and self._seen % self._every == 0:
            print(f"{self._seen} {printable(made.sample['__key__'])}", file=sys.stderr)
        if made.failed is not None:
            self._told += 1
            self._tell(made.failed)
        for sample in made.samples if self._verbose else ():
            print(printable(sample["__key__"]), *map(printable, fields_of(sample)), file=sys.stderr)
        self._seen += 1
        if self._bar is not None:
            self._bar.update()

    def totals(self, total: Done) -> None:
        for failed in total.failed[self._told :]:
            self._tell(failed)
        self._told = len(total.failed)
        if self._bar is not None:
            self._bar.update(total.read - self._bar.n)

    def _tell(self, failed: Mapping[str, Any]) -> None:
        if not self._quiet:
            reason = printable(failed["error"]["message"].splitlines()[-1])
            sample = f"{printable(failed['key'])} of " * bool(failed["key"])
            url = failed["error"]["url"] or failed["url"]
            print(f"failed: {sample}{printable(url)}: {reason}", file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
