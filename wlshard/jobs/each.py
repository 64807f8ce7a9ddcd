"""Shard jobs that do something to each sample: read shards, apply a function, write one shard.

The function is named (`work`) and made from settings in the process that applies it, so that a job can be
sent anywhere. It takes a sample and gives those it becomes: their fields are bytes, or as they came.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import import_module
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeAlias

from wlshard.codecs.gzipped import unpacking_at_most
from wlshard.errors import (
    AccessDenied,
    CodecError,
    GroupingError,
    NotFound,
    StoreUnavailable,
    UserCodeError,
    WlshardError,
)
from wlshard.jobs.engine import Answer
from wlshard.sample import KEY, URL, Sample
from wlshard.shards.output import OutputShard
from wlshard.shards.reader import in_turn, read_samples
from wlshard.shards.tally import Tally
from wlshard.tar.tape import MAX_MEMBER_BYTES

OnError: TypeAlias = Literal["raise", "skip", "ignore"]
Work: TypeAlias = Callable[[Sample, int], list[Sample]]  # leaves what it is given as it was
Numbered: TypeAlias = tuple[int, Sample]  # a sample and its number in its shard
Stream: TypeAlias = Callable[[Iterator[Numbered]], Iterator["Made"]]

_BAD = UserCodeError, CodecError, GroupingError
_UNREADABLE = NotFound, AccessDenied, StoreUnavailable


@dataclass(frozen=True)
class ShardJob:
    """One output shard and what makes it. All of it goes through JSON.

    work: MODULE:FUNCTION of ours that makes the function of a sample from `settings`. on_error: of a sample
    that fails: raise; skip, leave it out; ignore, take it unchanged. start, stop: the samples meant, counted
    over all inputs; keys: by input, those meant (None: all). stream: the function is one of all samples.
    reader: MODULE:FUNCTION of ours that yields samples from `given` and the settings, instead of the inputs;
    `work` fetches what is missing of them.
    """

    inputs: Sequence[str]
    output: str
    work: str
    settings: Mapping[str, Any]
    on_error: OnError = "raise"
    start: int = 0
    stop: int | None = None
    keys: Mapping[str, Sequence[str]] | None = None
    force: bool = False
    stream: bool = False
    max_member_bytes: int = MAX_MEMBER_BYTES
    given: Sequence[str] = ()
    reader: str | None = None


@dataclass
class Done:
    """What a job did: samples read and written, samples that made none, damage in the inputs, failures."""

    read: int = 0
    written: int = 0
    dropped: int = 0
    faults: int = 0
    shards: int = 0
    failed: list[dict[str, Any]] = field(default_factory=list)

    def add(self, other: Done) -> None:
        """Add what another job did."""
        self.read += other.read
        self.written += other.written
        self.dropped += other.dropped
        self.faults += other.faults
        self.shards += other.shards
        self.failed += other.failed


class Made(NamedTuple):
    """What one sample became; `failed`: why it became nothing, for the ledger."""

    number: int
    sample: Sample  # as it was read
    samples: list[Sample]
    failed: dict[str, Any] | None
    read: int = 1  # samples that this stands for


Heard: TypeAlias = Callable[[Made], object]


def work_of(job: ShardJob) -> Any:
    """Give the job's function of a sample; one and the same for equal settings."""
    return _made(job.work, json.dumps(job.settings))


@lru_cache(maxsize=4)
def _made(name: str, settings: str) -> Any:
    return _named(name)(json.loads(settings))


def _named(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)


def selected(job: ShardJob, tally: Tally) -> Iterator[Numbered]:
    """Give the samples that the job means, in order."""
    read = _all(job, tally)
    if job.start or job.stop is not None:
        read = islice(read, job.start, job.stop)
    if job.keys is None:
        return read
    wanted = {url: set(keys) for url, keys in job.keys.items()}
    return (one for one in read if one[1][KEY] in wanted.get(one[1][URL], ()))


def _all(job: ShardJob, tally: Tally) -> Iterator[Numbered]:
    if job.reader is not None:
        yield from enumerate(_named(job.reader)(job.given, job.settings))
        return
    on_error: Literal["raise", "skip"] = "skip" if job.on_error == "skip" else "raise"
    with in_turn(job.inputs):
        for url in job.inputs:
            # A stream's function may hold samples: views would hold a block of the shard each.
            read = read_samples(
                url, on_error=on_error, copy=job.stream, tally=tally, max_member_bytes=job.max_member_bytes
            )
            yield from enumerate(read)


def applied(job: ShardJob, samples: Iterable[Numbered]) -> Iterator[Made]:
    """Apply the job's function to samples, in this process."""
    if job.stream:
        whole: Stream = work_of(job)
        yield from whole(iter(samples))
        return
    work: Work = work_of(job)
    on_error, bad = job.on_error, _BAD if job.reader is None else _BAD + _UNREADABLE
    for number, sample in samples:
        try:
            results = work(sample, number)
            made = tuple.__new__(Made, (number, sample, results, None, 1))  # a third of what Made(…) takes
        except bad as error:
            error.key, error.url = error.key or sample[KEY], error.url or sample[URL]
            if on_error == "raise":
                raise
            results = [sample] if on_error == "ignore" else []
            made = Made(number, sample, results, failure(sample, number, error))
        yield made
        del sample, made, results  # their memory is needed for the next


def failure(sample: Sample, number: int, error: WlshardError) -> dict[str, Any]:
    """Give the line of the ledger for a sample that failed."""
    return {"url": sample[URL], "key": sample[KEY], "number": number, "error": error.as_json()}


def write(job: ShardJob, made: Iterable[Made], tally: Tally, heard: Heard) -> Done:
    """Write what samples became into the job's output, whole or not at all; `heard` is told of each."""
    done = Done(shards=1)
    with OutputShard(job.output, force=job.force, lasting=True) as output:
        take = output.write
        for one in made:
            failed = one.failed
            try:
                for sample in one.samples:
                    take(sample)
            except GroupingError as error:  # a key twice, or a sample without a field
                error.key, error.url = error.key or one.sample[KEY], error.url or one.sample[URL]
                if job.on_error == "raise":
                    raise
                failed = failure(one.sample, one.number, error)
            done.read += one.read
            if failed is not None:
                done.failed.append(failed)
            elif not one.samples:
                done.dropped += 1
            heard(one)
            del one
        done.written = output.samples
    if job.stream:  # nobody knows which sample was made of which
        done.dropped = max(0, done.read - done.written)
    done.faults = tally.faults
    return done


def run_here(job: ShardJob, heard: Heard = lambda _: None) -> Done:
    """Do a whole job in this process, one sample after the other."""
    tally = Tally()
    return write(job, applied(job, selected(job, tally)), tally, heard)


def do_shard(args: Mapping[str, Any], _body: memoryview) -> Answer:
    """Do a whole job in this process: a task for engines."""
    job = ShardJob(**args)
    with unpacking_at_most(job.max_member_bytes):
        return Answer(asdict(run_here(job)))
