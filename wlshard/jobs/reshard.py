"""Shards into other shards: merged, split, sliced, mixed, sorted, shuffled; fields and keys by other names.

No field is decoded but the one that samples are sorted by; all that is written is copied byte for byte.
"""

from __future__ import annotations

import logging
import math
import os
import resource
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import TypeAlias

from wlshard import seeds
from wlshard.errors import GroupingError, UsageError, printable
from wlshard.jobs.chosen import Chosen, Renamed, key_of
from wlshard.jobs.expression import ranker
from wlshard.jobs.plan import ENDLESS, equal_parts, limits_of, names_of, outputs_of, refuse_limits
from wlshard.sample import KEY, URL, Sample
from wlshard.shards.access import ShardAccess
from wlshard.shards.keys import Keys
from wlshard.shards.numbered import delete_numbered, drop_scratch, refuse_numbered
from wlshard.shards.output import STDOUT, OutputSet, refuse_there
from wlshard.shards.reader import read_samples
from wlshard.shards.sorting import sorted_samples
from wlshard.shards.sought import samples_from
from wlshard.store.connect import is_local, local_path
from wlshard.stream.fields import Fields
from wlshard.tar.tape import MAX_MEMBER_BYTES

log = logging.getLogger(__name__)

LEAST_MEMORY_BYTES = 1 << 24
_READ_BYTES = 1 << 22  # what a shard being read takes

Span: TypeAlias = tuple[int | None, int | None, int | None]  # as a slice has them


@dataclass(frozen=True)
class Resharding:
    """What is to be done, in this order: inputs are merged or mixed, cut to `span`, sorted or shuffled; then
    fields are chosen and renamed and keys made, and all is written.

    inputs: sources, each a list of shards. mix: take from the sources in turn, or at random by `weights`,
    until all have ended; of a single source, from its shards. sort: see `ranker`. fields, drop, rename: see
    `Chosen`; rekey: see `key_of`. memory_bytes: for samples that are sorted or shuffled; about 30 bytes a
    sample come on top, to find keys that come back, and the open shard's index.
    """

    inputs: Sequence[Sequence[str]]
    output: str
    shard_samples: int | None = None
    shard_bytes: int | None = None
    span: Span = (None, None, None)
    fields: Fields = None
    drop: Sequence[str] = ()
    rename: Sequence[Renamed] = ()
    rekey: str | None = None
    mix: bool = False
    weights: Sequence[float] = ()
    sort: str | None = None
    shuffle: bool = False
    seed: int = 0
    memory_bytes: int = 1 << 30
    max_member_bytes: int = MAX_MEMBER_BYTES
    scratch: str | None = None
    force: bool = False


@dataclass
class Resharded:
    """What was written."""

    samples: int
    shards: int
    bytes: int


def reshard(order: Resharding, heard: Callable[[str], object] = lambda _: None) -> Resharded:
    """Do it. The same order gives the same bytes, whatever the memory. `heard` is told of each sample that
    is "read" and "written".

    Outputs are published at the end, all or, after an error, none. UsageError: an order that makes no sense,
    outputs that are there, or that earlier runs left under further numbers; `force` replaces and deletes
    these. GroupingError: two samples of one key. NotFound: a field that is nowhere.
    """
    _check(order)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each output is one, until all are published
    chosen = Chosen(order.fields, order.drop, order.rename)
    with closing(_read(order, heard)) as read, _open_outputs(order) as outputs:
        for sample in _keyed(order, chosen, _ordered(order, read)):
            outputs.write(sample)
            heard("written")
        chosen.check(outputs.samples)
    if order.force:
        delete_numbered(order.output, but=outputs.urls)
    return Resharded(outputs.samples, len(outputs.urls), outputs.bytes)


def _check(order: Resharding) -> None:
    if order.span[2] is not None and order.span[2] < 1:
        raise UsageError("a slice goes forward: its step is 1 or more")
    if order.sort is not None and order.shuffle:
        raise UsageError("either sorted or shuffled")
    if order.memory_bytes < LEAST_MEMORY_BYTES:
        raise UsageError(f"too little memory to sort in: give it {LEAST_MEMORY_BYTES >> 20}M or more")
    if order.weights and not order.mix:
        raise UsageError("--weights say how inputs are mixed: add --mix")
    mixed = len(_sources(order)) if order.mix else 0
    if order.weights and (
        mixed != len(order.weights) or not all(0 < one < math.inf for one in order.weights)
    ):
        raise UsageError(f"{mixed} inputs are mixed: give as many weights, each above 0")
    if mixed * _READ_BYTES > order.memory_bytes:
        raise UsageError(f"{mixed} inputs cannot be read at once: give it more --memory")
    if [url for urls in order.inputs for url in urls].count(STDOUT) > 1:
        raise UsageError("stdin can be read once only", url=STDOUT)
    if order.rekey is not None:
        key_of(order.rekey, {KEY: "k", URL: "s.tar"}, 0)


def _open_outputs(order: Resharding) -> OutputSet:
    names, output, size = names_of(order.output), order.output, order.shard_bytes
    if not order.force:
        refuse_numbered(output)
        refuse_there(names or ())
    drop_scratch(output)
    scratch = _scratch(order)
    if names is None:
        outputs_of(output, 2)  # UsageError: names that do not differ
        count, size = limits_of(order.shard_samples, size)
        return OutputSet(lambda n: output % n, lambda _: count, size, force=order.force, scratch=scratch)
    refuse_limits(output, order.shard_samples, size)
    parts = [0, ENDLESS]
    if len(outputs_of(output, len(names))) > 1:
        total = len(range(_total(order, "how many go into each output"))[slice(*order.span)])
        parts = equal_parts(output, names, total)
    return OutputSet(
        names.__getitem__, lambda n: parts[n + 1] - parts[n], ENDLESS, force=order.force, scratch=scratch
    )


def _scratch(order: Resharding) -> str | None:
    """Give the folder for files without a name: beside the output there is room for it."""
    if order.scratch is not None or order.output == STDOUT or not is_local(order.output):
        return order.scratch
    folder = os.path.dirname(local_path(order.output)) or "."
    return folder if os.path.isdir(folder) else None


def _sources(order: Resharding) -> Sequence[Sequence[str]]:
    """List what is mixed: the inputs, or the shards of the only one."""
    return order.inputs if len(order.inputs) > 1 else [[url] for url in order.inputs[0]]


def _total(order: Resharding, why: str) -> int:
    """Count the samples of all inputs, by their indexes, or else by a scan of those at hand."""
    total = 0
    for url in chain.from_iterable(order.inputs):
        with ShardAccess(url) as access:
            if access.samples is None:
                what = f"how many samples this has is known at its end only, but it decides {why}"
                raise UsageError(f"{what}: fetch it, or put its index beside it", url=url)
            total += access.samples
    return total


def _read(order: Resharding, heard: Callable[[str], object]) -> Generator[Sample, None, None]:
    """Yield the samples meant, as they are read."""
    start, stop, step = order.span[0] or 0, *order.span[1:]
    if start < 0 or (stop or 0) < 0:
        start, stop, step = slice(*order.span).indices(_total(order, "where the slice begins or ends"))
    if order.mix:
        found: Iterator[Sample] = islice(_mixed(order), start, None)
    else:
        shards = list(chain.from_iterable(order.inputs))
        found = samples_from(shards, start, max_member_bytes=order.max_member_bytes)
    for sample in islice(found, 0, None if stop is None else max(0, stop - start), step):
        heard("read")
        yield sample


def _mixed(order: Resharding) -> Iterator[Sample]:
    """Yield from the sources in turn, or each time from one drawn by weight of those that go on."""
    most = order.max_member_bytes
    live = [samples_from(shards, 0, max_member_bytes=most) for shards in _sources(order)]
    weights, draw, at = list(order.weights), seeds.rng(order.seed, "mix").random, -1
    while live:
        if weights:
            left, at = draw() * math.fsum(weights), 0
            while at < len(live) - 1 and left >= weights[at]:
                left, at = left - weights[at], at + 1
        else:
            at = (at + 1) % len(live)
        for sample in live[at]:
            yield sample
            break
        else:
            del live[at], weights[at : at + 1]
            at -= 1


def _ordered(order: Resharding, samples: Iterator[Sample]) -> Iterator[Sample]:
    if order.rekey is None:
        samples = _unique(order, samples)
    if order.sort is None and not order.shuffle:
        return samples
    draw = seeds.rng(order.seed, "reshard").random
    rank = ranker(order.sort) if order.sort is not None else lambda _: draw()
    ranked = ((rank(sample), sample) for sample in samples)
    return sorted_samples(ranked, memory_bytes=order.memory_bytes, scratch=_scratch(order))


def _keyed(order: Resharding, chosen: Chosen, samples: Iterator[Sample]) -> Iterator[Sample]:
    """Yield the samples as they are written: their fields, their keys."""
    fields = map(chosen, samples)
    if order.rekey is None:
        return fields
    template = order.rekey
    rekeyed = (sample | {KEY: key_of(template, sample, n)} for n, sample in enumerate(fields))
    return _unique(order, rekeyed)


def _unique(order: Resharding, samples: Iterator[Sample]) -> Iterator[Sample]:
    """Refuse a key that comes back, anywhere in the output."""
    keys = Keys()
    for sample in samples:
        key = sample[KEY]
        if not keys.add(key.encode("utf-8", "surrogateescape")):
            first = _first_place(order, key)
            if first is not None:  # else two keys share a hash
                advice = "keys of their own: --rekey '{shard}/{key}', or '{index:09d}'"
                what = f"this key is in {printable(first)} and comes again: give the samples {advice}"
                raise GroupingError(what, url=sample[URL], key=key)
        yield sample


def _first_place(order: Resharding, key: str) -> str | None:
    """Find the shard whose sample had this key first, by reading again."""
    template = order.rekey or "{key}"
    if "{index" in template or any(url == STDOUT for urls in order.inputs for url in urls):
        return "what was read before"
    log.warning("a key comes again: looking for where it was first")
    read = (sample for url in chain.from_iterable(order.inputs) for sample in read_samples(url))
    urls = list(islice((one[URL] for one in read if key_of(template, one, 0) == key), 2))
    return urls[0] if len(urls) > 1 else None
