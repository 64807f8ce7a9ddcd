"""Rotation: what is promoted, kept, covered; and every trap that lies in it."""

from __future__ import annotations

import errno
import os
import shutil
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from pools import WRITER_A, WRITER_B, Interrupting, keys_of, names_of, seal_by_hand

from wlshard import clock
from wlshard.errors import AccessDenied, NotFound, StoreUnavailable, UsageError
from wlshard.pool.follow import wait_for_samples
from wlshard.pool.generations import TRIES
from wlshard.pool.manifest import Watermark
from wlshard.pool.pool import Pool
from wlshard.store.connect import connect
from wlshard.testing.storage import FaultyStore, RecordingStore


@pytest.fixture(params=["local", "memory"])
def pool(request, tmp_path):
    if request.param == "local":
        return Pool(tmp_path / "pool").create()
    return Pool(request.getfixturevalue("memory_url")).create()


class StillClock:
    """Sleeping takes no time, but is counted."""

    def __init__(self):
        self.slept = []
        self.time = time.time
        self.monotonic = time.monotonic
        self.sleep = self.slept.append


def other(pool, store=None):
    """The same pool as another process would see it."""
    return Pool(pool.url, store=store or pool.store)


# What rotation does


def test_a_new_pool_has_the_empty_generation_0(pool):
    newest = pool.newest()
    assert (newest.generation, newest.shards, newest.parent) == (0, (), None)
    assert pool.generations() == [0]
    assert pool.shards() == pool.buffer() == []
    assert pool.settings["keep"] == 2


def test_rotate_promotes_the_whole_write_buffer(pool):
    names = [seal_by_hand(pool.store, WRITER_A, seq, samples=3) for seq in (1, 2)]
    assert [shard.name for shard in pool.buffer()] == names
    done = pool.rotate()
    assert (done.committed, done.previous, done.generation) == (True, 0, 1)
    assert done.promoted[:2] == (2, 6)
    assert names_of(pool.newest()) == names
    assert pool.buffer() == []
    assert pool.shards() == [f"{pool.url}/shards/{name}" for name in names]
    assert pool.newest().parent == pool.manifest(0).digest


def test_a_full_swap_drops_what_was_there(pool):
    first = seal_by_hand(pool.store, WRITER_A, 1, samples=5)
    pool.rotate()
    second = seal_by_hand(pool.store, WRITER_A, 2)
    done = pool.rotate()
    assert names_of(pool.newest()) == [second]
    assert (done.promoted.samples, done.kept.samples, done.dropped.samples) == (1, 0, 5)
    assert names_of(pool.manifest(1)) == [first]
    assert pool.shards(1) == [f"{pool.url}/shards/{first}"]


def test_nothing_to_promote_commits_nothing(pool):
    done = pool.rotate()
    assert (done.committed, done.previous, done.generation) == (False, 0, 0)
    assert pool.newest(after=0) is None


def test_less_than_at_commits_nothing_and_loses_nothing(pool):
    seal_by_hand(pool.store, WRITER_A, 1, samples=4)
    done = pool.rotate(at=5)
    assert (done.committed, done.generation, done.promoted) == (False, 0, (0, 0, 0))
    seal_by_hand(pool.store, WRITER_B, 1)
    assert pool.rotate(at=5).promoted.samples == 5


def test_a_dry_run_tells_and_commits_nothing(pool):
    seal_by_hand(pool.store, WRITER_A, 1, samples=4)
    done = pool.rotate(dry_run=True)
    assert (done.committed, done.previous, done.generation, done.promoted.samples) == (False, 0, 1, 4)
    assert pool.newest().generation == 0
    assert len(pool.buffer()) == 1


def test_pool_samples_keeps_the_newest_of_the_old_until_so_many_are_held(pool):
    names = []
    for seq in range(1, 5):
        names.append(seal_by_hand(pool.store, WRITER_A, seq, samples=10))
        pool.rotate(pool_samples=1000)
    assert names_of(pool.newest()) == names
    fifth = seal_by_hand(pool.store, WRITER_A, 5, samples=10)
    done = pool.rotate(pool_samples=25)
    assert names_of(pool.newest()) == [names[2], names[3], fifth]
    assert (done.promoted.samples, done.kept.samples, done.dropped.samples) == (10, 20, 20)


def test_all_that_is_new_is_promoted_even_beyond_pool_samples(pool):
    seal_by_hand(pool.store, WRITER_A, 1, samples=10)
    pool.rotate()
    for seq in (2, 3, 4):
        seal_by_hand(pool.store, WRITER_A, seq, samples=10)
    done = pool.rotate(pool_samples=15)
    assert (done.promoted.samples, done.kept.samples) == (30, 0)


def test_a_generation_remembers_who_promoted_each_shard(pool):
    seal_by_hand(pool.store, WRITER_A, 1)
    pool.rotate()
    seal_by_hand(pool.store, WRITER_A, 2)
    pool.rotate(pool_samples=10)
    assert [shard.promoted for shard in pool.newest().shards] == [1, 2]


def test_the_result_as_json_is_a_promise(pool):
    seal_by_hand(pool.store, WRITER_A, 1)
    content = pool.rotate().as_json()
    assert list(content) == [
        "pool",
        "previous",
        "generation",
        "committed",
        "promoted",
        "kept",
        "dropped",
        "quarantined",
        "seconds",
    ]
    assert content["promoted"] == {"shards": 1, "samples": 1, "bytes": 2048}
    assert content["pool"] == pool.url


def test_things_that_are_no_shards_are_left_alone(pool):
    for name in (
        "shards/readme.txt",
        "shards/x.tar",
        f"shards/{WRITER_A}-000001-1-short.tar",
        "shards/d/x.tar",
    ):
        pool.store.put(name, b"not ours")
    assert pool.buffer() == []
    assert not pool.rotate().committed


@pytest.mark.parametrize("wrong", [{"at": -1}, {"pool_samples": -1}])
def test_negative_counts_are_refused(pool, wrong):
    with pytest.raises(UsageError):
        pool.rotate(**wrong)


# Traps: coverage


def test_a_2_visible_before_a_1_does_not_lose_a_1(pool):
    second = seal_by_hand(pool.store, WRITER_A, 2)
    pool.rotate()
    assert names_of(pool.newest()) == [second]
    assert pool.newest().watermarks[WRITER_A] == Watermark(2, frozenset({1}))
    first = seal_by_hand(pool.store, WRITER_A, 1)
    pool.rotate()
    assert names_of(pool.newest()) == [first]
    assert pool.newest().watermarks[WRITER_A] == Watermark(2)
    assert not pool.rotate().committed


def test_a_transient_read_error_is_not_bad_content(tmp_path):
    pool = Pool(tmp_path).create()
    good, hidden = (seal_by_hand(pool.store, WRITER_A, seq) for seq in (2, 1))
    for error in (StoreUnavailable("stale handle"), AccessDenied("no"), NotFound("gone for now")):
        faulty = FaultyStore(
            pool.store, lambda op, e=error: e if op.kind == "open" and hidden in op.name else None
        )
        done = other(pool, faulty).rotate(pool_samples=10)
        assert done.quarantined == ()
    assert names_of(pool.newest()) == [good]
    assert [shard.name for shard in pool.buffer()] == [hidden]
    pool.rotate(pool_samples=10)
    assert sorted(names_of(pool.newest())) == sorted([good, hidden])


def test_a_listing_that_is_behind_is_not_bad_content(tmp_path):
    pool = Pool(tmp_path).create()
    name = seal_by_hand(pool.store, WRITER_A, 1)

    class Behind(RecordingStore):
        def list(self, *wanted):
            return (type(entry)(entry.name, 0, entry.mtime) for entry in self.store.list(*wanted))

    done = other(pool, Behind(pool.store)).rotate()
    assert (done.committed, done.quarantined) == (False, ())
    pool.rotate()
    assert names_of(pool.newest()) == [name]


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"x" * 4096, "end mark"), (b"x" * 1000, "whole tar"), (b"", "whole tar"), (b"\0" * 1024, "whole tar")],
)
def test_bad_content_is_quarantined_reported_and_never_promoted(tmp_path, data, reason):
    pool = Pool(tmp_path).create()
    bad = seal_by_hand(pool.store, WRITER_A, 1, data=data)
    done = pool.rotate()
    assert not done.committed
    assert [(each.shard, reason in each.reason) for each in done.quarantined] == [(bad, True)]
    good = seal_by_hand(pool.store, WRITER_A, 2)
    done = pool.rotate()
    assert done.as_json()["quarantined"][0]["shard"] == bad
    assert names_of(pool.newest()) == [good]
    assert pool.newest().watermarks[WRITER_A] == Watermark(2)
    assert [each.shard for each in pool.newest().quarantined] == [bad]
    assert pool.buffer() == []
    assert pool.store.read(f"shards/{bad}") == data
    seal_by_hand(pool.store, WRITER_A, 3)
    done = pool.rotate()
    assert done.quarantined == ()
    assert [each.shard for each in pool.newest().quarantined] == [bad]


def test_a_shard_named_as_empty_is_not_promoted(pool):
    seal_by_hand(pool.store, WRITER_A, 1, samples=0)
    done = pool.rotate()
    assert not done.committed
    assert len(done.quarantined) == 1


def test_of_two_shards_with_one_number_the_fuller_is_promoted(pool):
    shorter = seal_by_hand(pool.store, WRITER_A, 1, samples=2)
    fuller = seal_by_hand(pool.store, WRITER_A, 1, samples=3)
    done = pool.rotate()
    assert names_of(pool.newest()) == [fuller]
    assert [each.shard for each in done.quarantined] == [shorter]
    assert pool.buffer() == []


def test_a_writers_entry_outlives_its_shards_by_days_so_that_no_retry_is_promoted_twice(pool, monkeypatch):
    name = seal_by_hand(pool.store, WRITER_A, 1)
    pool.rotate()
    for seq in (1, 2):
        seal_by_hand(pool.store, WRITER_B, seq)
        pool.rotate()
    assert WRITER_A in pool.newest().watermarks  # dropped from the read pool, but its shard is still there
    pool.store.delete(f"shards/{name}")
    seal_by_hand(pool.store, WRITER_B, 3)
    pool.rotate()
    gone = pool.newest().watermarks[WRITER_A].gone
    assert pool.newest().watermarks == {WRITER_A: Watermark(1, gone=gone), WRITER_B: Watermark(3)}
    seal_by_hand(pool.store, WRITER_A, 1)
    assert not pool.rotate().committed
    seal_by_hand(pool.store, WRITER_B, 4)
    pool.rotate()
    assert pool.newest().watermarks[WRITER_A] == Watermark(1)  # one of its shards is there
    pool.store.delete(f"shards/{name}")
    monkeypatch.setattr("wlshard.pool.buffer.REMEMBERED_S", 0.0)
    seal_by_hand(pool.store, WRITER_B, 5)
    pool.rotate()
    assert pool.newest().watermarks == {WRITER_B: Watermark(5)}


def test_a_writer_whose_shard_the_parent_names_is_not_forgotten(pool, monkeypatch):
    monkeypatch.setattr("wlshard.pool.buffer.REMEMBERED_S", 0.0)
    seal_by_hand(pool.store, WRITER_A, 1)
    pool.rotate()
    for seq, samples in ((1, 10), (2, 0), (3, 0)):  # kept, dropped, named by an older generation only
        seal_by_hand(pool.store, WRITER_B, seq)
        pool.rotate(pool_samples=samples)
        assert pool.newest().watermarks[WRITER_A] == Watermark(1)


def test_a_writer_with_missing_numbers_is_never_forgotten(pool):
    name = seal_by_hand(pool.store, WRITER_A, 2)
    pool.rotate()
    pool.store.delete(f"shards/{name}")
    seal_by_hand(pool.store, WRITER_B, 1)
    pool.rotate()
    mark = pool.newest().watermarks[WRITER_A]
    assert mark == Watermark(2, frozenset({1}), mark.gone)


# Traps: the commit


def test_the_loser_of_a_race_commits_no_empty_generation(pool):
    name = seal_by_hand(pool.store, WRITER_A, 1)
    store = Interrupting(pool.store, lambda op: op.kind == "create", lambda: other(pool).rotate())
    done = other(pool, store).rotate()
    assert (done.committed, done.previous, done.generation) == (False, 1, 1)
    assert names_of(pool.newest()) == [name]
    assert pool.generations() == [0, 1]


def test_the_loser_of_a_race_looks_at_its_trigger_again(pool):
    seal_by_hand(pool.store, WRITER_A, 1, samples=10)

    def rival():
        other(pool).rotate()
        seal_by_hand(pool.store, WRITER_A, 2, samples=4)

    done = other(pool, Interrupting(pool.store, lambda op: op.kind == "create", rival)).rotate(at=5)
    assert (done.committed, done.generation) == (False, 1)
    assert [shard.samples for shard in pool.buffer()] == [4]


def test_two_rotators_promote_each_shard_once_wherever_they_interleave(pool):
    seal_by_hand(pool.store, WRITER_A, 1)
    probe = RecordingStore(pool.store)
    other(pool, probe).rotate(dry_run=True)
    seq = 1
    for stop in range(1, len(probe.operations) + 8):
        seq += 1
        before = pool.newest().generation
        mine = seal_by_hand(pool.store, WRITER_A, seq)

        def rival(seq=seq):
            seal_by_hand(pool.store, WRITER_B, seq)
            other(pool).rotate(pool_samples=10**6)

        store = Interrupting(pool.store, lambda op, stop=stop: op.number == stop, rival)
        other(pool, store).rotate(pool_samples=10**6)
        pool.rotate(pool_samples=10**6)
        names = names_of(pool.newest())
        assert len(names) == len(set(names))
        assert mine in names
        assert pool.buffer() == []
        assert all(pool.manifest(g).shards for g in range(before + 1, pool.newest().generation + 1))
    keys = keys_of(pool)
    assert len(keys) == len(set(keys))


def test_a_commit_whose_reply_was_lost_is_done(pool):
    seal_by_hand(pool.store, WRITER_A, 1)
    lost = FaultyStore(
        pool.store, loses=lambda op: StoreUnavailable("reset") if op.kind == "create" else None
    )
    done = other(pool, lost).rotate()
    assert (done.committed, done.generation) == (True, 1)
    assert lost.kinds("create") == [("create", "generations/0000000001.json")]
    assert not pool.rotate().committed


def test_an_sdk_that_retries_a_put_loses_to_itself_and_has_won(pool):
    name = seal_by_hand(pool.store, WRITER_A, 1)

    class Retrying(RecordingStore):
        def create(self, name, data):
            self.store.create(name, data)
            return self.store.create(name, data)

    done = other(pool, Retrying(pool.store)).rotate()
    assert (done.committed, done.generation) == (True, 1)
    assert names_of(pool.newest()) == [name]


def test_a_commit_that_did_not_arrive_is_sent_again_with_the_same_bytes(pool):
    seal_by_hand(pool.store, WRITER_A, 1)
    sent = []

    class Deaf(RecordingStore):
        def create(self, name, data):
            sent.append(bytes(data))
            if len(sent) < 3:
                raise StoreUnavailable("no route")
            return self.store.create(name, data)

    with clock.use(StillClock()) as still:
        assert other(pool, Deaf(pool.store)).rotate().committed
    assert len(sent) == 3
    assert len(set(sent)) == 1
    assert still.slept == [0.1, 0.2]


def test_a_store_that_stays_away_is_an_error_and_loses_nothing(pool):
    seal_by_hand(pool.store, WRITER_A, 1)
    store = FaultyStore(pool.store, lambda op: StoreUnavailable("away") if op.kind == "create" else None)
    with clock.use(StillClock()), pytest.raises(StoreUnavailable, match="away"):
        other(pool, store).rotate()
    assert len(store.kinds("create")) == TRIES
    assert pool.rotate().committed


def test_a_lost_reply_behind_which_a_rival_won_begins_again(pool):
    first = seal_by_hand(pool.store, WRITER_A, 1)

    class Beaten(RecordingStore):
        beaten = False

        def create(self, name, data):
            if not self.beaten:
                self.beaten = True
                other(pool).rotate(pool_samples=10)
                seal_by_hand(pool.store, WRITER_B, 1)
                raise StoreUnavailable("timeout")
            return self.store.create(name, data)

    done = other(pool, Beaten(pool.store)).rotate(pool_samples=10)
    assert (done.committed, done.previous, done.generation) == (True, 1, 2)
    assert first in names_of(pool.newest())
    assert len(pool.newest().shards) == 2


def test_a_manifest_is_durable_only_after_its_shards_folder(tmp_path):
    pool = Pool(tmp_path).create()
    seal_by_hand(pool.store, WRITER_A, 1)
    store = RecordingStore(pool.store)
    other(pool, store).rotate()
    assert store.kinds("sync", "create", "put") == [
        ("sync", "shards"),
        ("sync", "generations"),
        ("create", "generations/0000000001.json"),
        ("sync", "generations"),
    ]


def test_a_folder_in_the_slot_of_a_manifest_is_never_overwritten(tmp_path):
    pool = Pool(tmp_path).create()
    seal_by_hand(pool.store, WRITER_A, 1)
    (tmp_path / "generations" / "0000000001.json").mkdir()
    with clock.use(StillClock()), pytest.raises(StoreUnavailable, match="create-if-absent"):
        pool.rotate()
    assert len(pool.buffer()) == 1


def test_without_hard_links_rotation_works_and_the_pool_says_one_at_a_time(tmp_path, monkeypatch, caplog):
    def no_links(*_, **__):
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", no_links)
    pool = Pool(tmp_path).create()
    assert "one wl-rotate at a time" in caplog.text
    seal_by_hand(pool.store, WRITER_A, 1)
    assert pool.rotate().committed
    assert not pool.rotate().committed


def test_a_store_whose_create_overwrites_is_found_out_at_creation(memory_url, caplog):
    class Overwriting(RecordingStore):
        def create(self, name, data):
            self.store.put(name, data)
            return True

    Pool(memory_url, store=Overwriting(connect(memory_url))).create()
    assert "one wl-rotate at a time" in caplog.text


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, StoreUnavailable), (errno.EDQUOT, StoreUnavailable), (errno.EROFS, AccessDenied)],
)
def test_a_full_or_read_only_disk_leaves_the_pool_as_it_was(tmp_path, monkeypatch, number, kind):
    pool = Pool(tmp_path).create()
    name = seal_by_hand(pool.store, WRITER_A, 1)
    real = os.open

    def refusing(path, flags, *args, **options):
        if flags & os.O_CREAT:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refusing)
        with clock.use(StillClock()), pytest.raises(kind):
            pool.rotate()
        assert [shard.name for shard in pool.buffer()] == [name]
    assert pool.rotate().committed


# A pool that goes away


def test_a_pool_made_anew_under_a_rotator_gets_no_gap_in_its_generations(tmp_path):
    pool = Pool(tmp_path / "pool").create()
    for seq in (1, 2, 3):
        seal_by_hand(pool.store, WRITER_A, seq)
        pool.rotate()
    shutil.rmtree(tmp_path / "pool")
    name = seal_by_hand(Pool(pool.url).create().store, WRITER_B, 1)
    assert pool.rotate().generation == 1
    assert names_of(Pool(pool.url).newest()) == [name]
    assert sorted(os.listdir(tmp_path / "pool" / "generations")) == ["0000000000.json", "0000000001.json"]


def test_a_pool_made_anew_under_a_reader_is_an_error_not_the_next_generation(tmp_path):
    reader = Pool(tmp_path / "pool").create()
    assert reader.newest().generation == 0
    shutil.rmtree(tmp_path / "pool")
    anew = Pool(reader.url).create()
    seal_by_hand(anew.store, WRITER_A, 1)
    anew.rotate()
    with pytest.raises(StoreUnavailable, match="made anew") as caught:
        reader.newest()
    assert caught.value.url == f"{reader.url}/generations/0000000001.json"


def test_a_deleted_pool_is_not_found_and_nothing_is_made_in_its_place(tmp_path):
    known, opened = Pool(tmp_path / "pool").create(), Pool(tmp_path / "pool")
    assert opened.settings["keep"] == 2
    shutil.rmtree(tmp_path / "pool")
    for pool in (known, opened):
        for call in (pool.rotate, pool.salvage, pool.require, pool.buffer, pool.status):
            with pytest.raises(NotFound, match="wl-gen"):
                call()
        with pytest.raises(NotFound, match="wl-gen"):
            pool.rotate(dry_run=True)
        assert pool.record_served("reader", 0, 1, 0.0) is False
    assert os.listdir(tmp_path) == []


def test_a_deleted_pool_is_not_waited_for(tmp_path):
    pool = Pool(tmp_path / "pool").create()
    with clock.use(StillClock()) as still:
        still.sleep = lambda _: shutil.rmtree(pool.url, ignore_errors=True)
        still.monotonic = iter(range(1000)).__next__
        with pytest.raises(NotFound, match="wl-gen"):
            wait_for_samples(pool, 600)


def test_a_shard_that_cannot_be_looked_at_now_is_not_promoted_twice(tmp_path, monkeypatch):
    """A listing without it would end its writer's watermark."""
    pool = Pool(tmp_path).create()
    for writer in (WRITER_A, WRITER_B):  # A's is named by the parent's parent only
        seal_by_hand(pool.store, writer, 1)
        pool.rotate()
    name = seal_by_hand(pool.store, WRITER_B, 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda path: hiding(os.listdir(path), path))
        with pytest.raises(StoreUnavailable):
            pool.rotate()
    assert names_of((pool.rotate(), pool.newest())[1]) == [name]
    assert not pool.rotate().committed


@contextmanager
def hiding(names, folder):
    """A listing of a folder in which writer A's shards cannot be looked at."""

    def entry(name):
        def look():
            if WRITER_A in name:
                raise OSError(errno.ESTALE, "stale")
            return os.stat(f"{folder}/{name}")

        return SimpleNamespace(name=name, stat=look, is_dir=lambda **_: os.path.isdir(f"{folder}/{name}"))

    yield [entry(name) for name in names]


# Reading


def test_newest_reads_ascending_until_absent_not_what_a_listing_said(pool):
    for seq in range(1, 8):
        seal_by_hand(pool.store, WRITER_A, seq)
        pool.rotate()
    fresh = other(pool)
    seal_by_hand(pool.store, WRITER_A, 8)

    def rival():
        other(pool).rotate()

    store = Interrupting(
        pool.store, lambda op: op.kind == "read" and op.name.startswith("generations"), rival
    )
    assert other(pool, store).newest().generation == 8
    assert store.kinds("list") == []
    assert fresh.newest().generation == 8


def test_asking_for_a_newer_generation_costs_one_failed_read(pool):
    pool.newest()
    store = RecordingStore(pool.store)
    watched = other(pool, store)
    assert watched.newest(after=0) is None
    store.operations.clear()
    assert watched.newest(after=0) is None
    assert store.kinds("read", "stat", "open", "list") == [("read", "generations/0000000001.json")]
    seal_by_hand(pool.store, WRITER_A, 1)
    pool.rotate()
    assert watched.newest(after=0).generation == 1
    assert watched.newest(after=1) is None


def test_a_generation_that_is_not_there_is_not_found(pool):
    with pytest.raises(NotFound, match="the newest is 0"):
        pool.manifest(7)


def test_a_missing_pool_is_not_found_and_says_what_to_do(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for name in ("absent", "folder", "file"):
        pool = Pool(tmp_path / name)
        assert not pool.exists()
        for call in (pool.newest, pool.rotate, pool.buffer, pool.status, pool.shards, pool.salvage):
            with pytest.raises(NotFound, match="wl-gen") as caught:
                call()
            assert caught.value.url == str(tmp_path / name)


def test_create_is_done_once_and_again_finishes_what_a_crash_left(pool):
    settings = pool.settings
    assert Pool(pool.url, store=pool.store).create(keep=5).settings == settings
    pool.store.delete("generations/0000000000.json")
    half = other(pool)
    assert half.newest() is None
    assert half.generations() == []
    half.rotate()
    assert half.newest().generation == 0
    with pytest.raises(UsageError, match="keep"):
        pool.create(keep=1)


def test_a_pool_of_a_later_format_is_refused(memory_url):
    store = connect(memory_url)
    store.put("wlshard.json", b'{"format": 2, "pool": "x", "keep": 2, "schema": null}')
    with pytest.raises(UsageError, match="update"):
        Pool(memory_url).newest()
