"""Shards from files: which samples there are, which shard each goes to, and what makes a shard."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any

from wlshard import seeds
from wlshard.errors import GroupingError, NotFound, UsageError, WlshardError, printable
from wlshard.jobs.each import Done, OnError, ShardJob, failure
from wlshard.jobs.fetch import class_of, name_of, url_of
from wlshard.jobs.listing import base_of, is_folder, lines_of, planned, read_classes, write_classes
from wlshard.jobs.plan import equal_parts, limits_of, names_of, outputs_of, refuse_limits
from wlshard.sample import KEY, URL, split_name
from wlshard.shards.keys import Keys
from wlshard.shards.numbered import refuse_numbered
from wlshard.shards.output import is_there
from wlshard.shards.reader import read_samples
from wlshard.shards.tally import Tally
from wlshard.store.connect import is_local, local_path, locate
from wlshard.tar.header import BLOCK, padding
from wlshard.tar.index import index_name

CHUNK_SAMPLES = 16  # for each process in turn: files may be far away


@dataclass(frozen=True)
class Creation:
    """What shards are made of, and how many of what size.

    source: a folder, a list of files, `-`; plan: of samples, instead. classes: a file of class names; the
    field `cls` is the number of the sample's class, the first folder of its key, or of a list the last.
    shuffle: samples in the order of `seed`; otherwise by key, those of a plan as they stand there.
    """

    source: str | None
    output: str
    plan: str | None = None
    classes: str | None = None
    shard_samples: int | None = None
    shard_bytes: int | None = None
    shuffle: bool = False
    seed: int = 0
    follow_links: bool = False
    allow_empty: bool = False
    on_error: OnError = "raise"
    force: bool = False


def create_jobs(
    order: Creation, done: Done, tally: Tally, heard: Callable[[], object] = lambda: None
) -> list[ShardJob]:
    """Plan the jobs that make the shards: the same ones from the same files, so that a run can be taken up.

    done takes in the samples that are left out with on_error="skip"; tally counts files that are no sample's;
    `heard` is told of each file. Holds all names: about 120 bytes a file and its name. UsageError: an order
    that makes no sense; a shard that is there holds other samples than it would get. NotFound: no samples.
    GroupingError: two files that are the same field of the same sample; names that no shard can hold.
    """
    source = order.source if order.plan is None else order.plan
    if source is None or (order.plan is not None and order.source is not None):
        raise UsageError("name either a folder, a list of files, or a --plan")
    named = names_of(order.output)
    outputs_of(order.output, 2 if named is None else len(named))  # UsageError before all files are listed

    def refuse(error: WlshardError) -> None:
        if order.on_error == "raise":
            raise error
        sample = {URL: error.url or source, KEY: error.key or ""}
        done.failed.append(failure(sample, len(done.failed), error))

    lines, starts = _lines(order, source, tally, refuse, heard)
    count = len(starts) - 1
    if not count:
        passed = ", ".join(f"{number} {what}" for what, number in tally.passed_over.items())
        raise NotFound(f"no sample in it{f' ({passed})' if passed else ''}: check its name", url=source)
    settings: dict[str, Any] = {"source": source, "base": base_of(source), "allow_empty": order.allow_empty}
    known = None
    if order.classes is not None:
        settings["at"] = 0 if order.plan is None and is_folder(source) else -1
        known = read_classes(order.classes)
        keys = (lines[start].partition("\0")[0] for start in starts[:-1])
        settings["classes"] = known or sorted({class_of(key, settings["at"]) for key in keys if "/" in key})
    numbers: Sequence[int] = seeds.permutation(count, order.seed, "create") if order.shuffle else range(count)
    jobs = _jobs(order, source, settings, _cut(order, settings["base"], lines, starts, numbers))
    if order.classes is not None and known is None:
        write_classes(order.classes, settings["classes"])
    return jobs


def _jobs(
    order: Creation, source: str, settings: Mapping[str, Any], shards: Sequence[list[str]]
) -> list[ShardJob]:
    outputs = outputs_of(order.output, len(shards))
    job = ShardJob(
        [source], "", "wlshard.jobs.fetch:fetcher", settings, order.on_error, force=order.force,
        reader="wlshard.jobs.fetch:given_samples",
    )  # fmt: skip
    jobs = [replace(job, output=to, given=given) for to, given in zip(outputs, shards, strict=True)]
    if not order.force:
        refuse_numbered(order.output, but=outputs)
        for job in jobs if len(jobs) > 1 else ():
            _check_made(job)
    return jobs


def _lines(
    order: Creation, source: str, tally: Tally, refuse: Callable[[WlshardError], object],
    heard: Callable[[], object],
) -> tuple[list[str], array[int]]:  # fmt: skip
    """Give the lines of all samples, in order, and where each sample's begin, and the end."""
    lines: list[str] = []
    if order.plan is not None:
        for fields in planned(order.plan, refuse):
            lines += fields
            heard()
    else:
        for line in lines_of(source, tally, refuse, follow_links=order.follow_links):
            lines.append(line)
            heard()
        lines.sort()
    starts, keys, last, before = array("Q"), Keys(), "", ""
    for at, line in enumerate(lines):
        key, field, what = line.split("\0")
        if key != last:
            starts.append(at)
            if not keys.add(key.encode("utf-8", "surrogateescape")):
                raise GroupingError("two lines of the plan have this key: make them one", url=source, key=key)
        elif line.startswith(before):
            both = [printable(name_of(key, field, one.split("\0")[2])) for one in (lines[at - 1], line)]
            what = f"both are the field {printable(field)} of this sample: rename or remove one"
            raise GroupingError(f"{both[0]} and {both[1]}: {what}", url=source, key=key)
        last, before = key, f"{key}\0{field}\0"
    starts.append(len(lines))
    return lines, starts


def _cut(
    order: Creation, base: str, lines: list[str], starts: Sequence[int], numbers: Sequence[int]
) -> list[list[str]]:
    """Deal the samples out to shards; give the lines of each."""
    names, shards = names_of(order.output), list[list[str]]()
    if names is not None:
        refuse_limits(order.output, order.shard_samples, order.shard_bytes)
        for begin, end in pairwise(equal_parts(order.output, names, len(numbers))):
            shards.append([line for n in numbers[begin:end] for line in lines[starts[n] : starts[n + 1]]])
        return shards
    most, most_bytes = limits_of(order.shard_samples, order.shard_bytes)
    samples, size = most, 0
    for number in numbers:
        sample = lines[starts[number] : starts[number + 1]]
        more = sum(_tar_bytes(base, line, exact=order.shard_bytes is not None) for line in sample)
        if samples >= most or size + more > most_bytes:
            shards.append([])
            samples, size = 0, 2 * BLOCK
        shards[-1] += sample
        samples, size = samples + 1, size + more
    return shards


def _tar_bytes(base: str, line: str, *, exact: bool) -> int:
    """Give the bytes that a field takes in a shard, as far as they are known: a file elsewhere counts 0."""
    key, field, source = line.split("\0")
    size = len(source) - 1
    if source[:1] in ("", "<"):
        url = url_of(base, name_of(key, field, source))
        if not is_local(url):
            if exact:
                raise UsageError("sizes of files elsewhere are not known: use --shard-samples", url=url)
            return 0
        try:
            size = os.stat(local_path(url)).st_size
        except OSError:
            size = 0  # whoever reads it tells
    return BLOCK + size + padding(size)


def _check_made(job: ShardJob) -> None:
    """Raise UsageError if the output is there and was made of other samples."""
    if not is_there(job.output):
        return
    planned_keys = [key for key, _ in groupby(line.partition("\0")[0] for line in job.given)]
    made = _keys(job.output)
    left_out = set(planned_keys) - set(made)
    if set(made) - set(planned_keys) or (left_out and job.on_error != "skip"):
        what = "is there, but not of the samples that belong here now"
        raise UsageError(f"{what}: files or options have changed, --force makes all anew", url=job.output)


def _keys(url: str) -> list[str]:
    """List the keys of a shard, by its index if that has names."""
    store, name = locate(url)
    try:
        head, *lines = store.read(index_name(name)).decode("utf-8", "surrogateescape").splitlines()
    except NotFound:
        head, lines = "", []
    if head.startswith("v1.2 "):
        return [split[0] for line in lines if (split := split_name(line.split(" ", 4)[3]))]
    return [sample[KEY] for sample in read_samples(url)]
