"""wl-gen: run a generator in several processes into a pool or plain shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from wlshard.cli.entry import INTERRUPTED, command, progress, tell
from wlshard.cli.options import COUNT, generator_options, json_option, shards_of
from wlshard.errors import UsageError, counted

if TYPE_CHECKING:
    from wlshard.jobs.supervise import Totals


@command(
    "wl-gen",
    example="""
    wl-gen wlshard.demo.brains:generate /data/pool -P 4 --samples 1000 --cap 5000
    wl-gen --adopt 'photos-{000000..000003}.tar' /data/pool
    wl-gen mygen.py:make -o 'train-%06d.tar' --fields img.npy,seg.npy --samples 100 --seed 1
    """,
)
@click.argument("function", metavar="[MODULE:FUNCTION]")
@click.argument("pool", required=False)
@click.option("--adopt", metavar="SHARDS", help="Take these shards into POOL; there is no generator.")
@click.option("-o", "--output", metavar="TEMPLATE", help="Plain shards like 'x-%06d.tar' instead of a pool.")
@click.option("--force", is_flag=True, help="With -o: delete the shards of that name first.")
@generator_options
@click.option("--cap", type=COUNT, help="Samples in the write buffer at which to wait (see --when-full).")
@click.option("--shard-samples", type=COUNT, default=10_000, show_default=True, help="Samples in a shard.")
@json_option
def main(
    function: str, pool: str | None, adopt: str | None, output: str | None, force: bool, parallel: int,
    seed: int | None, gpus: tuple[str, ...] | None, args: tuple[tuple[str, Any], ...], as_json: bool,
    **settings: Any,
) -> int:  # fmt: skip
    """Run a generator in -P processes; its samples are sealed into POOL's write buffer (made if absent).

    FUNCTION is a generator function that yields dicts of fields, {"img.npy": array, "cls": 3}, or tuples
    named by --fields. It gets what it has parameters for: rng (a numpy Generator), worker, workers, device.
    MODULE is a dotted name or the path of a .py file. A process that fails is started anew, five times in a
    row at most. ^C and SIGTERM seal what is whole and end.

    With -o and -P n, process i writes the shards i, i+n, i+2n and so on: without gaps when they are rolled by
    --shard-samples and the run has --samples.

    With --adopt, each of the SHARDS is read strictly and becomes one of POOL's write buffer; to adopt it
    again changes nothing.
    """
    from wlshard.jobs.job import Job
    from wlshard.jobs.supervise import supervise
    from wlshard.seeds import fresh_seed
    from wlshard.shards.numbered import delete_numbered
    from wlshard.shards.writer import TemplateTarget

    if adopt is not None:
        if pool is not None or output is not None:
            raise UsageError("with --adopt name a POOL, and nothing else")
        return _adopt(adopt, function, settings["schema"] == "any", as_json)
    target = _target(pool, output)
    if force and output is not None:
        TemplateTarget(output)  # UsageError if it is none, before anything is deleted
        delete_numbered(output)
    job = Job(function, target, seed=fresh_seed() if seed is None else seed, args=dict(args), **settings)
    with _shown(job.samples, target) as show:
        totals, interrupted = supervise(job, parallel, gpus=gpus or (), show=show)
    _tell({**totals.as_json(), "seed": job.seed}, as_json)
    return INTERRUPTED if interrupted else 0


def _adopt(source: str, pool: str, any_schema: bool, as_json: bool) -> int:
    from wlshard import clock
    from wlshard.jobs.adopt import adopt
    from wlshard.jobs.supervise import Totals
    from wlshard.pool.pool import Pool

    started, urls = clock.monotonic(), shards_of(source)
    with _shown(None, pool) as show:
        done = adopt(urls, Pool(pool), any_schema=any_schema, report=lambda at: show(Totals(**vars(at))))
    _tell(Totals(**vars(done), seconds=clock.monotonic() - started).as_json(), as_json)
    return 0


def _tell(result: dict[str, Any], as_json: bool) -> None:
    text = f"{counted(result['generated'], 'sample')} generated, {result['sealed']:,} sealed in "
    text += f"{counted(result['shards'], 'shard')} ({counted(result['bytes'], 'byte')}), "
    text += f"{result['dropped']:,} dropped, {counted(result['restarts'], 'restart')}, "
    text += f"{result['seconds']:.1f} s" + (f", seed {result['seed']}" if "seed" in result else "")
    tell("wl-gen", result, text, as_json=as_json)


def _target(pool: str | None, output: str | None) -> str:
    from wlshard.jobs.job import is_template

    target = pool or output
    if target is None or (pool and output):
        raise UsageError("name either a POOL or -o 'x-%06d.tar'")
    if is_template(target) and pool:
        raise UsageError(f"to write plain shards say -o {pool}", url=pool)
    if not is_template(target) and output:
        raise UsageError("shards are named by a template, -o 'x-%06d.tar'; a pool needs no -o", url=output)
    return target


@contextmanager
def _shown(samples: int | None, target: str) -> Iterator[Callable[[Totals], None]]:
    """Show totals as a progress bar on a terminal; warn of waits anywhere."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from wlshard.jobs.gate import log_waits

    warn = log_waits(target)
    with progress(" samples", samples) as bar:

        def show(totals: Totals) -> None:
            warn(totals)
            bar.set_postfix(shards=totals.shards, restarts=totals.restarts, refresh=False)
            bar.update(totals.generated - bar.n)

        with nullcontext() if bar.disable else logging_redirect_tqdm():
            yield show
