"""wl-reshard: shards into other shards, merged, split, sliced, mixed, sorted, shuffled."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import click

from wlshard.cli.entry import command, progress, tell
from wlshard.cli.options import (
    SEED,
    Bytes,
    force_option,
    json_option,
    listed,
    max_member_option,
    resharded_option,
    shard_samples_option,
    shards_of,
)
from wlshard.errors import counted


def _span(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int | None, ...]:
    found = re.fullmatch(r"(-?\d+)?:(-?\d+)?(?::(\d+)?)?", value or ":")
    if found is None:
        raise click.BadParameter(f"{value!r}: write it as Python does, 1000:2000, ::10, -500:")
    return tuple(None if number is None else int(number) for number in found.groups())


def _renamed(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    pairs = [word.partition("=") for text in value for word in text.replace(",", " ").split()]
    if not all(new and old.strip(";") for new, _, old in pairs):
        raise click.BadParameter("write it new=old, or new=old;other for the first that is there")
    return [(new, [name for name in old.lower().split(";") if name]) for new, _, old in pairs]


def _weights(_: click.Context, __: click.Parameter, value: str | None) -> tuple[float, ...]:
    try:
        return tuple(map(float, (value or "").replace(",", " ").split()))
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: write numbers, like 3,1,0.5") from error


@command(
    "wl-reshard",
    example="""
    wl-reshard 'in-{0000..0147}.tar' -o 'out-%06d.tar' --shard-bytes 1G
    wl-reshard a.tar b.tar -o both.tar.gz --rekey '{shard}/{key}'
    wl-reshard --shuffle --seed 1 --memory 4G big.tar -o 'mixed-{000..099}.tar'
    wl-reshard --sort cls --fields 'jpg;png cls' in.tar -o - | tar tf -
    """,
)
@click.argument("sources", metavar="IN...", nargs=-1, required=True)
@resharded_option
@shard_samples_option
@click.option("--shard-bytes", type=Bytes(),
              help="Most bytes of one.  [256M; if either is given, the other does not count]")  # fmt: skip
@click.option("--slice", "span", callback=_span, metavar="A:B:C",
              help="Only these of all samples, from 0; a negative number counts from the end.")  # fmt: skip
@click.option("--fields", help="Fields to keep; 'png;jpg' is the first that is there.  [all]")
@click.option("--drop", callback=listed, metavar="FIELDS", help="Fields to leave out: a,b")
@click.option("--rename", callback=_renamed, multiple=True, metavar="NEW=OLD", help="Other names for fields.")
@click.option("--rekey", metavar="TEMPLATE",
              help="Keys of {index} in the output, {key}, its {basename}, {shard}.")  # fmt: skip
@click.option("--mix", is_flag=True, help="Take from each IN in turn, of a single IN from each shard.")
@click.option("--weights", callback=_weights, metavar="W,W,…",
              help="With --mix: draw from each so often, at random.")  # fmt: skip
@click.option("--sort", metavar="key|FIELD|EXPR",
              help="By key, by a field's value, or by Python of the sample, 'len(_.txt)'.")  # fmt: skip
@click.option("--shuffle", is_flag=True, help="Any order of all samples, each as likely.")
@click.option("--seed", type=SEED, help="Of --shuffle and --weights: same seed, same bytes.  [fresh]")
@click.option("--memory", "memory_bytes", type=Bytes(), default="1G", show_default=True,
              help="What --sort and --shuffle may hold; the output does not depend on it.")  # fmt: skip
@click.option("--scratch", type=click.Path(exists=True, file_okay=False),
              help="Where they put what is more than that.  [OUT's folder]")  # fmt: skip
@max_member_option
@force_option
@json_option
def main(
    sources: tuple[str, ...], seed: int | None, drop: tuple[str, ...] | None, as_json: bool, **order: Any
) -> None:  # fmt: skip
    """Merge, split, slice, mix, sort or shuffle the samples of IN and write them to OUT.

    Nothing is decoded but what --sort asks for; fields are copied byte for byte. First the samples of all IN
    are put one after the other, or mixed; then sliced; then sorted or shuffled; then fields are kept, dropped
    and renamed, and keys made. No key may come twice in the output (21). To sort or shuffle more than
    --memory holds takes two passes of reading and two of writing.

    OUT is published when all of it is there, or not at all. If it is there already, or an earlier run has
    left further numbers of out-%06d.tar, it is refused (2) unless --force: that replaces them and deletes
    the further ones. A killed run leaves *.partial, which the next one drops.

    IN: shards in any form, a pool, or - for stdin.
    """
    from wlshard import clock
    from wlshard.jobs.reshard import Resharding, reshard
    from wlshard.seeds import fresh_seed

    start, seed = clock.monotonic(), fresh_seed() if seed is None else seed
    inputs = [shards_of(one) for one in sources]
    plan = Resharding(inputs, seed=seed, drop=[one.lower() for one in drop or ()], **order)
    with progress(" samples", desc="read") as read, progress(" samples", desc="written") as written:
        bars = {"read": read, "written": written}
        done = reshard(plan, lambda what: bars[what].update())
    seconds = clock.monotonic() - start
    drawn = f" with --seed {seed}" if plan.shuffle or plan.weights else ""
    text = f"{counted(done.samples, 'sample')} written to {counted(done.shards, 'shard')}"
    text += f", {counted(done.bytes, 'byte')} of tar{drawn}, {seconds:.1f} s"
    result = {**asdict(done), "seed": seed, "seconds": seconds}
    tell("wl-reshard", result, text, as_json=as_json and plan.output != "-")


if __name__ == "__main__":
    main()
