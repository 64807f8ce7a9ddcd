"""What a generator process is told to do, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from wlshard.seeds import fresh_seed

WhenFull: TypeAlias = Literal["wait", "drop"]


@dataclass(frozen=True)
class Job:
    """What one start of one generator process is to do. All of it goes through JSON.

    samples: how many this start makes at most, dropped ones included; None: until the generator ends.
    start counts the starts of this worker; `done` is what the ones before published, (shards, samples).
    """

    function: str
    target: str
    samples: int | None = None
    seed: int = field(default_factory=fresh_seed)
    worker: int = 0
    workers: int = 1
    start: int = 0
    done: tuple[int, int] = (0, 0)
    device: str = "cpu"
    fields: Sequence[str] | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    cap: int | None = None
    when_full: WhenFull = "wait"
    shard_samples: int = 10_000
    shard_bytes: int = 2**28
    shard_seconds: float | None = 60.0
    schema: Literal["check", "any"] = "check"


@dataclass
class Progress:
    """How far a start has come. `waiting_s`: None, or for how long it has been waiting for room.

    `generated` counts whole samples that the generator yielded; of them `dropped` were not kept and
    `sealed` are published, in `shards` of `bytes`. `writer`: its id in the pool.
    """

    generated: int = 0
    sealed: int = 0
    dropped: int = 0
    shards: int = 0
    bytes: int = 0
    waiting_s: float | None = None
    buffered: int = 0  # samples found in the write buffer when it was last looked at
    writer: str | None = None

    def plus(self, later: Progress) -> Progress:
        """Sum up with what came later; what is no sum is of that."""
        summed = ("generated", "sealed", "dropped", "shards", "bytes")
        return replace(later, **{name: getattr(self, name) + getattr(later, name) for name in summed})


Report: TypeAlias = Callable[[Progress], None]
