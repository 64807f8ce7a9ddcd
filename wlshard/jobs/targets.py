"""Where generators write: a pool, or plain shards whose numbers the workers share out among them."""

from __future__ import annotations

from dataclasses import replace

from wlshard.errors import NotFound
from wlshard.pool.pool import Pool
from wlshard.sample import Sample
from wlshard.shards.writer import ClosedShard, TemplateTarget
from wlshard.store.base import Draft
from wlshard.store.connect import locate
from wlshard.tar.index import index_name, parse_index


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
