"""Manifests as bytes, status, accounting, and what a source names."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from pools import WRITER_A, WRITER_B, names_of, seal_by_hand
from web import served

from wlshard import clock
from wlshard.errors import AccessDenied, NotFound, StoreUnavailable, UsageError
from wlshard.pool.manifest import Manifest, PoolShard, Quarantined, Watermark, parse_manifest
from wlshard.pool.names import ShardName
from wlshard.pool.pool import Pool
from wlshard.pool.source import resolve
from wlshard.testing.storage import FaultyStore, RecordingStore

NAME = str(ShardName(WRITER_A, 3, 10, "0" * 32))
FULL = Manifest(
    generation=7,
    parent="f" * 64,
    txn="t" * 32,
    shards=(PoolShard(NAME, 4096, 10, 6),),
    watermarks={WRITER_A: Watermark(3, frozenset({1, 2})), WRITER_B: Watermark(1, gone=2.5)},
    quarantined=(Quarantined("x.tar", "cut"),),
    stats={"promoted": {"shards": 1}},
    created=1.5,
)


def test_a_manifest_comes_back_as_it_was_with_its_digest():
    data = FULL.encode()
    parsed = parse_manifest(data, "u")
    assert parsed.digest == hashlib.sha256(data).hexdigest()
    assert parsed.encode() == data
    assert parsed.shards == FULL.shards
    assert parsed.watermarks == FULL.watermarks
    assert parsed.samples == 10
    content = json.loads(data)
    assert content["shards"] == [[NAME, 4096, 10, 6]]
    assert content["watermarks"] == {WRITER_A: [3, [1, 2]], WRITER_B: [1, [], 2.5]}


@pytest.mark.parametrize(
    "change",
    [
        {"generation": "7"},
        {"generation": True},
        {"generation": 0},
        {"parent": None},
        {"txn": 5},
        {"shards": [[NAME, 4096, 11, 6]]},
        {"shards": [[NAME, -1, 10, 6]]},
        {"shards": [[NAME, 4096, 10, 8]]},
        {"shards": [["../x.tar", 4096, 10, 6]]},
        {"shards": None},
        {"watermarks": {WRITER_A: [3]}},
        {"watermarks": {WRITER_A: [3, [-1]]}},
        {"watermarks": {WRITER_A: [3, [], "x"]}},
        {"quarantined": ["x"]},
        {"format": None},
    ],
)
def test_a_damaged_manifest_is_an_error_with_its_url(change):
    data = json.dumps({**json.loads(FULL.encode()), **change}).encode()
    with pytest.raises(StoreUnavailable, match="damaged") as caught:
        parse_manifest(data, "the-url")
    assert caught.value.url == "the-url"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", FULL.encode()[:-20], b"\xff\xfe"])
def test_bytes_that_are_no_manifest_are_an_error(data):
    with pytest.raises(StoreUnavailable, match="damaged"):
        parse_manifest(data, "u")


def test_a_manifest_of_a_later_format_is_refused():
    data = FULL.encode().replace(b'"format":1', b'"format":2')
    with pytest.raises(UsageError, match="update"):
        parse_manifest(data, "u")


def test_a_manifest_in_the_wrong_slot_is_an_error(memory_url):
    pool = Pool(memory_url).create()
    pool.store.put("generations/0000000001.json", FULL.encode())
    with pytest.raises(StoreUnavailable, match="holds generation 7"):
        pool.newest()


# Status


def test_status_of_a_fresh_pool(memory_url):
    content = Pool(memory_url).create().status().as_json()
    assert list(content)[:6] == ["kind", "pool", "shards", "samples", "bytes", "fields"]
    assert content["kind"] == "pool"
    assert content["generation"] == 0
    assert content["buffer"] == {"shards": 0, "samples": 0, "bytes": 0}
    assert (content["reuse"], content["never_read"], content["oldest_age_s"]) == (0.0, None, None)
    assert content["leases"] == []


class Set:
    def __init__(self, time):
        self.now = time

    def time(self):
        return self.now

    monotonic = time

    def sleep(self, seconds):
        self.now += seconds


def test_status_counts_buffer_rates_reuse_and_age(memory_url):
    pool = Pool(memory_url).create()
    with clock.use(Set(1000.0)) as time:
        seal_by_hand(pool.store, WRITER_A, 1, samples=30)
        pool.rotate()
        pool.record_served("r0", 1, 0, 0.0)
        time.now = 1050.0
        seal_by_hand(pool.store, WRITER_B, 1, samples=60)
        pool.record_served("r0", 1, 45, 2.5)
        pool.record_served("r1", 1, 15, 0.5)
        time.now = 1070.0
        status = pool.status()
    assert (status.shards, status.samples, status.generation) == (1, 30, 1)
    assert status.buffer[:2] == (1, 60)
    assert status.generated_per_s == 60 / 60  # the 30 of writer A are older than the window
    assert status.served_per_s == 45 / 50
    assert (status.served, status.waited_s, status.reuse) == (60, 3.0, 2.0)
    assert status.never_read == 0.0
    assert status.oldest_age_s == 70.0
    assert set(status.as_json()) >= {
        "kind",
        "shards",
        "samples",
        "bytes",
        "fields",
        "generation",
        "buffer",
        "generated_per_s",
        "served_per_s",
        "reuse",
        "oldest_age_s",
        "leases",
    }


def test_the_age_is_that_of_the_oldest_shard_of_any_writer(memory_url):
    pool = Pool(memory_url).create()
    with clock.use(Set(0.0)) as time:
        for writer, seq in ((WRITER_B, 3), (WRITER_A, 999_999), (WRITER_A, 1_000_000), (WRITER_B, 4)):
            time.now += 10.0
            seal_by_hand(pool.store, writer, seq, samples=1)
            pool.rotate(pool_samples=3)
        time.now = 100.0
        assert pool.newest().samples == 3
        assert pool.status().oldest_age_s == 80.0


def test_of_the_shards_that_a_manifest_names_only_the_first_of_a_writer_is_looked_at(tmp_path):
    """A look at each takes as long as all the rest where there are a hundred thousand."""

    class Noting(RecordingStore):
        def list(self, prefix="", suffix="", but=()):
            listed = list(super().list(prefix, suffix, but))
            looked_at.update(entry.name[7:] for entry in listed if entry.name.endswith(".tar"))
            return iter(listed)

    looked_at = set[str]()
    pool = Pool(tmp_path, store=Noting(Pool(tmp_path).create().store))
    names = [seal_by_hand(pool.store, writer, seq) for writer in (WRITER_A, WRITER_B) for seq in (1, 2, 3)]
    assert pool.rotate(pool_samples=10**9).promoted.shards == 6
    fresh = seal_by_hand(pool.store, WRITER_A, 4)
    for look, expected in (
        (pool.status, {names[0], names[3], fresh}),
        (pool.buffer, {fresh}),
        (lambda: pool.rotate(pool_samples=10**9), {fresh}),
        (pool.retire, set()),
    ):
        looked_at.clear()
        look()
        assert looked_at == expected
    assert pool.newest().samples == 7


def test_the_share_never_read_falls_as_samples_are_served(memory_url):
    pool = Pool(memory_url).create()
    seal_by_hand(pool.store, WRITER_A, 1, samples=10)
    pool.rotate()
    pool.record_served("r", 1, 4, 0.0)
    assert pool.status().never_read == pytest.approx(0.6)


def test_a_damaged_or_vanished_note_does_not_count(memory_url):
    pool = Pool(memory_url).create()
    seal_by_hand(pool.store, WRITER_A, 1)
    pool.rotate()
    pool.record_served("good", 1, 4, 0.0)
    pool.store.put("leases/0000000001/bad.json", b"{")
    pool.store.put("leases/0000000001/odd.json", b'{"served": null}')
    pool.store.put("leases/0000000001/other.txt", b"")
    assert pool.status().served == 4
    gone = FaultyStore(pool.store, lambda op: NotFound("gone") if op.name.endswith("good.json") else None)
    assert Pool(pool.url, store=gone).status().served == 0


def test_a_reader_without_write_access_goes_on_and_says_so_once(memory_url, caplog):
    pool = Pool(memory_url).create()
    refusing = FaultyStore(pool.store, lambda op: AccessDenied("no") if op.kind == "put" else None)
    reader = Pool(memory_url, store=refusing)
    assert reader.record_served("r", 0, 1, 0.0) is False
    assert reader.record_served("r", 0, 2, 0.0) is False
    assert caplog.text.count("not counted") == 1
    assert len(refusing.kinds("put")) == 1


@pytest.mark.parametrize("reader", ["", "../x", "a/b", ".hidden", "a b"])
def test_a_reader_needs_a_name_that_is_one(memory_url, reader):
    pool = Pool(memory_url).create()
    with pytest.raises(UsageError):
        pool.record_served(reader, 0, 1, 0.0)


# Sources


def test_a_source_is_a_pool_a_generation_or_shards(tmp_path):
    pool = Pool(tmp_path / "pool").create()
    seal_by_hand(pool.store, WRITER_A, 1)
    pool.rotate()
    for source in (pool, pool.url, tmp_path / "pool", f"{pool.url}/"):
        found = resolve(source)
        assert (found.pool.newest().generation, found.generation, found.urls) == (1, None, [])
    found = resolve(f"{pool.url}@1")
    assert (names_of(found.pool.newest()), found.generation) == (names_of(pool.newest()), 1)
    (tmp_path / "a.tar").touch()
    (tmp_path / "b.tar").touch()
    for source in (tmp_path, [tmp_path / "a.tar", f"{tmp_path}/b.tar"], f"{tmp_path}/{{a,b}}.tar"):
        assert [os.path.basename(url) for url in resolve(source).urls] == ["a.tar", "b.tar"]
    assert resolve("-").urls == ["-"]


def test_a_generation_that_is_not_there_is_not_found(tmp_path):
    Pool(tmp_path / "pool").create()
    with pytest.raises(NotFound, match="no generation 5"):
        resolve(f"{tmp_path}/pool@5")


def test_a_pool_whose_own_name_has_an_at_sign_is_that_pool(tmp_path):
    Pool(tmp_path / "x@2").create()
    assert resolve(f"{tmp_path}/x@2").generation is None


def test_a_given_pool_must_exist(tmp_path):
    with pytest.raises(NotFound, match="wl-gen"):
        resolve(Pool(tmp_path / "absent"))


@pytest.fixture
def url(tmp_path):
    with served(tmp_path) as url:
        yield url


def test_a_pool_is_read_through_a_web_server(tmp_path, url):
    pool = Pool(tmp_path / "pool").create()
    for seq in (1, 2, 3):
        seal_by_hand(pool.store, WRITER_A, seq)
        pool.rotate()
    remote = resolve(f"{url}/pool").pool
    assert remote.newest().generation == 3
    assert remote.shards() == [f"{url}/pool/shards/{name}" for name in names_of(pool.newest())]
    assert resolve(f"{url}/pool@2").generation == 2
    assert remote.newest(after=3) is None
    assert remote.record_served("r", 3, 1, 0.0) is False
    with pytest.raises(UsageError, match="list"):
        remote.buffer()


def test_a_pool_is_not_made_where_a_generation_is_named(tmp_path: Path) -> None:
    Pool(tmp_path / "p").create()
    with pytest.raises(UsageError, match="names a generation"):
        Pool(f"{tmp_path}/p@1").create()
    Pool(f"{tmp_path}/other@1").create()
