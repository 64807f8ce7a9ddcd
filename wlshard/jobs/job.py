"""What a generator process is told to do and where to write, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from wlshard.errors import NotFound
from wlshard.pool.pool import Pool
from wlshard.sample import Sample
from wlshard.seeds import fresh_seed
from wlshard.shards.writer import ClosedShard, TemplateTarget
from wlshard.store.base import Draft
from wlshard.store.connect import locate
from wlshard.tar.index import index_name, parse_index

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


def is_template(target: str) -> bool:
    """Tell `x-%06d.tar` from a pool's URL."""
    return target.endswith(".tar")


def pool_of(target: str) -> Pool | None:
    """Give the pool that a target names; None for a template."""
    return None if is_template(target) else Pool(target)


class SharedTemplate:
    """Plain shards by P workers: worker i takes the numbers i, i+P, i+2P, …

    The keys of its samples that have none are i, i+P, … too, so that none comes twice in the whole set.
    done: (shards, samples) of this worker that earlier starts of it published.
    """

    wants_sha256 = False

    def __init__(self, template: str, worker: int, workers: int, done: tuple[int, int] = (0, 0)) -> None:
        self._plain = TemplateTarget(template)
        self._worker, self._workers = worker, workers
        self._shards_done, self._samples_done = done

    def admit(self, sample: Sample) -> None:
        self._plain.admit(sample)

    def open_draft(self, seq: int) -> Draft:
        return self._plain.open_draft(self._number(seq))

    def publish(self, draft: Draft, shard: ClosedShard) -> str:
        return self._plain.publish(draft, replace(shard, seq=self._number(shard.seq)))

    def default_key(self, n: int) -> str:
        return self._plain.default_key((self._samples_done + n) * self._workers + self._worker)

    def _number(self, seq: int) -> int:
        return (self._shards_done + seq - 1) * self._workers + self._worker + 1  # the plain one counts from 1


def published(template: str, worker: int, workers: int, after: int = 0) -> tuple[int, int, int]:
    """Count what a worker has published beyond its first `after` shards: (shards, samples, bytes)."""
    shards = samples = size = 0
    while True:
        store, name = locate(template % ((after + shards) * workers + worker))
        try:
            size += store.stat(name).bytes
            samples += parse_index(store.read(index_name(name)), index_name(name)).samples
        except NotFound:
            return shards, samples, size
        shards += 1
