"""One shard by many processes: chunks of samples out, what became of them back, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from wlshard.codecs import Buffer
from wlshard.codecs.gzipped import unpacking_at_most
from wlshard.jobs.each import Done, Heard, Made, Numbered, ShardJob, applied, selected, write
from wlshard.jobs.engine import Answer, Engine, Task
from wlshard.sample import KEY, URL, Sample
from wlshard.shards.tally import Tally

CHUNK_BYTES = 1 << 20
AHEAD = 2  # chunks on their way for each process: one that is done, one to be done next


def run_chunked(job: ShardJob, engine: Engine, chunk_samples: int, heard: Heard) -> Done:
    """Do a job with the engine's processes applying the function; output and errors are those of one.

    Reads and writes here. Holds two chunks a process and one more, each of `chunk_samples` or 1 MiB, and what
    became of them.
    """
    tally = Tally()
    return write(job, _made(job, engine, chunk_samples, selected(job, tally)), tally, heard)


def _made(job: ShardJob, engine: Engine, most: int, samples: Iterable[Numbered]) -> Iterator[Made]:
    sent: list[list[Numbered]] = []
    plain = asdict(replace(job, inputs=[], output="", keys=None, given=[]))

    def tasks() -> Iterator[Task]:
        for chunk in chunked(samples, most):
            sent.append(chunk)
            yield _task(plain, chunk)

    for answer in engine.run(tasks(), ahead=AHEAD * engine.parallel):
        yield from _unpacked(sent.pop(0), answer)


def chunked(samples: Iterable[Numbered], most: int) -> Iterator[list[Numbered]]:
    """Cut samples into chunks of at most so many, and of 1 MiB or one sample."""
    chunk: list[Numbered] = []
    size = 0
    for one in samples:
        chunk.append(one)
        size += sum(len(value) for name, value in one[1].items() if not name.startswith("__"))
        if len(chunk) >= most or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _task(job: Mapping[str, Any], chunk: list[Numbered]) -> Task:
    heads, body = [], list[Buffer]()
    for number, sample in chunk:
        fields = [(name, value) for name, value in sample.items() if not name.startswith("__")]
        heads.append([number, sample[KEY], sample[URL], [[name, len(value)] for name, value in fields]])
        body += [value for _, value in fields]
    return Task("wlshard.jobs.chunks:do_chunk", {"job": job, "samples": heads}, body)


def do_chunk(args: Mapping[str, Any], body: memoryview) -> Answer:
    """Apply the job's function to the samples of a chunk: a task for engines."""
    job = ShardJob(**args["job"])
    results, parts = [], list[Buffer]()
    with unpacking_at_most(job.max_member_bytes):
        for made in applied(job, _samples(args["samples"], body)):
            came = {id(value): name for name, value in made.sample.items()}
            stored = [_packed(sample, came, parts) for sample in made.samples]
            results.append([stored, made.failed])
    return Answer({"results": results}, parts)


def _samples(heads: list[Any], body: memoryview) -> Iterator[Numbered]:
    at = 0
    for number, key, url, fields in heads:
        sample: Sample = {KEY: key, URL: url}
        for name, size in fields:
            sample[name] = body[at : at + size]
            at += size
        yield number, sample


def _packed(sample: Sample, came: Mapping[int, str], parts: list[Buffer]) -> list[Any]:
    """Give a sample's key and fields: each with the field it is the unchanged bytes of, or its new size."""
    fields = []
    for name, value in sample.items():
        if name.startswith("__"):
            continue
        source = came.get(id(value))
        if source is None:
            parts.append(value)
            fields.append([name, None, len(value)])
        else:
            fields.append([name, source, 0])
    return [sample.get(KEY), fields]


def _unpacked(chunk: list[Numbered], answer: Answer) -> Iterator[Made]:
    body = memoryview(answer.body[0]) if answer.body else memoryview(b"")
    at = 0
    for (number, came), (stored, failed) in zip(chunk, answer.value["results"], strict=True):
        samples = []
        for key, fields in stored:
            sample: Sample = {KEY: key}
            for name, source, size in fields:
                sample[name] = body[at : at + size] if source is None else came[source]
                at += size
            samples.append(sample)
        yield Made(number, came, samples, failed)
