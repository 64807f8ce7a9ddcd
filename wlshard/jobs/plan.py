"""From what users write, IN and OUT, to shard jobs; and how they are run: over shards, or over samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from wlshard.errors import UsageError
from wlshard.jobs.chunks import run_chunked
from wlshard.jobs.each import Done, Heard, ShardJob, run_here
from wlshard.jobs.engine import Engine, Task
from wlshard.shards.braces import expand_braces, expand_count
from wlshard.shards.output import STDOUT, is_there
from wlshard.shards.packing import compressor
from wlshard.tar.index import index_name

SHARD_SAMPLES, SHARD_BYTES = 10_000, 2**28
ENDLESS = 1 << 62


def names_of(output: str) -> list[str] | None:
    """List the outputs that a text names one by one; None: a template, `out-%06d.tar`, names any number."""
    try:
        output % 0
    except (TypeError, ValueError):
        return [one for braces in expand_braces(output) for one in expand_count(braces)]
    return None


def equal_parts(output: str, names: Sequence[str], samples: int) -> list[int]:
    """Give where the outputs of these names, and the last one's end, are in so many samples."""
    if len(names) > max(samples, 1):
        raise UsageError(f"{len(names)} outputs for {samples} samples: name fewer", url=output)
    return [samples * n // len(names) for n in range(len(names) + 1)]


def refuse_limits(output: str, *limits: int | None) -> None:
    """Raise UsageError for limits of shards whose number is named."""
    if any(limits):
        raise UsageError("so many are named: to split by samples or bytes write out-%06d.tar", url=output)


def limits_of(shard_samples: int | None, shard_bytes: int | None) -> tuple[int, int]:
    """Give the most samples and bytes of a shard: both defaults, or the one that is set and no other."""
    if shard_samples is None and shard_bytes is None:
        return SHARD_SAMPLES, SHARD_BYTES
    return shard_samples or ENDLESS, shard_bytes or ENDLESS


def outputs_of(output: str, inputs: int) -> list[str]:
    """List the outputs of so many inputs: one for each, named by a template, or one for all.

    A template is `out-{0000..0147}.tar`, `out-@000148.tar` or `out-%06d.tar`, which numbers from 0.
    UsageError: a template that names another number of shards, a name twice, or an ending of no shard.
    """
    numbered = names_of(output)
    if numbered is None:
        numbered = [output % number for number in range(inputs)]
    if len(numbered) not in (1, inputs):
        what = f"{len(numbered)} outputs for {inputs} inputs: name as many, or a single one for all"
        raise UsageError(what, url=output)
    for one in numbered:
        compressor(one)
    if len({index_name(one) for one in numbered}) < len(numbered):
        raise UsageError("the outputs need names that differ before their first dot", url=output)
    return numbered


def plan(inputs: Sequence[str], output: str, job: ShardJob) -> list[ShardJob]:
    """Give the jobs that fill the outputs, see `outputs_of`: like `job`, but for their inputs and output."""
    outputs = outputs_of(output, len(inputs))
    if len(outputs) == 1:
        return [replace(job, inputs=list(inputs), output=outputs[0])]
    return [replace(job, inputs=[one], output=to) for one, to in zip(inputs, outputs, strict=True)]


def left_to_do(jobs: Sequence[ShardJob]) -> list[ShardJob]:
    """Leave out the jobs whose output is there: of many shards, those are done. A single one is not left
    out, but will be refused."""
    if len(jobs) == 1 or jobs[0].force:
        return list(jobs)
    return [job for job in jobs if not is_there(job.output)]


def run_jobs(
    jobs: Sequence[ShardJob],
    processes: Engine | None,
    *,
    chunk_samples: int = 64,
    heard: Heard = lambda _: None,
) -> Iterator[Done]:
    """Do the jobs, yielding what each did, in their order, once its output is published.

    processes: an engine that was entered; None: this process alone. Several at a time, each in one process; a
    single one, or fewer than there are processes, one after the other with all of them on its samples.
    `heard` is told of each sample that is done in or through this process. The first job that fails ends the
    others.
    """
    urls = {url for job in jobs for url in (job.output, *job.inputs)}
    bound = any(url == STDOUT or url.startswith("memory://") for url in urls)  # this process's own
    stream = any(job.stream for job in jobs)  # has no samples to be given to others
    if processes is None or (stream and (bound or len(jobs) == 1)):
        yield from (run_here(job, heard) for job in jobs)
    elif not stream and (bound or len(jobs) < max(processes.parallel, 2)):
        yield from (run_chunked(job, processes, chunk_samples, heard) for job in jobs)
    else:
        tasks = (Task("wlshard.jobs.each:do_shard", asdict(job)) for job in jobs)
        yield from (Done(**answer.value) for answer in processes.run(tasks))
