"""Writing into a pool: sealing, names, writer ids, default keys."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import traceback

import pytest
from pools import WRITER_A, Interrupting, keys_in, keys_of, names_of, tar_of

from wlshard.errors import AccessDenied, NotFound, StoreUnavailable, UsageError
from wlshard.pool import names, seal
from wlshard.pool.names import ScratchName, ShardName, host_of, new_writer, scratch_name, this_host
from wlshard.pool.pool import Pool
from wlshard.pool.source import resolve
from wlshard.pool.writer import ShardWriter
from wlshard.store.connect import connect
from wlshard.tar.index import parse_index
from wlshard.testing.storage import FaultyStore, RecordingStore


@pytest.fixture(params=["local", "memory"])
def pool(request, tmp_path):
    if request.param == "local":
        return Pool(tmp_path / "pool").create()
    return Pool(request.getfixturevalue("memory_url")).create()


def fill(pool, samples, **limits):
    with ShardWriter(pool, **limits) as writer:
        for number in range(samples):
            writer.write({"txt": f"sample {number}"})
    return writer


def objects(pool):
    return sorted(entry.name for entry in pool.store.list("shards/"))


def test_sealed_shards_join_the_write_buffer_with_their_index(pool):
    writer = fill(pool, 5, shard_samples=2)
    buffer = pool.buffer()
    assert [shard.samples for shard in buffer] == [2, 2, 1]
    assert sorted(writer.shards) == [pool.shard_url(shard.name) for shard in buffer]
    for shard in buffer:
        data = pool.store.read(f"shards/{shard.name}")
        index = f"shards/{shard.name.removesuffix('.tar')}.idx"
        assert parse_index(pool.store.read(index), index).samples == shard.samples
        assert hashlib.sha256(data).hexdigest()[:32] == shard.parsed.sha256
        assert len(data) == shard.bytes
    assert len(objects(pool)) == 6


def test_default_keys_are_the_writers_and_never_meet_another_writers(pool):
    one, two = fill(pool, 3), fill(pool, 3)
    pool.rotate()
    expected = [f"{writer.writer}-{n:09d}" for writer in (one, two) for n in range(3)]
    assert sorted(keys_of(pool)) == sorted(expected)


def test_keys_given_are_kept(pool):
    with ShardWriter(pool) as writer:
        writer.write({"__key__": "mine/1", "txt": "x"})
    pool.rotate()
    assert keys_of(pool) == ["mine/1"]


def test_an_open_shard_is_invisible_and_an_exception_drops_it(pool):
    with pytest.raises(ZeroDivisionError), ShardWriter(pool, shard_samples=2) as writer:  # noqa: PT012
        for number in range(3):
            writer.write({"txt": f"{number}"})
        raise ZeroDivisionError
    assert [shard.samples for shard in pool.buffer()] == [2]
    assert list(pool.store.drafts()) == []


def test_no_samples_leave_no_shard(pool):
    assert fill(pool, 0).shards == []
    assert objects(pool) == []


def test_the_order_of_sealing_is_durable_bytes_index_tar_folder(pool):
    store = RecordingStore(pool.store)
    writer = fill(Pool(pool.url, store=store), 1)
    tar = f"shards/{writer.shards[0].rpartition('/')[2]}"
    scratch = scratch_name(writer.writer, 1)
    watched = store.kinds("draft", "draft.sync", "draft.publish", "create", "put", "sync")
    assert watched == [
        ("sync", ""),
        ("draft", scratch),
        ("create", "schema.json"),
        ("sync", ""),
        ("draft.sync", scratch),
        ("create", tar.replace(".tar", ".idx")),
        ("draft.publish", tar),
        ("sync", "shards"),
    ]


@pytest.mark.parametrize("kind", ["draft.sync", "create", "draft.publish", "sync"])
@pytest.mark.parametrize("lost", [False, True])
def test_a_seal_that_failed_is_tried_again_under_the_same_name(pool, kind, lost):
    failures = []

    def once(operation):
        if operation.kind == kind and writer.samples and not failures:
            failures.append(operation)
            return StoreUnavailable("for a moment")
        return None

    store = FaultyStore(pool.store, **{"loses" if lost else "fails": once})
    writer = ShardWriter(Pool(pool.url, store=store))
    writer.write({"txt": "x"})
    with pytest.raises(StoreUnavailable):
        writer.close()
    writer.close()
    writer.close()
    assert len(failures) == 1
    published = {name for _, name in store.kinds("draft.publish")}
    assert len(published) == 1
    assert [shard.name for shard in pool.buffer()] == [name.removeprefix("shards/") for name in published]
    assert list(pool.store.drafts()) == []


def test_a_writer_goes_on_whose_shard_was_swept_before_its_folder_was_synced(pool):
    """The sync failed once; until the next try the shard was promoted, dropped and swept."""
    refused = [StoreUnavailable("for a moment")]

    def once(operation):
        return refused.pop() if (operation.kind, operation.name) == ("sync", "shards") and refused else None

    writer = ShardWriter(Pool(pool.url, store=FaultyStore(pool.store, once)), shard_samples=1)
    with pytest.raises(StoreUnavailable):
        writer.write({"txt": "x"})
    for _ in range(3):
        assert pool.rotate().promoted.samples == 1
        fill(pool, 1)
    assert pool.retire(keep=2).shards == 1
    writer.write({"txt": "y"})
    writer.close()
    assert [shard.parsed.seq for shard in pool.buffer() if shard.parsed.writer == writer.writer] == [2]
    assert pool.rotate().promoted.samples == 2
    assert list(pool.store.drafts()) == []


def test_what_another_made_and_died_before_it_was_durable_is_durable_before_we_build_on_it(pool):
    """A loss of power took pool or schema with it, under shards that were acknowledged."""
    fill(pool, 1)
    store = RecordingStore(pool.store)
    Pool(pool.url, store=store).create()
    assert store.kinds("create", "sync")[:2] == [("create", "wlshard.json"), ("sync", "")]
    store.operations.clear()
    fill(Pool(pool.url, store=store), 1)
    done = store.kinds("read", "sync", "draft.publish")
    published = next(place for place, (kind, _) in enumerate(done) if kind == "draft.publish")
    assert done.index(("read", "schema.json")) < done.index(("sync", "")) < published


def test_an_index_that_is_swept_while_it_is_compared_is_put_again(pool):
    """By a sweep that has just deleted the shard, which an earlier try had made visible."""

    shard = ShardName(WRITER_A, 1, 1, hashlib.sha256(tar_of("a")).hexdigest()[:32])
    index, data = f"shards/{shard}".removesuffix(".tar") + ".idx", b"v1.2 1\n"
    store = Interrupting(
        pool.store, lambda operation: operation.kind == "read", lambda: pool.store.delete(index)
    )
    pool.store.create(index, data)
    with store.draft("shards/scratch") as draft:
        draft.write([tar_of("a")])
        assert seal.seal(store, draft, shard, draft.bytes, data)
    assert pool.store.read(index) == data
    assert store.actor is None


def test_a_name_taken_by_other_bytes_makes_a_new_writer(pool, monkeypatch):
    ids = iter([f"20250101T000000-host-{number:016x}" for number in (1, 2)])
    monkeypatch.setattr(seal, "new_writer", lambda: next(ids))
    probe = ShardWriter(pool)
    probe.write({"txt": "x", "__key__": "a"})
    probe.close()
    taken = probe.shards[0].rpartition("/")[2]
    pool.store.put(f"shards/{taken}", b"other bytes")
    monkeypatch.setattr(seal, "new_writer", iter([ShardName.parse(taken).writer, next(ids)]).__next__)
    again = ShardWriter(pool)
    again.write({"txt": "x", "__key__": "a"})
    again.close()
    assert again.writer.endswith("2")
    assert pool.store.read(f"shards/{taken}") == b"other bytes"
    assert len(pool.buffer()) == 2


def test_each_process_is_a_writer_of_its_own_after_a_fork_too(tmp_path):
    pool = Pool(tmp_path).create()
    writer = ShardWriter(pool, shard_samples=1)
    writer.write({"txt": "parent"})
    pid = os.fork()
    if pid == 0:
        try:
            writer.write({"txt": "child"})
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    writer.write({"txt": "parent"})
    writer.close()
    parts = [(shard.parsed.writer, shard.parsed.seq) for shard in pool.buffer()]
    assert len(parts) == len(set(parts)) == 3
    assert len({writer for writer, _ in parts}) == 2
    pool.rotate()
    assert len(set(keys_of(pool))) == 3


def test_a_missing_pool_is_an_error_at_the_first_write(tmp_path):
    writer = ShardWriter(tmp_path / "absent")
    with pytest.raises(NotFound, match=r"wl-gen|create"):
        writer.write({"txt": "x"})
    writer.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, StoreUnavailable), (errno.EROFS, AccessDenied)])
def test_a_full_or_read_only_disk_keeps_what_was_sealed(tmp_path, monkeypatch, number, kind):
    pool = Pool(tmp_path).create()
    writer = ShardWriter(pool, shard_samples=2)
    for text in "abc":
        writer.write({"txt": text})
    real = os.pwritev

    def full(fd, parts, at):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(kind):
        writer.write({"txt": "d"})
    with pytest.raises(kind):
        writer.close()
    monkeypatch.setattr(os, "pwritev", real)
    writer.close()
    pool.rotate()
    assert keys_of(pool)[:2] == [f"{writer.writer}-{n:09d}" for n in (0, 1)]


def files_below(folder):
    return [name for _, _, names in os.walk(folder) for name in names]


def test_a_pool_deleted_under_a_writer_is_missed_and_no_folder_is_filled_in_its_place(tmp_path):
    writer = ShardWriter(Pool(tmp_path / "pool").create(), shard_samples=1)
    writer.write({"txt": "x"})
    shutil.rmtree(tmp_path / "pool")
    with pytest.raises(NotFound, match="no pool here"):
        writer.write({"txt": "y"})
    writer.close()
    assert os.listdir(tmp_path) == []


def test_a_pool_moved_under_a_writer_has_its_samples_where_it_is_now(tmp_path):
    pool = Pool(tmp_path / "a").create()
    with pytest.raises(NotFound, match="no pool here"), ShardWriter(pool) as writer:  # noqa: PT012
        writer.write({"txt": "x"})
        os.rename(tmp_path / "a", tmp_path / "b")
    assert os.listdir(tmp_path) == ["b"]
    assert Pool(tmp_path / "b").rotate().promoted.samples == 1


def test_a_pool_on_a_relative_path_stays_the_same_when_the_current_folder_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pool = Pool("pool").create()
    with ShardWriter(pool, shard_samples=1) as writer:
        writer.write({"txt": "x"})
        monkeypatch.chdir("/")
        writer.write({"txt": "y"})
    pool.rotate()
    assert sorted(pool.shards()) == sorted(writer.shards)
    assert all(os.path.isfile(url) for url in pool.shards())


@pytest.mark.parametrize("name", ["a b", "été", "100%", "a%20b", "x@3", "a#b?c", "new\nline", "a*b"])
def test_a_pool_may_lie_on_any_path(tmp_path, name):
    for url in (tmp_path / name, (tmp_path / f"{name}2").as_uri()):
        pool = Pool(url).create()
        fill(pool, 1)
        pool.rotate()
        assert len(keys_of(resolve(str(url)).pool)) == 1
    assert sorted(os.listdir(tmp_path)) == sorted([name, f"{name}2"])


def test_a_pool_may_be_a_link_and_hold_links(tmp_path):
    (tmp_path / "disk" / "shards").mkdir(parents=True)
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "shards").symlink_to(tmp_path / "disk" / "shards")
    (tmp_path / "pool").symlink_to(tmp_path / "real")
    pool = Pool(tmp_path / "pool").create()
    fill(pool, 3, shard_samples=2)
    assert pool.rotate().promoted.samples == 3
    assert len(files_below(tmp_path / "disk")) == 4


def test_templates_write_plain_shards(tmp_path):
    with ShardWriter(f"{tmp_path}/x-%06d.tar", shard_samples=2) as writer:
        for number in range(3):
            writer.write({"cls": number})
    assert writer.writer is None
    assert sorted(os.listdir(tmp_path)) == ["x-000000.idx", "x-000000.tar", "x-000001.idx", "x-000001.tar"]
    assert keys_in((tmp_path / "x-000001.tar").read_bytes()) == ["000000002"]
    with pytest.raises(UsageError):
        ShardWriter(f"{tmp_path}/one.tar")


@pytest.mark.parametrize("ending", ["tar.gz", "tgz", "tar.zst", "tzst"])
def test_packed_shards_are_refused_with_what_packs_them_and_no_pool_is_looked_for(tmp_path, ending):
    with pytest.raises(UsageError, match="wl-reshard packs them"):
        ShardWriter(f"{tmp_path}/x-%06d.{ending}")


# Names


@pytest.mark.parametrize("host", ["node-17.cluster.example.org", "-", "", "x" * 200, "été", "a-b-c"])
def test_a_writer_id_has_one_shape_whatever_the_host_is_called(monkeypatch, host):
    monkeypatch.setattr(names.socket, "gethostname", lambda: host)
    writer = new_writer()
    assert "." not in writer
    assert host_of(writer) == this_host()
    name = ShardName(writer, 7, 12, "0" * 32)
    assert ShardName.parse(str(name)) == name
    assert str(name).removesuffix(".tar").rsplit("-", 3)[0] == writer
    scratch = ScratchName.parse(scratch_name(writer, 7))
    assert scratch == (writer, 7, names.boot_id(), "")
    copy = scratch._replace(copy="-salvage-" + "0" * 16)
    assert ScratchName.parse(str(copy)) == copy
    assert len(str(name)) < 200


def test_writer_ids_differ():
    assert len({new_writer() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x.tar",
        "20250101T000000-h-aaaaaaaaaaaaaaaa-1-1-" + "0" * 32 + ".tar",
        "20250101T000000-h-aaaaaaaaaaaaaaaa-000000-1-" + "0" * 32 + ".tar",
        "20250101T000000-h-aaaaaaaaaaaaaaaa-0000001-1-" + "0" * 32 + ".tar",
        "20250101T000000-h-aaaaaaaaaaaaaaaa-000001-01-" + "0" * 32 + ".tar",
        "20250101T000000-h-aaaaaaaaaaaaaaaa-000001-1-" + "0" * 31 + ".tar",
        "20250101T000000-h-aaaaaaaaaaaaaaaa-000001-1-" + "0" * 32 + ".tar.gz",
        "20250101T000000-h.x-aaaaaaaaaaaaaaaa-000001-1-" + "0" * 32 + ".tar",
    ],
)
def test_what_is_not_exactly_a_shards_name_is_none(name):
    assert ShardName.parse(name) is None


def test_many_shards_of_one_writer_rotate_in_order(pool):
    writer = fill(pool, 12, shard_samples=1)
    pool.rotate()
    assert names_of(pool.newest()) == [url.rpartition("/")[2] for url in writer.shards]


def test_memory_pools_end_with_their_process(memory_url):
    pool = Pool(memory_url).create()
    fill(pool, 1)
    assert len(Pool(memory_url).buffer()) == 1
    pid = os.fork()
    if pid == 0:
        try:
            pool.buffer()
        except UsageError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_a_pool_is_found_at_a_file_url(tmp_path):
    Pool(tmp_path.as_uri()).create()
    assert connect(str(tmp_path)).read("wlshard.json")


def test_writers_and_rotators_in_many_processes_lose_and_repeat_nothing(tmp_path):
    pool = Pool(tmp_path).create()

    def write():
        with ShardWriter(pool.url, shard_samples=2) as writer:
            for number in range(20):
                writer.write({"cls": number})

    def rotate():
        mine = Pool(pool.url)
        while mine.newest().samples < 60:
            mine.rotate(pool_samples=10**6)

    def child(action):
        pid = os.fork()
        if pid == 0:
            try:
                action()
                os._exit(0)
            finally:
                traceback.print_exc()
                os._exit(1)
        return pid

    for pid in [*(child(write) for _ in range(3)), *(child(rotate) for _ in range(2))]:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    keys = keys_of(pool)
    assert len(keys) == len(set(keys)) == 60
    for generation in pool.generations()[1:]:
        assert any(shard.promoted == generation for shard in pool.manifest(generation).shards)
