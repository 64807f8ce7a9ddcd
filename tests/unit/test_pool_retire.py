"""Retirement and sweep: what is deleted, what never is, whoever dies or races; every trap that lies in it."""

from __future__ import annotations

import os

import pytest
from pools import WRITER_A, WRITER_B, Interrupting, names_of, seal_by_hand

from wlshard import clock
from wlshard.errors import AccessDenied, NotFound, StoreUnavailable, UsageError
from wlshard.pool.accounting import SLACK_S, TTL_S
from wlshard.pool.manifest import Manifest, Stub, parse_slot
from wlshard.pool.names import ShardName, condemned_name, lease_name, manifest_name
from wlshard.pool.pool import Pool
from wlshard.pool.salvage import STALE_S
from wlshard.pool.writer import ShardWriter
from wlshard.store.memory import MemoryStore
from wlshard.testing.storage import FaultyStore, Killed, RecordingStore, killed_at


class Set:
    """A clock that stands where it is put."""

    def __init__(self, time=1_000_000.0):
        self.at = time

    def time(self):
        return self.at

    monotonic = time

    def sleep(self, seconds):
        self.at += seconds


@pytest.fixture(params=["local", "memory"])
def pool(request, tmp_path):
    if request.param == "local":
        return Pool(tmp_path / "pool").create()
    return Pool(request.getfixturevalue("memory_url")).create()


def grow(pool, generations, pool_samples=0):
    """Commit so many generations of one shard each; give the shards' names."""
    first = pool.newest().generation
    names = []
    for seq in range(first + 1, first + 1 + generations):
        names.append(seal_by_hand(pool.store, WRITER_A, seq))
        pool.rotate(pool_samples=pool_samples)
    return names


def shards_in(pool):
    return sorted(entry.name[7:] for entry in pool.store.list("shards/") if entry.name.endswith(".tar"))


def slots_of(pool):
    return [parse_slot(pool.store.read(manifest_name(n)), "") for n in range(pool.newest().generation + 1)]


def test_all_but_the_newest_two_are_stubs_and_their_shards_are_gone(pool):
    names = grow(pool, 5)
    digests = [slot.digest for slot in slots_of(pool)]
    done = pool.retire()
    assert (done.retired, done.held, done.shards) == ([0, 1, 2, 3], {}, 3)
    assert shards_in(pool) == sorted(names[3:])
    slots = slots_of(pool)
    assert [type(slot) for slot in slots] == [Stub] * 4 + [Manifest] * 2
    assert [slot.digest for slot in slots] == digests
    assert pool.generations() == [4, 5]
    assert all(pool.store.stat(condemned_name(n)) for n in range(4))
    assert pool.retire() == ([], {}, 0, 0, 0)


def test_keep_says_how_many_stay_and_a_rotators_argument_is_stronger(pool):
    grow(pool, 6)
    with pytest.raises(UsageError, match="2 or more"):
        pool.retire(keep=1)
    assert pool.retire(keep=4).retired == [0, 1, 2]
    assert pool.retire(keep=9).retired == []
    assert pool.retire().retired == [3, 4]


def test_a_shard_that_was_kept_is_not_deleted_through_an_older_condemned_generation(pool):
    names = grow(pool, 6, pool_samples=100)
    assert pool.retire().retired == [0, 1, 2, 3, 4]
    assert names_of(pool.newest()) == names
    assert shards_in(pool) == sorted(names)


def test_retirement_does_not_delete_the_write_buffer(pool):
    grow(pool, 4)
    waiting = [seal_by_hand(pool.store, WRITER_B, seq) for seq in (2, 1, 7)]
    unread = seal_by_hand(pool.store, WRITER_A, 9)  # its predecessors are covered, it is not
    pool.retire()
    assert {shard.name for shard in pool.buffer()} == {*waiting, unread}
    pool.rotate()
    assert set(names_of(pool.newest())) == {*waiting, unread}


class Faint(MemoryStore):
    """A store whose first reply about a shard is lost."""

    lost = False

    def create(self, name, data):
        done = super().create(name, data)
        if name.endswith(".tar") and not self.lost:
            self.lost = True
            raise StoreUnavailable("no reply")
        return done


def test_a_seal_retried_after_its_shard_was_promoted_and_swept_is_not_promoted_again(memory_url):
    """Nor though its writer has no other shard in the pool any more."""
    pool = Pool(memory_url).create()
    writer = ShardWriter(Pool(memory_url, store=Faint(memory_url)))
    writer.write({"__key__": "once", "txt": "x"})
    with pytest.raises(StoreUnavailable):
        writer.close()
    promoted = [pool.rotate().promoted.samples]
    for seq in range(1, 5):
        seal_by_hand(pool.store, WRITER_B, seq)
        promoted.append(pool.rotate().promoted.samples)
        pool.retire()
    assert all(name.startswith(WRITER_B) for name in shards_in(pool))
    writer.close()
    assert [name for name in shards_in(pool) if not name.startswith(WRITER_B)]
    assert not pool.rotate().committed
    assert pool.retire().shards == 1
    assert promoted == [1] * 5


def test_bad_shards_stay_for_their_owner_to_see(tmp_path):
    pool = Pool(tmp_path).create()
    bad = seal_by_hand(pool.store, WRITER_B, 1, data=b"x" * 4096)
    grow(pool, 4)
    pool.retire()
    assert bad in shards_in(pool)
    assert [each.shard for each in pool.newest().quarantined] == [bad]


def test_what_is_no_shard_is_left_alone(pool):
    for name in ("shards/readme.txt", "shards/x.tar", "shards/x.idx", "notes.txt"):
        pool.store.put(name, b"not ours")
    grow(pool, 4)
    pool.retire()
    assert {"shards/readme.txt", "shards/x.tar", "shards/x.idx", "notes.txt"} <= {
        entry.name for entry in pool.store.list()
    }


# Leases and pins hold


def test_a_live_lease_keeps_its_generation_and_an_ended_one_does_not(memory_url):
    with clock.use(Set()) as time:
        pool = Pool(memory_url).create()
        names = grow(pool, 1)
        lease = pool.lease(1)
        assert lease.take()
        names += grow(pool, 4)
        done = pool.retire()
        assert (done.retired, list(done.held), done.held[1]) == ([0, 2, 3], [1], [lease.reader])
        assert pool.generations() == [1, 4, 5]
        assert shards_in(pool) == sorted([names[0], *names[3:]])
        time.at += TTL_S + SLACK_S
        assert pool.retire().retired == []
        time.at += 0.1
        assert pool.retire().retired == [1]
        assert shards_in(pool) == sorted(names[3:])
        lease.close()


def test_a_lease_that_we_may_not_read_holds_and_a_damaged_one_does_for_a_readers_time(memory_url):
    with clock.use(Set()) as time:
        pool = Pool(memory_url).create()
        grow(pool, 5)
        pool.store.put(lease_name(1, "hidden"), b"{}")
        pool.store.put(lease_name(2, "torn"), b"{")
        store = FaultyStore(
            pool.store,
            lambda operation: AccessDenied("not yours") if operation.name.endswith("hidden.json") else None,
        )
        assert Pool(memory_url, store=store).retire().held == {1: ["hidden"], 2: ["torn"]}
        time.at += TTL_S + SLACK_S + 0.1
        assert Pool(memory_url, store=store).retire().held == {1: ["hidden"]}


def test_a_lease_that_was_closed_holds_nothing_and_its_count_stays_until_retirement(pool):
    grow(pool, 1)
    lease = pool.lease(1)
    assert lease.take()
    lease.note(7, 0.5)
    lease.close()
    assert [(note.served, note.ttl_s) for note in pool.served(1)] == [(7, 0.0)]
    grow(pool, 4)
    assert pool.retire().retired == [0, 1, 2, 3]
    assert list(pool.store.list(lease_name(1))) == []


def test_a_lease_put_between_condemnation_and_the_second_look_stops_retirement(pool):
    """Whoever looked before the condemnation had its lease before: the listing after it must count."""
    grow(pool, 3)
    lease = pool.lease(1)

    class Early(RecordingStore):
        def create(self, name, data):
            if name == condemned_name(1):
                assert lease.take()
            return super().create(name, data)

    done = Pool(pool.url, store=Early(pool.store)).retire()
    assert list(done.held) == [1]
    assert pool.manifest(1)
    lease.close()
    assert pool.retire().retired == [1]


def test_a_condemned_generation_is_not_leased_and_its_lease_file_is_dropped(pool):
    grow(pool, 3)
    pool.store.create(condemned_name(2), b"{}")
    lease = pool.lease(2)
    assert not lease.take()
    assert list(pool.store.list(lease_name(2))) == []


def test_a_condemned_generation_never_comes_back(pool):
    grow(pool, 4)
    pool.retire()
    with pytest.raises(NotFound, match=r"generation 1 is retired.*--pin"):
        pool.manifest(1)
    with pytest.raises(NotFound, match="retired"):
        pool.pin("late", 1)
    assert not pool.lease(1).take()
    assert pool.store.stat(condemned_name(1))
    assert list(pool.store.list("leases/")) == []


def test_a_pin_keeps_a_generation_until_it_is_released(pool):
    grow(pool, 1)
    assert pool.pin("best") == 1
    names = grow(pool, 4)
    assert pool.retire().held == {1: ["pin-best"]}
    assert [(note.generation, note.pin) for note in pool.leases()] == [(1, "best")]
    assert len(shards_in(pool)) == 3
    assert pool.unpin("best") == [1]
    assert pool.retire().retired == [1]
    assert shards_in(pool) == sorted(names[2:])


def test_pinning_again_moves_the_name(pool):
    grow(pool, 1)
    pool.pin("best")
    grow(pool, 1)
    assert pool.pin("best") == 2
    assert [(note.generation, note.pin) for note in pool.leases()] == [(2, "best")]


def test_a_pin_ends_after_its_days(memory_url):
    with clock.use(Set()) as time:
        pool = Pool(memory_url).create()
        grow(pool, 4)
        pool.pin("week", 1, days=7)
        time.at += 6.9 * 86400
        assert list(pool.retire().held) == [1]
        time.at += 0.2 * 86400
        assert pool.retire().retired == [1]


def test_a_live_pin_is_renewed_on_a_condemned_generation_and_an_ended_one_is_not(memory_url):
    """Condemned, then seen to be pinned: who resumes from the pin renews it."""
    with clock.use(Set()) as time:
        pool = Pool(memory_url).create()
        grow(pool, 4)
        pool.pin("p", 1, days=1)
        pool.store.create(condemned_name(1), b"{}")
        time.at += 0.9 * 86400
        assert pool.pin("p", 1, days=1) == 1
        lease = pool.lease(1, "p")
        assert lease.take()
        lease.close()
        assert not pool.lease(1, "other").take()
        time.at += 7.1 * 86400
        with pytest.raises(NotFound, match="retired"):
            pool.pin("p", 1)
        assert pool.retire().retired == [0, 1, 2]


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".x", "a b"])
def test_a_pin_needs_a_name_that_is_one(pool, name):
    with pytest.raises(UsageError):
        pool.pin(name, 0)


# Slots


def test_no_slot_is_vacated_so_a_stalled_rotator_cannot_commit_in_the_past(pool):
    grow(pool, 1)
    seal_by_hand(pool.store, WRITER_B, 1)

    def meanwhile():
        grow(pool, 5)
        Pool(pool.url, store=pool.store).retire()

    stalled = Interrupting(
        pool.store, lambda op: op.kind == "create" and op.name.startswith("generations"), meanwhile
    )
    done = Pool(pool.url, store=stalled).rotate()
    assert not done.committed
    assert [slot.generation for slot in slots_of(pool)] == list(range(7))
    assert done.generation == pool.newest().generation == 6


def test_a_commit_whose_reply_was_lost_is_known_by_the_txn_of_the_stub(pool):
    grow(pool, 1)
    name = seal_by_hand(pool.store, WRITER_B, 1)

    def later(operation):
        if operation.kind == "create" and operation.name == manifest_name(2):
            grow(pool, 4)
            Pool(pool.url, store=pool.store).retire()
            return StoreUnavailable("no reply")
        return None

    done = Pool(pool.url, store=FaultyStore(pool.store, loses=later)).rotate()
    assert (done.committed, done.generation) == (True, 2)
    promoted = [slot for slot in slots_of(pool) if isinstance(slot, Manifest)]
    assert all(name not in names_of(manifest) for manifest in promoted)


def test_who_is_far_behind_finds_the_newest_over_the_stubs(pool):
    behind, first = Pool(pool.url, store=pool.store), grow(pool, 1)
    assert names_of(behind.newest()) == first
    grow(pool, 9)
    pool.retire()
    assert behind.newest().generation == 10


def test_a_generation_retired_while_the_newest_is_looked_for_is_no_error(pool):
    grow(pool, 1)

    def meanwhile():
        grow(pool, 5)
        Pool(pool.url, store=pool.store).retire()

    for stop in range(1, 12):
        store = Interrupting(pool.store, lambda op, stop=stop: op.number == stop, meanwhile)
        newest = Pool(pool.url, store=store).newest()
        assert newest.generation >= pool.newest().generation - 5
        assert isinstance(newest, Manifest)


def test_the_floor_rises_with_the_stubs_and_spares_reading_them(pool):
    grow(pool, 8)
    pool.retire()
    grow(pool, 1)
    assert pool.newest().floor == 7
    store = RecordingStore(pool.store)
    Pool(pool.url, store=store).retire()
    read = {name for kind, name in store.kinds("read") if name.startswith("generations")}
    assert read == {manifest_name(n) for n in (7, 8, 9, 10)}


# The sweep


def test_the_sweep_reads_manifests_until_one_is_absent_and_only_then_lists_shards(pool):
    grow(pool, 4)
    store = RecordingStore(pool.store)
    Pool(pool.url, store=store).retire()
    order = [name for kind, name in store.kinds("read", "list") if name.startswith(("gen", "shards"))]
    assert order[-1] == "shards/"
    assert order[-2] == manifest_name(5)
    assert "generations/" not in [name for kind, name in store.kinds("list")]


@pytest.mark.parametrize("pool_samples", [0, 100])
def test_a_rotation_anywhere_in_the_sweep_loses_no_shard(pool, pool_samples):
    grow(pool, 4, pool_samples)
    for stop in range(1, 200):
        waiting = seal_by_hand(pool.store, WRITER_B, stop)

        def meanwhile():
            Pool(pool.url, store=pool.store).rotate(pool_samples=pool_samples)

        store = Interrupting(pool.store, lambda op, stop=stop: op.number == stop, meanwhile)
        Pool(pool.url, store=store).retire()
        there = shards_in(pool)
        for slot in slots_of(pool):
            if isinstance(slot, Manifest):
                assert set(names_of(slot)) <= set(there)
        assert waiting in there
        if store.actor is not None:
            break
        grow(pool, 1, pool_samples)
    assert stop > 15


def test_a_pool_deleted_before_the_sweep_is_not_found(pool):
    grow(pool, 1)

    def delete():
        for entry in list(pool.store.list()):
            pool.store.delete(entry.name)

    store = Interrupting(
        pool.store, lambda operation: (operation.kind, operation.name) == ("read", manifest_name(0)), delete
    )
    with pytest.raises(NotFound, match="deleted meanwhile"):
        Pool(pool.url, store=store).retire()


def test_a_tar_goes_before_its_index(pool):
    names = grow(pool, 3)
    for name in names:
        pool.store.put(f"shards/{name[:-4]}.idx", b"v1.2 1\n")
    store = RecordingStore(pool.store)
    Pool(pool.url, store=store).retire()
    gone = [name for kind, name in store.kinds("delete") if name.startswith("shards")]
    assert gone == [f"shards/{names[0]}", f"shards/{names[0][:-4]}.idx"]


def test_orphans_go_once_they_are_old(memory_url):
    with clock.use(Set()) as time:
        pool = Pool(memory_url).create()
        grow(pool, 2)
        young = str(ShardName(WRITER_B, 1, 5, "0" * 32))[:-4]
        pool.store.create(f"shards/{young}.idx", b"v1.2 5\n")
        for name in ("shards/.x.idx.0123456789abcdef", "generations/.1.0123456789abcdef"):
            pool.store.draft(name).abandon()
        living = pool.store.draft("shards/.y.idx.0123456789abcdef")
        assert pool.retire().orphans == 0
        time.at += STALE_S + 1
        assert pool.retire().orphans == 3
        assert list(pool.store.drafts()) == []
        assert living.publish("shards/y.idx")
        assert pool.store.read("shards/y.idx") == b""


def test_retirement_that_dies_anywhere_is_finished_by_the_next(memory_url):
    for stop in range(1, 300):
        url = f"{memory_url}/{stop}"
        pool = Pool(url).create()
        names = grow(pool, 4)
        for name in names:
            pool.store.put(f"shards/{name[:-4]}.idx", b"v1.2 1\n")
        waiting = seal_by_hand(pool.store, WRITER_B, 1)
        store = FaultyStore(pool.store, killed_at(stop))
        try:
            Pool(url, store=store).retire()
        except Killed:
            finished = False
        else:
            finished = True
        pool.retire()
        assert sorted(entry.name for entry in pool.store.list("shards/")) == sorted(
            [f"shards/{waiting}"]
            + [f"shards/{name[:-4]}.{ext}" for name in names[2:] for ext in ("tar", "idx")]
        )
        assert [type(slot) for slot in slots_of(pool)] == [Stub] * 3 + [Manifest] * 2
        if finished:
            break
    assert finished
    assert stop > 20


def test_two_that_retire_at_once_harm_nothing_wherever_they_interleave(memory_url):
    for stop in range(1, 300):
        url = f"{memory_url}/{stop}"
        pool = Pool(url).create()
        names = grow(pool, 4)
        store = Interrupting(
            pool.store, lambda op, stop=stop: op.number == stop, lambda url=url: Pool(url).retire()
        )
        Pool(url, store=store).retire()
        assert shards_in(pool) == sorted(names[2:])
        assert pool.generations() == [3, 4]
        if store.actor is not None:
            break
    assert stop > 20


def test_condemnation_is_durable_before_the_leases_are_listed_and_the_stub_before_the_sweep(tmp_path):
    pool = Pool(tmp_path).create()
    grow(pool, 2)
    store = RecordingStore(pool.store)
    Pool(pool.url, store=store).retire()
    watched = [
        (kind, name)
        for kind, name in store.kinds("create", "sync", "list", "put", "delete")
        if not name.startswith(".")
    ]
    at = watched.index(("create", condemned_name(0)))
    assert watched[at - 1] == ("list", lease_name(0))
    assert watched[at + 1 :][:5] == [
        ("sync", "condemned"),
        ("list", lease_name(0)),
        ("list", lease_name(0)),  # what its readers were served
        ("put", manifest_name(0)),
        ("list", lease_name(0)),
    ]
    assert watched[-1] == ("list", "shards/")


def test_a_generation_number_is_never_reused_and_shards_stay_bounded(tmp_path):
    pool = Pool(tmp_path).create()
    for seq in range(1, 13):
        seal_by_hand(pool.store, WRITER_A, seq)
        pool.rotate()
        pool.retire()
        assert len(shards_in(pool)) <= 2
    assert pool.newest().generation == 12
    assert len(os.listdir(tmp_path / "generations")) == 13
