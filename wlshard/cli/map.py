"""wl-map: Python code applied to each sample of shards."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from wlshard.cli.each import ON_ERROR, do_jobs, each_options, sources
from wlshard.cli.entry import command
from wlshard.cli.options import COUNT

if TYPE_CHECKING:
    from wlshard.jobs.each import ShardJob


@command(
    "wl-map",
    example="""
    wl-map -c '_["cls"] -= 1' http://server/input.tgz -o output.tgz
    wl-map -P 8 -l resize.py 'a-{000..999}.tar' -o 'b-{000..999}.tar'
    wl-map -l augment.py --on-error skip train.tar -o augmented.tar
    wl-map --pipeline pairs.py:neighbours train.tar -o pairs.tar
    """,
)
@click.argument("source", metavar="[IN]", required=False)
@click.option("-c", "--code",
              help="Run for each sample; _ is the sample, and what it is at the end the result.")  # fmt: skip
@click.option("-C", "--precode", multiple=True, help="Run once, before: imports, functions. May be repeated.")
@click.option("-l", "--load", "file", metavar="FILE", help="A Python file with transform(sample).")
@click.option("--pipeline", metavar="FUNCTION",
              help="A function from an iterator of samples to another: MODULE:FUNCTION, FILE.py:FUNCTION, or "
              "Python that gives one, in which the names of -C are known. -l and -c see what it yields.",
              )  # fmt: skip
@click.option("-F", "--format", "images", default="stored", show_default=True, metavar="IMAGES",
              help="Images are decoded to rgb8, rgb, gray8, gray, pil … ; none: left as bytes.")  # fmt: skip
@click.option("-O", "--ordered", is_flag=True, expose_value=False,
              help="Accepted: the output is always in the order of the input.")  # fmt: skip
@click.option("--only", type=COUNT, metavar="N", help="Only the first N samples of each output.")
@click.option("-e", "--every", type=COUNT, metavar="N", help="Show the key of every Nth sample on stderr.")
@click.option("--on-error", type=click.Choice(list(ON_ERROR)), default="raise", show_default=True,
              help="Of a sample whose code fails: raise, skip it, or ignore: take it unchanged.")  # fmt: skip
@each_options
def main(
    source: str | None, code: str | None, precode: tuple[str, ...], file: str | None, pipeline: str | None,
    images: str, only: int | None, every: int | None, on_error: str, retry: str | None,
    output: str, force: bool, **how: Any,
) -> int:  # fmt: skip
    """Apply Python code to each sample of IN and write what it makes of it to OUT, in order.

    The sample is a mapping of fields, __key__ and __url__. A field is decoded when the code touches it, and
    encoded again only if it has changed: all else is copied byte for byte. The result is a sample, a list of
    samples (each with its own __key__) or None, which drops it.

    A --pipeline may drop, add, mix and hold samples. It yields those it was given, or dicts with a __key__;
    values of a sample that it holds are copied byte for byte there, too. It is called once for each output,
    and -P does several outputs at a time.

    IN: shards in any form, a pool, or - for stdin. With -P n and many shards each process does one at a time;
    run again, it does those that are missing. The output does not depend on -P.
    """

    def planned() -> list[ShardJob]:
        from wlshard.jobs.plan import plan
        from wlshard.jobs.transform import Recipe, job_of

        decode = False if images == "none" else images
        recipe = Recipe(code=code, file=file, precode=precode, pipeline=pipeline, images=decode)
        inputs, keys = sources(source, retry)
        policy: Any = ON_ERROR[on_error]
        job = replace(job_of(recipe, policy), stop=only, keys=keys, force=force)
        return plan(inputs, output, job)

    return do_jobs("wl-map", planned, output=output, every=every, **how)


if __name__ == "__main__":
    main()
