"""What a pool says of itself is what was done to it: each sample carries its own number."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from statistics import median

import pytest
from clocks import Hand
from pools import Interrupting
from processes import environ

from wlshard import Loader, Pool, ShardWriter, clock
from wlshard.jobs.job import Job
from wlshard.jobs.run import Snapshot, run
from wlshard.pool.accounting import WINDOW_S
from wlshard.seeds import rng


def seal(pool, numbers, shard_samples=7):
    with ShardWriter(pool, shard_samples=shard_samples) as writer:
        for number in numbers:
            writer.write({"__key__": f"{number:06d}", "n.index": number})


@pytest.mark.parametrize("seed", range(6))
def test_totals_are_the_truth_through_any_history(memory_url, seed):
    draw, given, made = rng("accounting", seed), Counter(), 0
    pool = Pool(memory_url).create()
    seal(pool, range(5))
    made = 5
    pool.rotate()
    readers = [Loader(pool, batch_size=3, shuffle=6, seed=n) for n in range(2)]
    rows = [iter(reader) for reader in readers]
    for _ in range(60):
        action = draw.choice(["seal", "rotate", "retire", "read", "read", "read", "reopen"])
        if action == "seal":
            count = draw.randrange(1, 30)
            seal(pool, range(made, made + count))
            made += count
        elif action == "rotate":
            pool.rotate(pool_samples=draw.choice([0, 40]))
        elif action == "retire":
            pool.retire()
        elif action == "reopen":
            pool = Pool(memory_url)
        else:
            n = draw.randrange(2)
            batch = next(rows[n], None)
            if batch is None:
                rows[n] = iter(readers[n])
            else:
                given.update(batch["__key__"])
    for reader in readers:
        reader.close()
    for _ in range(2):  # before and after nearly all of it is retired
        status = pool.status()
        assert status.sealed_total == made == status.promoted_total + status.buffer.samples
        assert status.served_total == given.total()
        assert status.reuse_total == given.total() / status.promoted_total
        here = {key for shard in pool.newest().shards for key in keys_in(pool, shard.name)}
        assert status.samples == len(here)
        pool.rotate(pool_samples=40)
        seal(pool, range(made, made + 4))
        made += 4
        pool.rotate()
        pool.retire()
        assert pool.newest().floor <= pool.generations()[0]


def keys_in(pool, name):
    from pools import keys_in

    return keys_in(pool.store.read(f"shards/{name}"))


def test_reuse_and_the_share_never_read_of_a_generation_are_the_truth(memory_url):
    pool = Pool(memory_url).create()
    seal(pool, range(40))
    pool.rotate()
    given = Counter()
    with Loader(pool, batch_size=4, shuffle=8) as loader:
        for number, batch in enumerate(loader):
            given.update(batch["__key__"])
            if number == 5:
                break
    assert pool.status().never_read == pytest.approx(1 - len(given) / 40)
    assert pool.status().reuse == pytest.approx(given.total() / 40)
    with Loader(pool, batch_size=4, epochs=2) as loader:
        for batch in loader:
            given.update(batch["__key__"])
    status = pool.status()
    assert (status.never_read, status.reuse) == (0.0, given.total() / 40)
    assert status.leases == ()


@pytest.mark.parametrize("seed", range(4))
def test_the_reuse_of_each_shard_is_the_truth_whichever_generations_it_outlives(memory_url, seed):
    draw, given, made, spread = rng("shards", seed), Counter(), 0, 0.0
    pool = Pool(memory_url).create()
    for _ in range(12):
        count = 2 * draw.randrange(1, 15)  # even: two ranks share them without repeating one
        seal(pool, range(made, made + count), shard_samples=6)
        made += count
        pool.rotate(pool_samples=draw.choice([0, 40, 100]))
        if draw.random() < 0.7:
            pool.retire()
        epochs = draw.randrange(4)
        for rank in range(2):
            newest = f"{memory_url}@{pool.newest().generation}"
            with Loader(newest, shuffle=6, seed=seed, rank=rank, world_size=2) as loader:
                for _ in range(epochs):
                    given.update(sample["__key__"] for sample in loader)
        truth = {}
        for shard in pool.newest().shards:
            keys = keys_in(pool, shard.name)
            truth[shard.name] = sum(given[key] for key in keys) / len(keys)
        status = pool.status()
        assert dict(status.shard_reuse) == pytest.approx(truth)
        assert status.as_json()["shard_reuse"] == {
            "min": pytest.approx(min(truth.values())),
            "median": pytest.approx(median(truth.values())),
            "max": pytest.approx(max(truth.values())),
        }
        spread = max(spread, max(truth.values()) - min(truth.values()))
    assert pool.newest().floor > 0
    assert spread > 2


def test_the_rate_of_generators_counts_what_was_deleted_since(memory_url):
    with clock.use(Hand()) as hand:
        pool, sealed = Pool(memory_url).create(), []
        for number in range(40):
            hand.at += 7
            seal(pool, range(number * 10, number * 10 + number))
            sealed.append((hand.at, number))
            if number % 2:
                pool.rotate()
                pool.retire()
            truth = sum(count for at, count in sealed if hand.at - at <= WINDOW_S)
            assert pool.status().generated_per_s == truth / WINDOW_S
        hand.at += WINDOW_S + 1
        assert pool.status().generated_per_s == 0


def test_the_rate_of_readers_is_of_the_last_minute(memory_url):
    with clock.use(Hand()) as hand:
        pool = Pool(memory_url).create()
        seal(pool, range(10))
        pool.rotate()
        lease = pool.lease(1)
        lease.take()
        for _ in range(100):
            hand.at += 2
            lease.note(6, 0.0)
            lease.renew()
        assert pool.status().served_per_s == pytest.approx(3.0)
        for _ in range(40):
            hand.at += 2
            lease.note(0, 2.0)
            lease.renew()
        assert pool.status().served_per_s == 0.0
        lease.close()


def test_a_count_noted_while_its_generation_is_retired_is_counted_once(memory_url):
    """Two that retire at once, one of which has deleted the notes already."""
    for stop in range(1, 60):
        url = f"{memory_url}/{stop}"
        pool = Pool(url).create()
        for number in range(4):
            seal(pool, range(number * 5, number * 5 + 5))
            pool.rotate()
            lease = pool.lease(number + 1)
            lease.take()
            lease.note(number + 1, 0.0)
            lease.close()
        store = Interrupting(
            pool.store, lambda op, stop=stop: op.number == stop, lambda url=url: Pool(url).retire()
        )
        Pool(url, store=store).retire()
        assert pool.status().served_total == 1 + 2 + 3 + 4
    assert pool.generations() == [3, 4]


READS = """
import json, os, sys, wlshard
pool, given = wlshard.Pool(os.environ["WL_POOL"]), 0
with wlshard.Loader(pool, "json", batch_size=5) as loader:
    while pool.newest() is None or pool.newest().generation < 5:
        given += sum(len(rows) for (rows,) in loader)
open(sys.argv[1], "w").write(str(given))
"""


def test_a_run_tells_the_truth(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("wlshard.jobs.run.TURN_S", 0.05)
    monkeypatch.setattr(os, "environ", environ())
    seen: list[Snapshot] = []
    job = Job("generators:numbered", str(tmp_path / "p"), cap=40, shard_samples=5)
    consumer = [sys.executable, "-c", READS, str(tmp_path / "given")]
    assert run(job, consumer, parallel=2, at=20, show=seen.append) == 0
    status, last = Pool(tmp_path / "p").status(), seen[-1]
    assert last.totals.sealed == status.sealed_total
    assert last.served == status.served_total == int((tmp_path / "given").read_text())
    assert last.reuse == pytest.approx(status.reuse_total)
    assert json.loads(json.dumps(status.as_json()))["served_total"] == last.served
