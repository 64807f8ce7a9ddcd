"""The front door for writing: plain shards from a template, or sealed shards into a pool."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from wlshard.pool.pool import Pool
from wlshard.pool.seal import SealingTarget
from wlshard.shards.writer import RollingWriter, Target, TemplateTarget
from wlshard.store.options import use_options

_SHARDS = re.compile(r"\.(tar(\.\w+)?|tgz|tzst|txz|tbz2?)$")  # packed ones too: they are refused


class ShardWriter(RollingWriter):
    """Write samples into shards that roll; each is published whole or not at all.

    target: a template, `x-%06d.tar`, whose outputs must not be there yet; or a pool, whose write buffer the
    shards join. In a pool each process is a writer of its own (`writer` is its id), so any number may write
    at once. A shard is rolled at `shard_samples`, at `shard_bytes` of tar, and `shard_seconds` after its
    first sample. Samples without `__key__` get one: `%09d` in plain shards, `<writer>-<n>` in a pool.
    A pool's first shard decides of fields, types and shapes (those that are equal in it): a sample that is
    not like that is refused, unless `any_schema`.

    A context manager: leaving it publishes the open shard, an exception inside drops it. Nothing is opened
    before the first `write`. Errors: NotFound (no pool there), AccessDenied, StoreUnavailable, CodecError,
    GroupingError.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | Pool,
        *,
        shard_samples: int = 10_000,
        shard_bytes: int = 2**28,
        shard_seconds: float | None = None,
        any_schema: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        use_options(storage_options)
        sink: Target
        if isinstance(target, Pool):
            sink = SealingTarget(target, any_schema=any_schema)
        elif _SHARDS.search(os.fspath(target)):
            sink = TemplateTarget(os.fspath(target))
        else:
            sink = SealingTarget(Pool(target), any_schema=any_schema)
        super().__init__(
            sink,
            shard_samples=shard_samples,
            shard_bytes=shard_bytes,
            shard_seconds=shard_seconds,
        )

    @property
    def writer(self) -> str | None:
        """Under which id this process writes into a pool; None before its first sample, or without a pool."""
        return self._target.writer if isinstance(self._target, SealingTarget) else None
