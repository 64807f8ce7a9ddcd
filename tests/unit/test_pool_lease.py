"""A reader's lease: what it holds, when it ends, and what a reader does then."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from clocks import Hand
from loading import fill_pool, keys
from processes import environ

from wlshard import AccessDenied, CursorMismatch, Loader, LostLease, Pool, StoreUnavailable, clock, samples
from wlshard.cli.extract import main as extract
from wlshard.errors import NotFound
from wlshard.pool import accounting
from wlshard.pool.accounting import TTL_S
from wlshard.pool.follow import Follower
from wlshard.pool.lease import DAY_S
from wlshard.pool.names import lease_name
from wlshard.testing.storage import FaultyStore, RecordingStore


@pytest.fixture
def hand():
    with clock.use(Hand()) as moved:
        yield moved


@pytest.fixture
def pool(memory_url):
    return fill_pool(memory_url, range(30))


def taken(pool, store=None, **settings):
    lease = Pool(pool.url, store=store or pool.store).lease(1, **settings)
    assert lease.take()
    return lease


def later(pool, count=4):
    """Let so many generations follow, then retire."""
    for start in range(100, 100 + count):
        fill_pool(pool.url, range(start, start + 1))
    return pool.retire()


def files(pool):
    return [entry.name for entry in pool.store.list("leases/")]


def test_a_lease_is_put_before_it_is_looked_whether_the_generation_is_condemned(pool):
    store = RecordingStore(pool.store)
    lease = taken(pool, store)
    order = [op for op in store.kinds("put", "stat", "open") if op[1] != "wlshard.json"]
    assert order[0] == ("put", lease_name(1, lease.reader))
    assert order[1:] == [("stat", "condemned/0000000001"), ("open", "generations/0000000001.json")]
    lease.close()


def test_a_lease_on_a_pool_that_is_gone_leaves_nothing_in_its_place(pool, tmp_path):
    lease = pool.lease(1)
    for entry in list(pool.store.list()):
        pool.store.delete(entry.name)
    with pytest.raises(NotFound):  # by the look that follows the put
        lease.take()
    assert list(pool.store.list()) == []
    local = fill_pool(tmp_path / "pool", range(3))
    lease = local.lease(1)
    shutil.rmtree(local.url)
    lease.take()  # a put would make folders anew, so there is none
    lease.close()
    assert os.listdir(tmp_path) == []


def test_a_lease_ends_its_ttl_after_the_sending_of_the_last_renewal(pool, hand):
    class Slow(RecordingStore):
        def after(self, operation):
            if operation.kind == "put":
                hand.at += 40

    lease = taken(pool, Slow(pool.store))
    hand.at += TTL_S - 41
    lease.check()
    hand.at += 1
    with pytest.raises(LostLease, match="generation 1"):
        lease.check()
    lease.close()


def test_a_renewal_that_is_answered_after_the_end_does_not_count(pool, hand):
    slow = 0.0

    class Slow(RecordingStore):
        def after(self, operation):
            if operation.kind == "put":
                hand.at += slow

    lease = taken(pool, Slow(pool.store))
    hand.at += TTL_S - 10
    slow = 10.0
    lease.renew()
    assert not lease.alive
    with pytest.raises(LostLease):
        lease.check()
    lease.close()


def test_an_ended_lease_is_never_renewed(pool, hand):
    store = RecordingStore(pool.store)
    lease = taken(pool, store)
    hand.at += TTL_S
    store.operations.clear()
    lease.renew()
    assert store.kinds("put") == []
    assert not lease.alive
    lease.note(3, 0.0)
    assert [note.ttl_s for note in pool.served(1)] == [0.0]
    lease.close()


def test_the_thread_renews_while_the_consumer_is_busy_and_ends_with_the_lease(pool, hand):
    renewed = threading.Semaphore(0)

    class Seen(RecordingStore):
        def after(self, operation):
            if operation.kind == "put":
                hand.at += 0.1
                renewed.release()

    lease = taken(pool, Seen(pool.store), ttl_s=0.3)
    for _ in range(6):
        assert renewed.acquire(timeout=30)
    lease.check()
    lease.close()
    lease.close()
    assert files(pool) == []


def test_a_store_that_does_not_take_renewals_is_told_until_the_lease_has_ended(pool, hand, caplog):
    away, asked = threading.Event(), threading.Semaphore(0)

    def fails(operation):
        if away.is_set() and operation.kind == "put":
            asked.release()
            return StoreUnavailable("away")
        return None

    lease = taken(pool, FaultyStore(pool.store, fails), ttl_s=0.3)
    away.set()
    for _ in range(2):
        assert asked.acquire(timeout=30)
        lease.check()
    hand.at += 0.3
    lease._thread.join(timeout=30)
    with pytest.raises(LostLease):
        lease.check()
    assert caplog.text.count("is not renewed: away") >= 2
    assert caplog.records[-1].levelname == "ERROR"
    lease.close()


def test_on_a_full_disk_a_reader_goes_on_and_has_its_lease_once_there_is_room(pool, caplog):
    full = True
    store = FaultyStore(
        pool.store, lambda op: StoreUnavailable("full") if full and op.kind == "put" else None
    )
    lease = taken(pool, store)
    assert "without a lease for now" in caplog.text
    lease.check()
    full = False
    lease.renew()
    assert later(pool).held == {1: [lease.reader]}
    lease.close()
    assert pool.retire().retired == [1]


def test_a_lease_that_comes_too_late_is_lost(pool):
    full = True
    store = FaultyStore(
        pool.store, lambda op: StoreUnavailable("full") if full and op.kind == "put" else None
    )
    lease = taken(pool, store)
    assert 1 in later(pool).retired
    full = False
    lease.renew()
    with pytest.raises(LostLease):
        lease.check()
    lease.close()


def test_without_write_access_a_reader_goes_on_says_so_once_and_a_shard_gone_is_a_lost_lease(pool, caplog):
    store = FaultyStore(pool.store, lambda op: AccessDenied("read-only") if op.kind == "put" else None)
    reader = Pool(pool.url, store=store)
    with Loader(reader, batch_size=4) as loader:
        assert len(list(loader)) == 8
        assert len(list(loader)) == 8
        iterator = iter(loader)
        next(iterator)
        assert caplog.text.count("cannot be written by us") == 1
        later(pool)
    with Loader(reader, batch_size=4, shuffle=0) as loader:
        iterator = iter(loader)
        manifest = pool.newest()
        for shard in manifest.shards:
            pool.store.delete(f"shards/{shard.name}")
        with pytest.raises(LostLease):
            next(iterator)
    assert len(caplog.records) == 1


# Readers


def test_a_loaders_epoch_is_whole_whatever_is_retired_meanwhile(pool):
    with Loader(pool.url, batch_size=4, shuffle=24) as loader:
        iterator = iter(loader)
        got = list(next(iterator)["__key__"])
        assert 1 not in later(pool).retired
        for batch in iterator:
            got += batch["__key__"]
        assert sorted(got) == keys(30)
        assert [batch["__key__"] for batch in loader] == [["000103"]]
        assert pool.retire().retired == [1]
    assert [note.ttl_s for note in pool.served(5)] == [0.0]
    assert pool.leases() == []


def test_samples_hold_their_generation_to_their_end(pool):
    rows = iter(samples(pool.url))
    got = [next(rows)["__key__"]]
    assert 1 not in later(pool).retired
    got += [row["__key__"] for row in rows]
    assert got == keys(30)
    assert files(pool) == []
    assert pool.retire().retired == [1]


def test_samples_that_are_not_read_to_their_end_let_go_too(pool):
    rows = iter(samples(pool.url))
    next(rows)
    assert len(files(pool)) == 1
    del rows
    gc.collect()
    assert files(pool) == []


def test_a_reader_that_is_forgotten_lets_go(pool):
    reader = Follower(pool, None, follow=True, timeout_s=1)
    reader.choose()
    assert len(files(pool)) == 1
    del reader
    gc.collect()
    assert files(pool) == []


def test_a_loader_stopped_for_longer_than_its_lease_raises_and_may_begin_again(pool, hand):
    with Loader(pool.url, batch_size=4) as loader:
        iterator = iter(loader)
        first = next(iterator)["__key__"]
        hand.at += TTL_S + 100
        with pytest.raises(LostLease, match="ended"):
            next(iterator)
        loader.load_state_dict(loader.state_dict())
        rest = [key for batch in loader for key in batch["__key__"]]
        assert first + rest == keys(30)  # nobody retired it: a new lease, and on from where it stood
        assert len(pool.leases()) == 1


def test_a_loader_whose_generation_was_retired_while_it_was_stopped_cannot_go_on_in_it(pool, hand):
    with Loader(pool.url, batch_size=4) as loader:
        iterator = iter(loader)
        next(iterator)
        hand.at += TTL_S + 100
        assert 1 in later(pool).retired
        with pytest.raises(LostLease):
            next(iterator)
        loader.load_state_dict(loader.state_dict())
        with pytest.raises(CursorMismatch, match="retired"):
            next(iter(loader))
    with Loader(pool.url) as loader:
        assert len(list(loader)) == 1


def test_the_newest_is_taken_where_the_one_found_was_retired_before_the_lease(pool):
    class Late(RecordingStore):
        done = False

        def before(self, operation):
            if operation.kind == "put" and not self.done:
                self.done = True
                later(pool)

    reader = Follower(Pool(pool.url, store=Late(pool.store)), None, follow=True, timeout_s=1)
    assert reader.choose().generation == 5
    assert len(files(pool)) == 1
    reader.close()


def test_a_loaders_pin_keeps_its_last_two_generations_for_who_resumes(pool):
    def loader():
        return Loader(pool.url, batch_size=4, pin="run")

    with loader() as first:
        iterator = iter(first)
        next(iterator)
        state = first.state_dict()
    assert later(pool).held == {1: ["pin-run"]}
    with loader() as again:
        again.load_state_dict(state)
        rest = [key for batch in again for key in batch["__key__"]]
        assert rest == keys(30)[4:]
        assert len(list(again)) == 1
        assert {note.generation for note in pool.leases() if note.pin} == {1, 5}
    fill_pool(pool.url, range(200, 201))
    with loader() as third:
        list(third)
        assert {note.generation for note in pool.leases() if note.pin} == {6}


def test_a_store_that_is_slow_to_note_what_was_served_keeps_no_reader_waiting(pool):
    noting, done = threading.Event(), threading.Event()

    class Slow(RecordingStore):
        def before(self, operation):
            if operation.kind == "put" and len(self.kinds("put")) == 2:
                noting.set()
                assert done.wait(timeout=60)

    lease = taken(pool, Slow(pool.store))
    lease.note(3, 0.0)
    assert noting.wait(timeout=30)
    lease.note(4, 0.0)
    lease.check()
    done.set()
    lease.close()
    assert [note.served for note in pool.served(1)] == [7]


def test_a_loader_renews_its_pin_as_long_as_it_reads(pool, hand):
    """So that a job of weeks in one generation leaves its last state a week."""
    lease = Pool(pool.url).lease(1, "run", ttl_s=20 * DAY_S)
    assert lease.take()
    pool.pin("run", 1)

    def days_left():
        return [note.left_s(hand.at) / DAY_S for note in pool.leases() if note.pin == "run"]

    left = []
    for _ in range(5):
        hand.at += 2 * DAY_S
        lease.renew()
        left += days_left()
    assert left == [5, 7, 5, 7, 5]
    lease.close()
    assert days_left() == [5]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_has_one_lease_of_its_own_process_and_its_state_asks_no_store(tmp_path, workers):
    pool = fill_pool(tmp_path / "pool", range(30))
    store = RecordingStore(pool.store)
    with Loader(Pool(pool.url, store=store), batch_size=4, workers=workers, pin="run") as loader:
        steps = iter(loader)
        next(steps)
        holders = [note.holder for note in pool.leases() if note.pin is None]
        assert [holder.split("-")[-2] for holder in holders] == [str(os.getpid())]
        store.operations.clear()
        assert loader.state_dict()["generation"] == 1
        assert store.operations == []


STOPPED = """
import json, os, signal, sys
from wlshard.cli.extract import main as extract
from wlshard.pool import accounting
accounting.TTL_S = 1.0
import wlshard
with wlshard.Loader(sys.argv[1], batch_size=4) as loader:
    rows = iter(loader)
    print(json.dumps(next(rows)["__key__"]), flush=True)
    sys.stdin.readline()
    try:
        for batch in rows:
            print(json.dumps(batch["__key__"]), flush=True)
    except wlshard.LostLease as error:
        print(json.dumps(str(error)), flush=True)
        sys.exit(error.code)
"""


def test_a_process_stopped_for_longer_than_its_lease_wakes_to_lost_lease_never_to_wrong_data(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(accounting, "TTL_S", 1.0)
    monkeypatch.setattr(accounting, "SLACK_S", 0.1)
    pool = fill_pool(str(tmp_path / "pool"), range(30))
    with subprocess.Popen(
        [sys.executable, "-P", "-c", STOPPED, pool.url],
        env=environ(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == keys(4)
        assert 1 not in later(pool).retired
        os.kill(process.pid, signal.SIGSTOP)
        while 1 not in pool.retire().retired:
            pass
        os.kill(process.pid, signal.SIGCONT)
        process.stdin.write("\n")
        process.stdin.flush()
        *batches, last = map(json.loads, process.stdout.read().splitlines())
    assert process.returncode == LostLease.code
    assert "generation 1" in last
    assert [key for batch in batches for key in batch] == keys(30)[4 : 4 + 4 * len(batches)]


# Commands


def test_a_command_holds_the_generation_it_reads_until_it_ends(tmp_path: Path, monkeypatch) -> None:
    pool = fill_pool(str(tmp_path / "pool"), range(30))
    held = []
    monkeypatch.setattr(
        "wlshard.jobs.extract.extract", lambda *_, **__: held.append(later(pool).held) or iter(["x"])
    )
    result = CliRunner().invoke(extract, ["-f", "n.index", pool.url])
    assert (result.exit_code, result.stdout) == (0, "x\n")
    assert list(held[0]) == [1]
    assert files(pool) == []
    assert pool.retire().retired == [1]


def test_a_shard_that_is_gone_under_a_command_is_31_and_a_field_that_is_not_there_10(tmp_path: Path) -> None:
    pool = fill_pool(str(tmp_path / "pool"), range(30))
    result = CliRunner().invoke(extract, ["-f", "absent", pool.url])
    assert result.exit_code == 10
    os.unlink(pool.shards()[1])
    result = CliRunner().invoke(extract, ["-f", "n.index", pool.url])
    assert (result.exit_code, "was retired while" in result.stderr) == (31, True)
