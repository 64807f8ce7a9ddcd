"""Arguments and options that several commands share: one spelling, one help text each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from wlshard.errors import UsageError
from wlshard.store.options import size_of

if TYPE_CHECKING:
    from wlshard.pool.source import Resolved

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def options(several: Sequence[Callable[[Any], Any]]) -> Callable[[Decorated], Decorated]:
    """Make one decorator of several options; the help lists them in this order."""

    def decorate(function: Decorated) -> Decorated:
        for option in reversed(several):
            function = option(function)
        return function

    return decorate


class Bytes(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """A size: `268435456`, `256M`, `256MiB`; units are powers of 1024."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return size_of(value)
        except UsageError as error:
            self.fail(error.message, param, ctx)


class Argument(click.ParamType):  # type: ignore[type-arg]
    """`NAME=VALUE`; the value is JSON, or else the text as it stands."""

    name = "NAME=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        import json

        name, equals, text = str(value).partition("=")
        if not equals or not name.isidentifier():
            self.fail(f"{value!r}: write it like size=64", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text


def shards_of(source: str | Resolved) -> list[str]:
    """List the shards that a source names; a pool's are leased until the command ends."""
    from wlshard.pool.source import leased_shards

    return click.get_current_context().with_resource(leased_shards(source))


def listed(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(value.replace(",", " ").split())
    if not names:
        raise click.BadParameter("an empty list")
    return names


def _most_unpacked(ctx: click.Context, _: click.Parameter, value: int) -> int:
    if ctx.get_parameter_source("max_member_bytes") is not ParameterSource.DEFAULT:
        from wlshard.codecs.gzipped import unpacking_at_most

        ctx.with_resource(unpacking_at_most(value))
    return value


json_option = click.option(
    "--json", "as_json", is_flag=True, help="The result as JSON on stdout, an error as JSON on stderr."
)
parallel_option = click.option(
    "-P", "-p", "--parallel", type=click.IntRange(min=1), default=1, show_default=True, help="Processes."
)
count_option = click.option(
    "-c", "--count", type=click.IntRange(min=0), metavar="N", help="At most so many samples.  [all]"
)
skip_option = click.option(
    "-s", "--skip", type=click.IntRange(min=0), default=0, show_default=True,
    help="Pass over so many samples first, before -S is asked.",
)  # fmt: skip
max_member_option = click.option(
    "--max-member", "max_member_bytes", type=Bytes(), default="16G", show_default=True,
    callback=_most_unpacked,
    help="Refuse larger members, and what unpacks to more (.gz, npz: 4G): each is held in memory whole.",
)  # fmt: skip
COUNT = click.IntRange(min=1)
SEED = click.IntRange(min=0)
look_options = options([  # of `jobs.look.look`, by its names
    click.option("-S", "--select", metavar="EXPR",
                 help="Only samples of which EXPR is true: Python, run as it stands, the sample being _, as "
                      """in '_["cls"] == 3'; fields decode when touched."""),
    click.option("--shuffle", type=click.IntRange(min=0), default=0, metavar="SAMPLES",
                 help="Mix the order of the shards, and of so many samples, which are held in memory."),
    click.option("--seed", type=SEED, help="Of --shuffle: the same seed, the same order.  [fresh]"),
    max_member_option,
])  # fmt: skip
force_option = click.option("--force", is_flag=True, help="Replace what is there already.")
ledger_option = click.option(
    "--ledger", metavar="FILE", help="Where failed samples are listed.  [OUT's name.failed.jsonl]"
)
engine_option = click.option(
    "--engine",
    type=click.Choice(["local"]),
    default="local",
    show_default=True,
    help="What runs the processes.",
)
resharded_option = click.option(
    "-o", "--output", required=True, metavar="OUT",
    help="out-%06d.tar; out-{000..099}.tar or out-@100.tar, in equal parts; or one shard, or - for stdout. "
         "The ending says how it is packed: .tar .tar.gz .tgz .tar.zst .tzst",
)  # fmt: skip
shard_samples_option = click.option(
    "--shard-samples", type=COUNT, help="Most samples of a shard of out-%06d.tar.  [10000]"
)

generator_options = options([  # what wl-gen and wl-run have in common
    parallel_option,
    click.option("--samples", type=COUNT, help="Samples to make in all.  [until ^C or its end]"),
    click.option("--seed", type=SEED, help="Same seed, -P, --samples: same samples.  [fresh]"),
    click.option("--fields", callback=listed, help="Names for the values of tuples: img.npy,seg.npy"),
    click.option("--arg", "args", multiple=True, type=Argument(), help="A parameter of FUNCTION."),
    click.option("--gpus", callback=listed, help="CUDA devices for the processes in turn: 0,1"),
    click.option("--when-full", type=click.Choice(["wait", "drop"]), default="wait", show_default=True,
                 help="What to do with samples at --cap."),
    click.option("--schema", type=click.Choice(["check", "any"]), default="check", show_default=True,
                 help="Whether samples must be like those in the pool: fields, types, shapes."),
    click.option("--shard-bytes", type=Bytes(), default="256M", show_default=True, help="Largest shard."),
    click.option("--shard-seconds", type=click.FloatRange(min=0, min_open=True), default=60.0,
                 show_default=True, help="Seal a shard so long after its first sample."),
])  # fmt: skip
