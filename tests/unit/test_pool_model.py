"""Rotation against a model made of dictionaries, over random histories."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from pools import WRITER_A, WRITER_B, seal_by_hand, tar_of

from wlshard.errors import StoreUnavailable
from wlshard.pool.manifest import parse_manifest
from wlshard.pool.names import ShardName, manifest_name
from wlshard.pool.pool import Pool
from wlshard.seeds import rng
from wlshard.store.connect import connect
from wlshard.testing.storage import FaultyStore

WRITERS = [WRITER_A, WRITER_B, "20250101T000000-gamma-cccccccccccccccc"]


@dataclass
class Model:
    """What a pool should hold: shard name → samples, and how each stands."""

    waiting: dict = field(default_factory=dict)
    bad: set = field(default_factory=set)
    hidden: set = field(default_factory=set)
    reading: list = field(default_factory=list)  # (promoted, name, samples)
    generation: int = 0
    promoted_ever: list = field(default_factory=list)

    def rotate(self, at, pool_samples):
        good = sorted(name for name in self.waiting if name not in self.bad and name not in self.hidden)
        total = sum(self.waiting[name] for name in good)
        if not good or total < at:
            return False
        self.generation += 1
        kept, held = [], total
        for shard in sorted(self.reading, reverse=True):
            if held >= pool_samples:
                break
            kept.append(shard)
            held += shard[2]
        self.reading = sorted(kept + [(self.generation, name, self.waiting[name]) for name in good])
        self.promoted_ever += good
        self.waiting = {name: n for name, n in self.waiting.items() if name in self.hidden}
        return True


class AsIfLocal(FaultyStore):
    """A memory store whose shards rotation opens and looks into, as it does with files."""

    @property
    def can(self):
        return replace(self.store.can, local=True)


@pytest.mark.parametrize("seed", range(25))
def test_random_histories_agree_with_the_model(memory_url, seed):
    draw = rng("pool-model", seed)
    model = Model()

    def stale(operation):
        if operation.kind == "open" and operation.name.removeprefix("shards/") in model.hidden:
            return StoreUnavailable("stale handle")
        return None

    base = connect(memory_url)
    store = AsIfLocal(base, stale)
    pool = Pool(memory_url, store=store).create()
    numbers = {writer: draw.sample(range(1, 30), 29) for writer in WRITERS}  # shards appear in any order
    for _ in range(60):
        action = draw.choice(["seal", "seal", "seal", "bad", "hide", "show", "rotate", "rotate", "reopen"])
        writer = draw.choice(WRITERS)
        if action in ("seal", "bad") and numbers[writer]:
            seq, samples = numbers[writer].pop(), draw.randrange(1, 20)
            data = (
                b"not a tar" * 100 if action == "bad" else tar_of([f"{writer}.{n}" for n in range(samples)])
            )
            name = seal_by_hand(base, writer, seq, samples, data)
            model.waiting[name] = samples
            if action == "bad":
                model.bad.add(name)
        elif action == "hide" and model.waiting:
            model.hidden.add(draw.choice(sorted(model.waiting)))
        elif action == "show":
            model.hidden.clear()
        elif action == "reopen":
            pool = Pool(memory_url, store=store)
        elif action == "rotate":
            at, pool_samples = draw.choice([0, 10, 50]), draw.choice([0, 30, 1000])
            assert pool.rotate(at=at, pool_samples=pool_samples).committed == model.rotate(at, pool_samples)
        newest = pool.newest()
        assert newest.generation == model.generation
        assert [(s.promoted, s.name, s.samples) for s in newest.shards] == model.reading
        assert {shard.name for shard in pool.buffer()} == set(model.waiting)
    assert len(model.promoted_ever) == len(set(model.promoted_ever))
    check_history(base, model)


def check_history(store, model):
    """Manifests form a gap-free chain; each shard was promoted by one of them, and covered from then on."""
    promoted, digest = [], None
    for generation in range(model.generation + 1):
        data = store.read(manifest_name(generation))
        manifest = parse_manifest(data, "")
        assert manifest.parent == digest
        digest = manifest.digest
        promoted += [shard.name for shard in manifest.shards if shard.promoted == generation]
        for name in promoted:
            assert manifest.covers(ShardName.parse(name))
    assert sorted(promoted) == sorted(model.promoted_ever)
