"""Reading and writing through a server that fails: the same samples as from a good one, or a typed error."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import pytest
from clocks import Skipping
from faulty import (
    Fault,
    FaultyServer,
    Handler,
    Reply,
    answers,
    closes_after,
    commits_and_drops_the_reply,
    drips,
    drops,
    faulty,
    first,
    ignores_ranges,
    lies_about_length,
    now_and_then,
    reading,
    redirects_in_a_circle,
    resets_after,
)
from processes import environ
from servers import WebServer

from wlshard import Pool, ShardWriter, clock, samples
from wlshard.errors import AccessDenied, NotFound, StoreUnavailable, WlshardError
from wlshard.shards.access import ShardAccess
from wlshard.store.base import Store
from wlshard.store.connect import connect
from wlshard.store.patience import BUDGET, DEADLINE_S
from wlshard.store.ranges import FIRST_BYTES
from wlshard.store.stream import PROGRESS_BYTES
from wlshard.testing.contract import StoreContract


@pytest.fixture
def time() -> Iterator[Skipping]:
    with clock.use(Skipping()) as skipping:
        yield skipping


@pytest.fixture
def shard(nginx: WebServer) -> list[tuple[str, bytes]]:
    """What tiny.tar on the web server holds."""
    rows = [("a", b"first"), ("b", b"second")]
    with ShardWriter(f"{nginx.folder}/tiny-%d.tar") as writer:
        for name in ("tiny-0.tar", "tiny-0.idx"):
            (nginx.folder / name).unlink(missing_ok=True)
        for key, data in rows:
            writer.write({"__key__": key, "bin": data})
    return rows


@pytest.fixture
def large(nginx: WebServer) -> bytes:
    """What large.bin on the web server holds: several requests' worth."""
    data = bytes(range(251)) * (3 * FIRST_BYTES // 251)
    (nginx.folder / "large.bin").write_bytes(data)
    return data


@pytest.fixture
def door(nginx: WebServer, time: Skipping) -> Iterator[FaultyServer]:
    with faulty(nginx.url) as server:
        yield server


def rows_of(url: str) -> list[tuple[str, bytes]]:
    return [(row["__key__"], bytes(row["bin"])) for row in samples(url, decode=False)]


def test_a_reset_after_any_byte_of_a_shard_changes_nothing(door: FaultyServer, shard: Any) -> None:
    for count in range(3072 + 1):
        door.fault = first(1, resets_after(count))
        assert rows_of(f"{door.url}/tiny-0.tar") == shard, count


def test_nor_does_a_reset_after_any_byte_of_a_part_that_is_fetched(door: FaultyServer, shard: Any) -> None:
    with ShardAccess(f"{door.url}/tiny-0.tar") as access:
        access.read(1, 1)  # what the index says is known
        for count in range(1536 + 1):
            door.fault = first(1, resets_after(count))
            (row,) = access.read(1, 1, access.fetch(1, 1))
            assert (row["__key__"], bytes(row["bin"])) == shard[1], count
    assert ("GET", "/tiny-0.tar", "bytes=2559-2559") in door.requests  # it is gone on with where it broke off


FAULTS: dict[str, Fault] = {
    "reset": resets_after(700),
    "short": closes_after(700),
    "empty": closes_after(0),
    "longer": lies_about_length(500),
    "no ranges": ignores_ranges,
    "429": answers(429, Retry_After="7"),
    "500": answers(500),
    "503": answers(503),
    "dropped": drops,
    "drip": drips,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("times", [1, 3])
def test_what_passes_changes_nothing(door: FaultyServer, shard: Any, fault: str, times: int) -> None:
    door.fault = first(times, FAULTS[fault])
    assert rows_of(f"{door.url}/tiny-0.tar") == shard


@pytest.mark.parametrize("fault", [*FAULTS, "circle"])
def test_what_stays_is_an_error_or_changes_nothing(door: FaultyServer, shard: Any, fault: str) -> None:
    door.fault = {**FAULTS, "circle": redirects_in_a_circle}[fault]
    if fault in ("reset", "short", "longer", "no ranges"):  # a part comes each time
        assert rows_of(f"{door.url}/tiny-0.tar") == shard
        return
    with pytest.raises(StoreUnavailable) as caught:
        rows_of(f"{door.url}/tiny-0.tar")
    assert caught.value.url == f"{door.url}/tiny-0.tar"
    assert fault != "circle" or ("redirects" in caught.value.message and len(door.requests) == 11)


def test_a_body_longer_than_announced_is_no_shorter_shard(door: FaultyServer, shard: Any) -> None:
    door.fault = lies_about_length(-600)
    with pytest.raises(WlshardError):
        rows_of(f"{door.url}/tiny-0.tar")


@pytest.mark.parametrize(("status", "kind"), [(404, NotFound), (403, AccessDenied)])
def test_what_will_not_pass_is_asked_once(door: FaultyServer, shard: Any, status: int, kind: type) -> None:
    door.fault = answers(status)
    with pytest.raises(kind):
        rows_of(f"{door.url}/tiny-0.tar")
    assert len(door.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("dated", [False, True])
def test_a_server_says_when_to_come_again(
    door: FaultyServer, shard: Any, time: Skipping, status: int, dated: bool
) -> None:
    when = formatdate(time.time() + 100, usegmt=True) if dated else "100"
    door.fault = first(1, answers(status, Retry_After=when))
    assert rows_of(f"{door.url}/tiny-0.tar") == shard
    assert 90 < time.skipped_s < 102


def test_pauses_grow_and_end(door: FaultyServer, shard: Any, time: Skipping) -> None:
    door.fault = answers(503)
    with pytest.raises(StoreUnavailable, match="tried 8 times"):
        rows_of(f"{door.url}/tiny-0.tar")
    assert 5 < time.skipped_s < 30


def test_nobody_waits_longer_than_the_deadline_without_a_byte(
    door: FaultyServer, shard: Any, time: Skipping
) -> None:
    door.fault = answers(503, Retry_After="200")
    with pytest.raises(StoreUnavailable, match="tried 2 times"):
        rows_of(f"{door.url}/tiny-0.tar")
    assert 190 < time.skipped_s < DEADLINE_S


def test_one_object_breaks_off_so_often_and_no_more(door: FaultyServer, large: bytes, time: Skipping) -> None:
    door.fault = closes_after(2 * PROGRESS_BYTES)
    with pytest.raises(StoreUnavailable, match=f"tried {BUDGET} times"):
        connect(door.url).read("large.bin")
    assert len(door.requests) == BUDGET
    assert len(large) > 2 * PROGRESS_BYTES * BUDGET


def slow(fault: Fault | None = None) -> Fault:
    """Answers take their time: the reader reads ahead."""
    import time as real

    def late(handler: Handler) -> bool:
        real.sleep(0.01)
        return fault is not None and fault(handler)

    return late


@pytest.mark.parametrize(
    "fault", [None, resets_after(100_000), closes_after(1), answers(503), ignores_ranges]
)
@pytest.mark.parametrize("far", [False, True])
def test_ranges_read_ahead_are_put_together_right(
    door: FaultyServer, large: bytes, fault: Fault | None, far: bool
) -> None:
    broken = (
        first(2, fault, lambda h: reading(h) and "bytes=0-" not in h.headers.get("Range", ""))
        if fault
        else None
    )
    door.fault = slow(broken) if far else broken
    store = connect(door.url)
    for start in (0, 1, FIRST_BYTES + 7, len(large) - 3):
        with store.open("large.bin", start) as reader:
            got, block = bytearray(), memoryview(bytearray(300_001))
            while count := reader.readinto(block):
                got += block[:count]
        assert got == large[start:]


@pytest.mark.parametrize("guarded", [False, True], ids=["ignores If-Match", "heeds If-Match"])
@pytest.mark.parametrize("far", [False, True])
def test_an_object_that_changes_is_an_error_and_never_a_mixture(
    door: FaultyServer, nginx: WebServer, large: bytes, far: bool, guarded: bool
) -> None:
    new = large[::-1]

    def changes(handler: Handler) -> bool:
        if "bytes=0-" not in handler.headers.get("Range", "bytes=0-"):
            (nginx.folder / "large.bin").write_bytes(new + b"!")
        if not guarded:
            handler.give(handler.ask("if-match"))
        return not guarded

    door.fault = slow(changes) if far else changes
    block = bytearray(len(large))
    with connect(door.url).open("large.bin") as reader, pytest.raises(StoreUnavailable, match="changed"):
        reader.readinto(block)
    for _ in range(2):  # nor is what follows taken for the end
        with pytest.raises(StoreUnavailable):
            reader.readinto(block)


def test_a_reader_is_closed_while_it_reads_ahead(door: FaultyServer, large: bytes) -> None:
    door.fault = slow()
    with connect(door.url).open("large.bin") as reader:
        reader.readinto(bytearray(10))


def test_a_range_that_is_all_that_is_wanted_costs_one_request(door: FaultyServer, large: bytes) -> None:
    door.fault = slow()
    with connect(door.url).open("large.bin", 5, 1000) as reader:
        block = bytearray(995)
        reader.readinto(block)
    assert block == large[5:1000]
    assert door.requests == [("GET", "/large.bin", "bytes=5-999")]


# Buckets


@pytest.fixture(params=["s3", "gs"])
def bucket(
    request: pytest.FixtureRequest, time: Skipping, monkeypatch: pytest.MonkeyPatch, moto: str, gcs_stub: str
) -> Iterator[tuple[Store, FaultyServer]]:
    """A bucket and the faulty door before it."""
    url = request.getfixturevalue(f"{request.param}_url")
    with faulty(moto if request.param == "s3" else gcs_stub) as server:
        if request.param == "s3":
            request.getfixturevalue("s3_door")(server.url)
        else:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield connect(url), server


def writing(handler: Handler) -> bool:
    return handler.command in ("PUT", "POST")


def test_a_server_that_hardly_sends_is_asked_again(door: FaultyServer, shard: Any, time: Skipping) -> None:
    def drip(handler: Handler) -> bool:
        reply = handler.ask()
        handler.give(reply, body=b"")
        for at in range(20):
            time.skipped_s += 10
            handler.wfile.write(reply.body[at : at + 1])
        handler.cut()
        return True

    door.fault = first(1, drip)
    assert rows_of(f"{door.url}/tiny-0.tar") == shard
    door.fault, time.skipped_s = drip, 0
    with pytest.raises(StoreUnavailable):
        rows_of(f"{door.url}/tiny-0.tar")
    assert time.skipped_s < 3600


@pytest.mark.parametrize("fault", FAULTS.keys() - {"longer"})
def test_a_bucket_whose_reads_fail_for_a_while(bucket: Any, fault: str) -> None:
    store, door = bucket
    data = bytes(range(256)) * 20
    store.put("x", data)
    door.fault = first(2, FAULTS[fault])
    assert store.read("x") == data
    with store.open("x", 100) as reader:
        door.fault = first(2, FAULTS[fault])
        block = bytearray(len(data))
        assert bytes(block[: reader.readinto(block)]) == data[100:]
    door.fault = first(2, answers(503))
    assert [entry.name for entry in store.list()] == ["x"]


@pytest.mark.parametrize("fault", [commits_and_drops_the_reply, drops, answers(503)])
def test_a_create_that_was_answered_late_is_ours_and_only_ours(bucket: Any, fault: Fault) -> None:
    store, door = bucket
    door.fault = first(1, fault, writing)
    assert store.create("x", b"ours") is True
    door.fault = first(1, fault, writing)
    assert store.create("x", b"ours") is False  # the same bytes, of somebody else
    assert store.read("x") == b"ours"
    door.fault = first(1, fault, writing)
    with store.draft("y") as draft:
        draft.write([b"large"])
        assert draft.publish("y") is True


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("fault", [commits_and_drops_the_reply, drops])
def test_a_large_upload_goes_on_after_any_of_its_requests_broke(
    bucket: Any, fault: Fault, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, door = bucket
    for module in ("bucket", "s3", "gs"):
        monkeypatch.setattr(f"wlshard.store.{module}.PART_BYTES", 1 << 18)
    monkeypatch.setattr("wlshard.store.s3.SENDERS", 1)
    if store.url.startswith("s3"):  # parts have a smallest size there
        for module in ("bucket", "s3"):
            monkeypatch.setattr(f"wlshard.store.{module}.PART_BYTES", 5 << 20)
    data = bytes(range(256)) * (3 * 1024 if store.url.startswith("gs") else 3 * 17 * 1024)
    seen = [0]

    def nth(handler: Handler) -> bool:
        seen[0] += 1
        return seen[0] == number + 1

    door.fault = first(1, fault, nth)
    with store.draft("x") as draft:
        draft.write([data])
        assert draft.publish("x") is True
    assert store.read("x") == data


def test_an_upload_that_fails_leaves_nothing(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store, door = bucket
    for module in ("bucket", "s3", "gs"):
        monkeypatch.setattr(f"wlshard.store.{module}.PART_BYTES", 5 << 20)
    with store.draft("x") as draft:
        draft.write([bytes(11 << 20)])
        door.fault = lambda h: h.command == "PUT" and answers(503)(h)
        with pytest.raises(StoreUnavailable):
            draft.publish("x")
        door.fault = None
        ended = [path for method, path, _ in door.requests if method == "DELETE"]
        assert len(ended) == 1
        assert list(store.list()) == []
        assert draft.publish("x") is True
    assert store.stat("x").bytes == 11 << 20


def test_what_a_kill_leaves_of_an_upload_is_swept_when_it_is_old(
    moto: str, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, other = Pool(f"{s3_url}/pool").create(), connect(f"{s3_url}/other")
    writers: list[subprocess.Popen[bytes]] = []
    code = (
        "import sys\nfrom wlshard.store.connect import connect\n"
        "with connect(sys.argv[1]).draft('large') as draft:\n"
        "    draft.write([bytes(20 << 20)])\n    draft.publish('large')\n"
    )

    def kills(handler: Handler) -> bool:
        handler.ask()
        writers[-1].kill()
        handler.cut()
        return True

    for store in (pool.store, other):
        with faulty(moto) as door:
            door.fault = first(9, kills, lambda handler: "partNumber" in handler.path)
            monkeypatch.setenv("AWS_ENDPOINT_URL", door.url)
            with door.lock:
                writers.append(subprocess.Popen([sys.executable, "-c", code, store.url], env=environ()))
            assert writers[-1].wait() == -signal.SIGKILL
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)

    def begun(store: Store) -> int:
        return sum(entry.name.startswith(".upload/") for entry in store.drafts())

    with monkeypatch.context() as patched:
        patched.setattr("wlshard.pool.retire.STALE_S", 1e10)  # moto says that all were begun in 2010
        assert pool.retire().orphans == 0
    assert (begun(pool.store), begun(other)) == (1, 1)
    assert pool.retire().orphans == 1
    assert (begun(pool.store), begun(other)) == (0, 1)
    assert pool.retire().orphans == 0


def test_two_rotators_whose_replies_are_lost_make_one_commit(bucket: Any) -> None:
    store, door = bucket
    pool = Pool(store.url).create()
    with ShardWriter(pool, shard_samples=2) as writer:
        for number in range(6):
            writer.write({"bin": b"%d" % number})
    door.fault = first(
        3, commits_and_drops_the_reply, lambda h: writing(h) and h.headers.get("Range") is None
    )
    done: list[Any] = []
    threads = [threading.Thread(target=lambda: done.append(Pool(store.url).rotate())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.committed for each in done) == [False, True]
    assert Pool(store.url).generations() == [0, 1]
    assert sorted(data for _, data in rows_of(store.url)) == [b"%d" % number for number in range(6)]


def test_a_stale_list_promotes_later_and_loses_nothing(bucket: Any) -> None:
    store, door = bucket
    pool = Pool(store.url).create()
    old: dict[str, Reply] = {}

    def listing(handler: Handler) -> bool:
        return handler.command == "GET" and "shards" in handler.path and "prefix" in handler.path

    def stale(handler: Handler) -> bool:
        if not listing(handler):
            return False
        handler.give(old.setdefault("reply", handler.ask()))
        return True

    door.fault = stale
    list(store.list("shards/"))
    with ShardWriter(pool) as writer:
        writer.write({"__key__": "k", "bin": b"1"})
    assert pool.rotate().committed is False
    door.fault = None
    assert pool.rotate().committed is True
    assert rows_of(store.url) == [("k", b"1")]


def test_a_list_that_lacks_an_older_shard_promotes_that_one_later(bucket: Any) -> None:
    store, door = bucket
    pool = Pool(store.url).create()
    with ShardWriter(pool, shard_samples=1) as writer:
        for number in range(2):
            writer.write({"bin": b"%d" % number})
    hidden = writer.shards[0].rpartition("/")[2].removesuffix(".tar").encode()
    other = rb"(?:(?!</Contents>).)*"

    def lacks(handler: Handler) -> bool:
        reply = handler.ask()
        if b'"items"' in reply.body:
            page = json.loads(reply.body)
            page["items"] = [item for item in page["items"] if hidden.decode() not in item["name"]]
            reply = reply._replace(body=json.dumps(page).encode())
        else:
            one = b"<Contents>" + other + hidden + other + b"</Contents>"
            reply = reply._replace(body=re.sub(one, b"", reply.body, flags=re.DOTALL))
        handler.give(reply)
        return True

    door.fault = lacks
    assert pool.rotate().promoted.samples == 1
    assert [data for _, data in rows_of(store.url)] == [b"1"]
    door.fault = None
    assert pool.rotate().promoted.samples == 1
    assert [data for _, data in rows_of(store.url)] == [b"0"]


class TestS3BehindAServerThatFailsNowAndThen(StoreContract):
    """The contract holds while every fifth request is lost, its reply, or answered with 503."""

    @pytest.fixture
    def store(
        self, s3_url: str, moto: str, s3_door: Callable[[str], None], time: Skipping
    ) -> Iterator[Store]:
        with faulty(moto) as server:
            server.fault = now_and_then(5, drops, commits_and_drops_the_reply, answers(503))
            s3_door(server.url)
            yield connect(s3_url)
