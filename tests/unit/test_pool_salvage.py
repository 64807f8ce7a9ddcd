"""What a dead writer leaves is sealed: every whole sample, once, whoever dies while doing it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from pools import WRITER_A, Interrupting, keys_in, keys_of, seal_by_hand

from wlshard import clock
from wlshard.errors import AccessDenied, StoreUnavailable
from wlshard.pool import salvage as salvaging
from wlshard.pool.names import new_writer, scratch_name
from wlshard.pool.pool import Pool
from wlshard.pool.salvage import STALE_S
from wlshard.pool.writer import ShardWriter
from wlshard.store.connect import connect
from wlshard.tar.header import END_MARK, member_header, padding
from wlshard.tar.index import parse_index
from wlshard.testing.storage import FaultyStore, Killed, RecordingStore, killed_at


@pytest.fixture
def pool(memory_url):
    return Pool(memory_url).create()


def sample_bytes(number, size=700):
    """A sample of two members, as bytes of a tar."""
    parts = []
    for field in ("cls", "txt"):
        parts += [member_header(f"{number:03d}.{field}", size), b"x" * size, bytes(padding(size))]
    return b"".join(parts)


SAMPLES = [sample_bytes(number) for number in range(4)]
ENDS = [sum(map(len, SAMPLES[: n + 1])) for n in range(4)]
WHOLE = b"".join([*SAMPLES, END_MARK])


def leave(pool, data, writer=None, seq=1):
    """Leave scratch behind, as a writer that dies does."""
    writer = writer or new_writer()
    draft = pool.store.draft(scratch_name(writer, seq))
    draft.write([data])
    draft.abandon()
    return writer


def test_a_killed_childs_whole_samples_reach_the_read_pool(tmp_path):
    pool = Pool(tmp_path).create()
    code = (
        "import os, signal, sys\n"
        "from wlshard.pool.writer import ShardWriter\n"
        "writer = ShardWriter(sys.argv[1], shard_samples=4)\n"
        "for number in range(7):\n"
        "    writer.write({'__key__': str(number), 'bin': os.urandom(100_000)})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, pool.url])
    assert done.returncode == -signal.SIGKILL
    assert len(pool.buffer()) == 1
    assert [entry.name for entry in pool.store.drafts()] != []
    pool.rotate()
    assert sorted(keys_of(pool)) == [str(number) for number in range(7)]
    seqs = [(shard.parsed.writer, shard.parsed.seq) for shard in map(shard_of, pool.newest().shards)]
    assert len({writer for writer, _ in seqs}) == 1
    assert [seq for _, seq in seqs] == [1, 2]
    assert list(pool.store.drafts()) == []
    assert os.listdir(tmp_path / "generations")


def shard_of(entry):
    from wlshard.pool.buffer import SealedShard

    return SealedShard(entry.name, entry.bytes, 0.0, entry.samples)


@pytest.mark.parametrize("cut", [*range(0, len(WHOLE), 256), *(end + 1 for end in ENDS), len(WHOLE)])
def test_wherever_scratch_is_cut_exactly_the_whole_samples_are_sealed(pool, cut):
    writer = leave(pool, WHOLE[:cut])
    # The sample before a cut is whole if another header, or the end mark, follows it.
    expected = sum(end + (512 if end != ENDS[-1] else len(END_MARK)) <= cut for end in ENDS)
    sealed = pool.salvage()
    shards = pool.buffer()
    assert sum(shard.samples for shard in shards) == expected
    assert [pool.shard_url(shard.name) for shard in shards] == sealed
    for shard in shards:
        assert (shard.parsed.writer, shard.parsed.seq) == (writer, 1)
        data = pool.store.read(f"shards/{shard.name}")
        assert data == b"".join(SAMPLES[:expected]) + END_MARK
        index = f"shards/{shard.name.removesuffix('.tar')}.idx"
        assert parse_index(pool.store.read(index), index).samples == expected
    assert list(pool.store.drafts()) == []


def test_a_flush_that_was_cut_over_the_old_end_mark_loses_only_the_torn_sample(pool):
    leave(pool, b"".join(SAMPLES[:2]) + SAMPLES[2][:600] + b"\0" * 4000)
    pool.rotate()
    assert keys_of(pool)[0::2] == ["000", "001"]


def test_the_salvaged_shard_is_the_one_its_writer_would_have_sealed(tmp_path):
    pool = Pool(tmp_path).create()
    writer = ShardWriter(pool)
    for number in range(3):
        writer.write({"txt": b"x" * 100_000, "cls": number})
    scratch = pool.store.path(scratch_name(writer.writer, 1) + ".partial")
    os.link(scratch, f"{scratch}.kept")
    writer.close()
    sealed = [shard.name for shard in pool.buffer()]
    os.rename(f"{scratch}.kept", scratch)
    assert pool.salvage() == [pool.shard_url(name) for name in sealed]
    assert [shard.name for shard in pool.buffer()] == sealed
    assert not os.path.exists(scratch)


class Ahead:
    """A clock that is ahead by so many seconds."""

    def __init__(self, seconds):
        self.time = lambda: time.time() + seconds
        self.monotonic, self.sleep = time.monotonic, time.sleep


def test_scratch_of_a_living_writer_is_left_alone(tmp_path):
    pool = Pool(tmp_path).create()
    with ShardWriter(pool) as writer:
        writer.write({"txt": b"x" * 100_000})
        assert pool.salvage() == []
        assert not pool.rotate().committed
    assert pool.rotate().promoted.samples == 1


def test_scratch_of_another_machine_is_left_to_it(pool, monkeypatch):
    monkeypatch.setattr(salvaging, "boot_id", lambda: "0badcafe")
    leave(pool, WHOLE, writer="20250101T000000-elsewhere_x-aaaaaaaaaaaaaaaa")
    assert pool.salvage() == []
    assert len(list(pool.store.drafts())) == 1
    with clock.use(Ahead(STALE_S + 1)):  # until then: who knows whether that machine comes back
        assert len(pool.salvage()) == 1
    assert pool.rotate().promoted.samples == 4


def test_scratch_that_was_not_on_disk_when_the_machine_went_down_is_dropped(tmp_path, monkeypatch, caplog):
    pool = Pool(tmp_path).create()
    leave(pool, WHOLE)
    monkeypatch.setattr(salvaging, "boot_id", lambda: "0badcafe")
    monkeypatch.setattr(salvaging, "booted_at", lambda: pool.store.now() + 100)
    assert pool.salvage() == []
    assert "went down" in caplog.text
    assert list(pool.store.drafts()) == []
    assert 0 < salvaging_booted() < pool.store.now()


salvaging_booted = salvaging.booted_at


def test_a_clock_that_was_set_forward_drops_no_samples(tmp_path, monkeypatch):
    """The time of the machine's start moves with its clock, the times of files do not."""
    pool = Pool(tmp_path).create()
    leave(pool, WHOLE)
    monkeypatch.setattr(salvaging, "booted_at", lambda: pool.store.now() + 86400)
    assert len(pool.salvage()) == 1


def test_scratch_of_a_container_that_had_another_name_is_this_machines(pool):
    leave(pool, WHOLE, writer="20250101T000000-4f5e6d7c8b9a-aaaaaaaaaaaaaaaa")
    assert len(pool.salvage()) == 1


def test_scratch_that_may_not_be_deleted_stops_no_rotation(pool, caplog):
    draft = pool.store.draft(scratch_name(new_writer(), 1) + "-salvage-" + "0" * 16)
    draft.abandon()
    seal_by_hand(pool.store, WRITER_A, 1)
    sticky = FaultyStore(pool.store, lambda op: AccessDenied("no") if op.kind == "drop" else None)
    assert Pool(pool.url, store=sticky).rotate().promoted.samples == 1
    assert "cannot be sealed now" in caplog.text


@pytest.mark.parametrize("error", [StoreUnavailable("the disk is full"), AccessDenied("read-only")])
def test_what_cannot_be_sealed_now_waits_and_stops_no_rotation(pool, caplog, error):
    leave(pool, WHOLE)
    seal_by_hand(pool.store, WRITER_A, 1)
    full = FaultyStore(pool.store, lambda op: error if op.kind == "draft.write" else None)
    assert Pool(pool.url, store=full).rotate().promoted.samples == 1
    assert "cannot be sealed now" in caplog.text
    assert pool.rotate().promoted.samples == 4


def test_a_dry_run_leaves_scratch_as_it_is(pool):
    leave(pool, WHOLE)
    assert pool.rotate(dry_run=True).promoted.samples == 0
    assert len(list(pool.store.drafts())) == 1


def test_a_new_writer_seals_what_a_dead_one_left(pool):
    leave(pool, WHOLE)
    with ShardWriter(pool) as writer:
        writer.write({"txt": "x"})
        assert sum(shard.samples for shard in pool.buffer()) == 4


def test_two_salvagers_at_once_seal_once(memory_url):
    base = Pool(memory_url).create()
    count = 0
    stop = 0
    while True:
        stop += 1
        writer = leave(base, WHOLE, seq=1)
        store = Interrupting(
            base.store, lambda op, stop=stop: op.number == stop, lambda: Pool(memory_url).salvage()
        )
        Pool(memory_url, store=store).salvage()
        assert list(base.store.drafts()) == []
        assert [s.samples for s in base.buffer() if s.parsed.writer == writer] == [4]
        count += 1
        if store.actor is not None:
            break
    assert count > 10


def test_a_salvager_that_dies_anywhere_changes_nothing(memory_url):
    base = Pool(memory_url).create()
    for stop in range(1, 100):
        writer = leave(base, WHOLE)
        store = FaultyStore(base.store, killed_at(stop))
        try:
            Pool(memory_url, store=store).salvage()
        except Killed:
            pass
        else:
            break
        base.rotate()
        assert sorted(keys_of(base)) == sorted(keys_in(WHOLE))
        assert [name for name in base.newest().shards if name.name.startswith(writer)]
        assert list(base.store.drafts()) == []
    assert stop > 10


def test_the_order_of_salvage_is_durable_bytes_name_then_the_scratch_goes(pool):
    writer = leave(pool, WHOLE)
    store = RecordingStore(pool.store)
    (sealed,) = Pool(pool.url, store=store).salvage()
    tar = f"shards/{sealed.rpartition('/')[2]}"
    assert store.kinds("draft.sync", "create", "draft.publish", "sync", "drop") == [
        ("draft.sync", store.kinds("draft")[0][1]),
        ("create", tar.replace(".tar", ".idx")),
        ("draft.publish", tar),
        ("sync", "shards"),
        ("drop", scratch_name(writer, 1)),
    ]


def test_dying_at_any_operation_of_writing_and_rotating_loses_no_sealed_sample(memory_url):
    """A writer and a rotator stop at their k-th operation; a second run needs no help and finds all once."""
    for stop in range(1, 200):
        url = f"{memory_url}/{stop}"
        Pool(url).create()
        store = FaultyStore(connect(url), killed_at(stop))
        died = Pool(url, store=store)
        written = 0
        try:
            with ShardWriter(died, shard_samples=2) as writer:
                for number in range(5):
                    writer.write({"__key__": f"{number}", "bin": b"x" * 100_000})
                    written += 1
            died.rotate()
        except Killed:
            finished = False
        else:
            finished = True
        after = Pool(url)
        done = after.rotate(pool_samples=100)
        keys = keys_of(after)
        assert len(keys) == len(set(keys))
        assert len(keys) >= written
        assert done.quarantined == ()
        assert list(after.store.drafts()) == []
        assert after.buffer() == []
        if finished:
            break
    assert finished
    assert stop > 20
