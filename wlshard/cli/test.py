"""wl-test: how fast shards can be read, what takes the time, and how well an order mixes."""

from __future__ import annotations

import json
import statistics
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from wlshard.cli.entry import command, progress
from wlshard.cli.options import COUNT, SEED, json_option, options, shards_of
from wlshard.errors import UsageError

BATCH = 64  # of --shuffle-quality
HELD = 1000
DECODE = {"none": False, "false": False, "true": True}


test_options = options([
    click.option("-c", "--count", type=COUNT, metavar="STEPS",
                 help="Measure so many steps, even before --seconds."),
    click.option("--skip", type=click.IntRange(min=0), metavar="STEPS",
                 help="Steps to warm up.  [a tenth of --seconds]"),
    click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True,
                 help="How long to measure; at the end of the data it begins again."),
    click.option("--batchsize", type=COUNT, help="Samples in a step.  [single samples]"),
    click.option("--fields", help="As for the Loader: 'jpg;png cls'.  [all, as dicts]"),
    click.option("-P", "-p", "--processes", "--parallel", type=click.IntRange(min=0), default=0,
                 show_default=True, help="Worker processes; 0: this one."),
    click.option("--shuffle", type=click.IntRange(min=0), default=0, metavar="SAMPLES",
                 help=f"As for the Loader.  [0; for --shuffle-quality {HELD}]"),
    click.option("-d", "--decode", default="rgb8", show_default=True, metavar="IMAGES",
                 help="How images are decoded: rgb8, rgb, gray8, gray, pil …; none: all is left as bytes."),
    click.option("--consumer-ms", type=click.FloatRange(min=0), default=0.0, metavar="MS",
                 help="Sleep so long in each step, as a train step would take."),
    click.option("--vs", type=click.Choice(["webdataset"]),
                 help="Compare with the same work done by it, in turns."),
    click.option("--shuffle-quality", is_flag=True,
                 help="Instead: chi²/dof of class counts in a batch, over ranks, in 16 batches in a row."),
    click.option("--field", default="cls", show_default=True, help="The class, for --shuffle-quality."),
    click.option("--world", type=COUNT, default=1, show_default=True, help="Ranks, for --shuffle-quality."),
    click.option("--seed", type=SEED, default=0, show_default=True, help="Of the order."),
    json_option,
])  # fmt: skip


@command(
    "wl-test",
    example="""
    wl-test 'train-{0000..0147}.tar' --batchsize 64 --fields 'jpg;png cls' --shuffle 1000
    wl-test /data/pool --consumer-ms 40 --json
    wl-test train.tar --decode none --vs webdataset
    wl-test 'train-{0000..0147}.tar' --shuffle-quality --world 8 --vs webdataset
    """,
)
@click.argument("url")
@test_options
def main(
    url: str, seconds: float, batchsize: int | None, fields: str | None, processes: int, decode: str,
    vs: str | None, shuffle_quality: bool, field: str, world: int, as_json: bool, **how: Any,
) -> None:  # fmt: skip
    """Measure how fast the Loader gives the samples of URL, and tell which stage takes the time.

    A step is a batch, or a sample. Warm-up first; then samples and bytes (read from the store) a second, time
    to the first sample, what a train step waits (p50, p99), and the share of the time in storage (waiting for
    bytes), tar (waiting for headers to be parsed, samples put together), decode (selecting and batching, too)
    and consumer. The verdict names the largest. A pool is not told of it as served.

    URL: shards in any form, a pool (POOL, POOL@n) or - for stdin.
    """
    urls = shards_of(url)
    if vs is not None and "-" in urls:
        raise UsageError("stdin can be read once: give --vs files", url="-")
    if shuffle_quality:
        found = _mixing(urls, field, batchsize or BATCH, world, vs, **how)
    else:
        images = DECODE.get(decode.lower(), decode)
        settings = {"fields": fields, "batch_size": batchsize, "decode": images, "workers": processes}
        found = _throughput(urls, settings, seconds, vs, **how)
    text = _mixing_lines(found) if shuffle_quality else lines(found)
    print(json.dumps(found) if as_json else "\n".join(text))


def _throughput(
    urls: list[str], settings: dict[str, Any], seconds: float, vs: str | None, *,
    count: int | None, skip: int | None, shuffle: int, seed: int, consumer_ms: float,
) -> dict[str, Any]:  # fmt: skip
    from wlshard.codecs import decoder
    from wlshard.jobs.throughput import measure
    from wlshard.loader import Loader

    if isinstance(settings["decode"], str):
        decoder("x.png", settings["decode"])  # whether or not there are images
    open_loader = partial(Loader, urls, shuffle=shuffle, seed=seed, **settings)
    if sys.stderr.isatty():
        print(f"wl-test: about {seconds * (1 if vs is None else 2):.0f} s …", file=sys.stderr)
    pause = consumer_ms / 1e3
    with warnings.catch_warnings(record=True) as warned:  # by each of its loaders
        found = measure(
            open_loader, seconds=seconds, steps=count, skip=skip, consumer_s=pause, once="-" in urls
        )
    for text in dict.fromkeys(str(warning.message) for warning in warned):
        print(f"wl-test: {text}", file=sys.stderr)
    found |= {"batch": settings["batch_size"], "workers": settings["workers"]}
    if vs is not None:
        found["vs"] = _versus(urls, settings, shuffle, partial(open_loader, drop_last=True), seconds, count)
    return found


def _versus(
    urls: list[str], settings: dict[str, Any], shuffle: int, open_loader: Any, seconds: float,
    count: int | None,
) -> dict[str, Any]:  # fmt: skip
    from wlshard.jobs.throughput import ROUNDS, compare, contender
    from wlshard.testing import versus

    theirs = versus.steps(urls, shuffle=shuffle, **settings)
    both = {"wlshard": contender(open_loader), "webdataset": theirs}
    steps, speeds = compare(both, seconds=seconds, steps=count)
    samples, decode = settings["batch_size"] or 1, settings["decode"]
    picks: dict[str, Callable[[list[float]], float]] = {"median": statistics.median, "min": min, "max": max}
    summary = {
        name: {of: pick(found) * samples for of, pick in picks.items()} for name, found in speeds.items()
    }
    ours = "Pillow" if str(decode).startswith("pil") else "OpenCV"
    return {
        "name": "webdataset", "version": versus.VERSION, "rounds": ROUNDS, "samples": steps * samples,
        "samples_per_s": summary, "ratio": summary["wlshard"]["median"] / summary["webdataset"]["median"],
        "image_decoders": {"wlshard": ours, "webdataset": "Pillow"} if decode else None,
    }  # fmt: skip


def _mixing(
    urls: list[str], field: str, batch: int, world: int, vs: str | None, *, shuffle: int, seed: int,
    **_: object,
) -> dict[str, Any]:  # fmt: skip
    from wlshard.jobs.mixing import labels_of, mixing, quality

    with progress(" samples", desc=f"reading {field}") as bar:
        labels = labels_of(urls, field, bar.update)
    how = {"batch": batch, "shuffle": shuffle or HELD, "world": world}
    found = mixing(urls, labels, seed=seed, **how)
    if vs is not None:
        from wlshard.testing import versus

        found[vs] = quality(versus.shuffled(labels, seed=seed, **how), labels)
    return {"shuffle_quality": found, "field": field, "samples": sum(map(len, labels)), **how}


def lines(found: dict[str, Any]) -> list[str]:
    """Tell for people what --json has."""
    step = "sample" if found["batch"] is None else f"batch of {found['batch']}"
    share = "  ".join(f"{stage} {100 * part:.1f} %" for stage, part in found["share"].items())
    told = [
        f"{found['samples_per_s']:,.0f} samples/s, {found['bytes_per_s'] / 1e6:,.1f} MB/s "
        f"({found['samples']:,} samples in {found['seconds']:.1f} s)",
        f"first sample after {1e3 * found['first_sample_s']:,.0f} ms; "
        f"at the very first start, with all imports, {1e3 * found['cold_first_sample_s']:,.0f} ms",
        f"waiting for a {step}: p50 {found['p50_ms']:.3g} ms, p99 {found['p99_ms']:.3g} ms",
        f"{share}  (measuring took {100 * found['measuring_share']:.1f} %)",
        f"{found['verdict']}: {found['because']}",
    ]
    versus = found.get("vs")
    if versus is not None:
        told.append(f"the same {versus['samples']:,} samples in {versus['rounds']} rounds, in turns:")
        for name, speed in versus["samples_per_s"].items():
            spread = f"({speed['min']:,.0f}–{speed['max']:,.0f})"
            told.append(f"  {name:<12}{speed['median']:>12,.0f} samples/s  {spread}")
        told.append(f"  {versus['ratio']:.2f}× {versus['name']} {versus['version']}{_caveat(versus)}")
    return told


def _caveat(versus: dict[str, Any]) -> str:
    decoders = versus["image_decoders"]
    if decoders is None or decoders["wlshard"] == decoders["webdataset"]:
        return ""
    both = f"{decoders['wlshard']} here and by {decoders['webdataset']} there"
    return f"; images, if any, are decoded by {both}: --decode none compares without"


def _mixing_lines(found: dict[str, Any]) -> list[str]:
    groups = {
        "batch": f"batch of {found['batch']}", "global": f"of {found['world']} ranks", "run": "16 in a row"
    }  # fmt: skip
    about = f"chi²/dof of {found['field']} over {found['samples']:,} samples, shuffle={found['shuffle']}"
    lines = [about, " " * 12 + "".join(f"{title:>16}" for title in groups.values())]
    for name, quality in found["shuffle_quality"].items():
        values = ("–" if quality[group] is None else f"{quality[group]:.2f}" for group in groups)
        lines.append(f"{name:<12}" + "".join(f"{value:>16}" for value in values))
    return lines


if __name__ == "__main__":
    main()
