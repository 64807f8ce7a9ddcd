"""Apply Python code to each sample of shards: `wl-map`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from wlshard.errors import UsageError
from wlshard.jobs import pipeline
from wlshard.jobs.each import OnError, ShardJob
from wlshard.jobs.plan import plan
from wlshard.jobs.transform import Recipe, check

WORK = "wlshard.jobs.transform:transform"
STREAM = "wlshard.jobs.pipeline:pipeline"


def map_jobs(
    inputs: Sequence[str],
    output: str,
    recipe: Recipe,
    *,
    on_error: OnError = "raise",
    stop: int | None = None,
    keys: dict[str, list[str]] | None = None,
    force: bool = False,
) -> list[ShardJob]:
    """Plan the jobs that apply a recipe to the samples of shards. See `plan.outputs_of` for the output.

    stop: the first so many samples of each output; keys: only these samples, by URL of their shard.
    No code of the user's is run yet; what can be seen without that is told at once (UsageError, NotFound).
    """
    check(recipe)
    stream = recipe.pipeline is not None
    if recipe.pipeline is not None:
        pipeline.check(recipe.pipeline)
        if on_error != "raise":
            raise UsageError("a pipeline that has failed is over: --on-error does not go with --pipeline")
    work = STREAM if stream else WORK
    job = ShardJob([], "", work, asdict(recipe), on_error, stop=stop, keys=keys, force=force, stream=stream)
    return plan(inputs, output, job)
