"""The rolling writer: what it publishes is whole, what it refuses leaves nothing, what fails can go on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlshard import clock
from wlshard.errors import (
    AccessDenied,
    CodecError,
    GroupingError,
    StoreUnavailable,
    UsageError,
    WlshardError,
)
from wlshard.sample import Sample
from wlshard.shards import growing, target
from wlshard.shards.writer import ClosedShard, RollingWriter, TemplateTarget
from wlshard.store.base import Draft
from wlshard.store.connect import connect, locate
from wlshard.tar.header import END_MARK
from wlshard.tar.index import index_name, parse_index
from wlshard.testing.storage import FaultyStore, Killed, Operation, RecordingStore, killed_at

SAMPLES: list[Sample] = [
    {"__key__": "train/000", "jpg": b"\xff\xd8", "cls": b"3", "json": b'{"a": 1}'},
    {"__key__": "train/001", "jpg": bytes(3000), "cls": b"4", "left.png": b""},
    {"__key__": "日本/жук-ü", "npy": b"x" * 512, "__url__": "is no field"},
    {"__key__": "many/" * 60 + "parts", "txt": b"long"},
    {"__key__": "one " + "l" * 120 + "ng", "txt": b"long and with a blank"},
]


def template(folder: Path) -> str:
    return f"{folder}/x-%06d.tar"


def a_sample(number: int, size: int = 100) -> Sample:
    return {"__key__": f"{number:05d}", "bin": bytes([number % 256]) * size}


def members(path: str | Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path, encoding="utf-8") as tar:
        found = []
        for member in tar:
            stream = tar.extractfile(member)
            assert stream is not None
            found.append((member.name, stream.read()))
    return found


def keys(path: str | Path) -> list[str]:
    return list(dict.fromkeys(name.partition(".")[0] for name, _ in members(path)))


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def wanted(samples: list[Sample]) -> list[tuple[str, bytes]]:
    fields = [(sample, field) for sample in samples for field in sorted(sample) if field[:2] != "__"]
    return [(f"{sample['__key__']}.{field}", bytes(sample[field])) for sample, field in fields]


# --- what is written


def test_tarfile_reads_back_what_was_written_fields_sorted(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        for sample in SAMPLES:
            out.write(sample)
    assert out.shards == [f"{tmp_path}/x-000000.tar"]
    assert members(out.shards[0]) == wanted(SAMPLES)
    assert (out.samples, out.sealed, out.bytes) == (5, 5, os.path.getsize(out.shards[0]))
    assert names(tmp_path) == ["x-000000.idx", "x-000000.tar"]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_back_what_was_written(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with RollingWriter(TemplateTarget(template(tmp_path)), shard_samples=2) as out:
        for sample in SAMPLES:
            out.write(sample)
    read = list(webdataset.WebDataset(out.shards, shardshuffle=False))
    assert [
        (f"{sample['__key__']}.{field}", sample[field])
        for sample in read
        for field in sorted(sample)
        if field[:2] != "__"
    ] == wanted(SAMPLES)


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar command")
def test_gnu_tar_lists_it_without_a_warning(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        for sample in SAMPLES:
            out.write(sample)
    shown = subprocess.run(["tar", "-tvf", out.shards[0]], capture_output=True, check=True)
    assert shown.stderr == b""
    assert len(shown.stdout.splitlines()) == len(wanted(SAMPLES))


def test_a_hundred_members_of_a_hundred_bytes_take_no_pax_records(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        for number in range(100):
            out.write(a_sample(number))
    assert os.path.getsize(out.shards[0]) == out.bytes == 100 * (512 + 512) + 1024


def test_equal_samples_give_equal_bytes_however_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = bytes(range(256)) * 300
    with RollingWriter(TemplateTarget(f"{tmp_path}/a-%d.tar")) as out:
        for key in "xyz":
            out.write({"__key__": key, "bin": payload, "cls": b"1"})
    monkeypatch.setattr(growing, "FLUSH_BYTES", 1)
    with RollingWriter(TemplateTarget(f"{tmp_path}/b-%d.tar")) as out:
        for key, form in zip("xyz", (bytearray, memoryview, bytes), strict=True):
            out.write({"cls": memoryview(b"1"), "bin": form(payload), "__key__": key})
    assert (tmp_path / "a-0.tar").read_bytes() == (tmp_path / "b-0.tar").read_bytes()
    assert (tmp_path / "a-0.idx").read_bytes() == (tmp_path / "b-0.idx").read_bytes()


def test_values_are_encoded_by_their_field(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        out.write({"__key__": "a", "cls": 7, "json": {"b": 1}, "txt": "ü"})
    assert [data for _, data in members(out.shards[0])] == [b"7", b'{"b": 1}', "ü".encode()]


def test_the_index_says_where_the_data_is(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        for sample in SAMPLES[:4]:
            out.write(sample)
    text = (tmp_path / "x-000000.idx").read_bytes()
    with tarfile.open(out.shards[0]) as tar:
        located = [(str(member.offset_data), str(member.size), member.name) for member in tar]
    lines = text.decode().splitlines()
    assert lines[0] == "v1.2 4"
    words = " ".join(lines[1:]).split(" ")
    assert list(zip(words[1::4], words[2::4], words[3::4], strict=True)) == located
    index = parse_index(text, "x")
    assert index.samples == 4
    assert index.starts[-1] + len(END_MARK) == out.bytes


def test_samples_without_a_key_are_numbered(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path)), shard_samples=2) as out:
        for _ in range(3):
            out.write({"cls": b"1"})
    assert [keys(shard) for shard in out.shards] == [["000000000", "000000001"], ["000000002"]]


def test_a_sample_is_left_as_it_was(tmp_path: Path) -> None:
    sample = {"cls": 1}
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        out.write(sample)
    assert sample == {"cls": 1}


def test_a_large_payload_is_not_copied_and_may_be_reused_at_once(tmp_path: Path) -> None:
    seen: list[object] = []

    class Watched(TemplateTarget):
        def open_draft(self, seq: int) -> Draft:
            draft = super().open_draft(seq)
            write = draft.write
            draft.write = lambda parts, at=None: (seen.extend(parts), write(parts, at))[1]  # type: ignore
            return draft

    buffer = bytearray(100_000)
    with RollingWriter(Watched(template(tmp_path))) as out:
        for number in range(3):
            buffer[:] = bytes([number]) * len(buffer)
            out.write({"__key__": str(number), "bin": buffer})
    assert sum(isinstance(part, memoryview) and part.obj is buffer for part in seen) == 3
    assert members(out.shards[0]) == [(f"{n}.bin", bytes([n]) * len(buffer)) for n in range(3)]
    del seen[:]


def test_small_mutable_payloads_may_be_reused_at_once(tmp_path: Path) -> None:
    buffer = bytearray(b"a")
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        for letter in b"abc":
            buffer[0] = letter
            out.write({"__key__": chr(letter), "txt": buffer})
    assert [data for _, data in members(out.shards[0])] == [b"a", b"b", b"c"]


def test_views_of_any_shape_are_written_as_their_bytes(tmp_path: Path) -> None:
    data = bytes(range(24))
    views = [memoryview(data).cast("B", (2, 12)), memoryview(data)[::2], memoryview(b"").cast("i")]
    views.append(memoryview(bytes(200_000))[::2])
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        for view in views:
            out.write({"bin": view})
    assert [found for _, found in members(out.shards[0])] == [view.tobytes() for view in views]


# --- rolling


def test_it_rolls_by_samples_and_publishes_at_once(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path)), shard_samples=3) as out:
        for number in range(7):
            out.write(a_sample(number))
            assert len(out.shards) == (number + 1) // 3
    assert [len(keys(shard)) for shard in out.shards] == [3, 3, 1]
    assert (tmp_path / "x-000002.idx").exists()


@given(sizes=st.lists(st.integers(0, 6000), min_size=1, max_size=25), limit=st.integers(1, 20_000))
def test_no_shard_passes_its_bytes_unless_one_sample_does(sizes: list[int], limit: int) -> None:
    folder = f"memory://roll-{os.urandom(8).hex()}"
    with RollingWriter(TemplateTarget(f"{folder}/x-%06d.tar"), shard_bytes=limit) as out:
        for number, size in enumerate(sizes):
            out.write(a_sample(number, size))
    store, read = connect(folder), []
    for shard in out.shards:
        data = store.read(shard.rpartition("/")[2])
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            read.append(len(tar.getnames()))
        assert len(data) <= limit or read[-1] == 1
    assert sum(read) == len(sizes)
    # no shard could have taken the sample that begins the next one
    ends = [sum(read[: n + 1]) for n in range(len(read))]
    cost = [512 + -(-size // 512) * 512 for size in sizes]
    for start, end in zip([0, *ends], ends[:-1], strict=False):
        assert sum(cost[start : end + 1]) + 1024 > limit


class StoppedClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = 1000.0

    def time(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


def test_it_rolls_by_seconds_since_the_first_sample_of_the_shard(tmp_path: Path) -> None:
    stopped = StoppedClock()
    target = TemplateTarget(template(tmp_path))
    with clock.use(stopped), RollingWriter(target, shard_seconds=60) as out:
        for number, seconds in enumerate([0, 30, 29, 1, 59, 1]):
            stopped.at += seconds
            out.write(a_sample(number))
    assert [keys(shard) for shard in out.shards] == [
        ["00000", "00001", "00002"],
        ["00003", "00004"],
        ["00005"],
    ]


def test_a_shard_that_is_due_is_published_without_another_write(tmp_path: Path) -> None:
    published = threading.Event()

    class Watched(TemplateTarget):
        def publish(self, draft: Draft, shard: ClosedShard) -> str:
            url = super().publish(draft, shard)
            published.set()
            return url

    with RollingWriter(Watched(template(tmp_path)), shard_seconds=0.01) as out:
        out.write(a_sample(0))
        assert published.wait(30)
        assert keys(tmp_path / "x-000000.tar") == ["00000"]
    assert len(out.shards) == 1


def test_a_due_shard_that_cannot_be_published_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = FaultyStore(connect(str(tmp_path)))
    tried = threading.Event()

    def fails(operation: Operation) -> BaseException | None:
        if operation.kind != "create":
            return None
        tried.set()
        return StoreUnavailable("the disk is full")

    monkeypatch.setattr(target, "locate", lambda url: (faulty, locate(url)[1]))
    faulty.fails = fails
    with RollingWriter(TemplateTarget(template(tmp_path)), shard_seconds=0.01) as out:
        out.write(a_sample(0))
        assert tried.wait(30)
        with out._lock:  # the watching thread is done with this try
            faulty.fails = lambda _: None
        out.write(a_sample(1))
    assert [key for shard in out.shards for key in keys(shard)] == ["00000", "00001"]
    assert "could not be published" in caplog.text


def test_there_is_no_thread_unless_seconds_are_asked_for(tmp_path: Path) -> None:
    before = threading.active_count()
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        out.write(a_sample(0))
        assert threading.active_count() == before


def test_threads_may_share_a_writer(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path)), shard_samples=7) as out:

        def write(worker: int) -> None:
            for number in range(50):
                out.write({"__key__": f"{worker}-{number}", "a": b"1", "b": bytes([number])})

        threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [key for shard in out.shards for key in keys(shard)]
    assert sorted(found) == sorted(f"{worker}-{number}" for worker in range(4) for number in range(50))


@pytest.mark.parametrize("limit", [{"shard_samples": 0}, {"shard_bytes": -1}, {"shard_seconds": 0}])
def test_a_limit_that_admits_nothing_is_refused(limit: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        RollingWriter(TemplateTarget(template(tmp_path)), **limit)  # type: ignore[arg-type]


# --- what is refused


@pytest.mark.parametrize(
    "key",
    [
        "",
        "v1.0",
        "a/.b",
        ".b",
        "a/",
        "./a",
        "/a",
        "../a",
        "a/../b",
        "..",
        "a\nb",
        "a\0b",
        "a\x1b[2Jb",
        "a\x7fb",
        "a\x85b",
        "a\ud800b",
        17,
        b"a",
    ],
)
def test_a_key_that_would_not_come_back_is_refused(key: object, tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        out.write(a_sample(0))
        with pytest.raises(GroupingError):
            out.write({"__key__": key, "cls": b"1"})
        out.write(a_sample(1))
    assert keys(out.shards[0]) == ["00000", "00001"]


@pytest.mark.parametrize("field", ["", "PNG", "a/b", "a\tb", "a\0", "a b", "ä\x9f", "x\ud800", 3])
def test_a_field_that_would_not_come_back_is_refused(field: str, tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        out.write(a_sample(0))
        with pytest.raises(GroupingError):
            out.write({"__key__": "x", "cls": b"1", field: b"1"})
    assert keys(out.shards[0]) == ["00000"]


@pytest.mark.parametrize("key", ["x", "a b", "a/b/c", "ü", "x-1_2", "a..b/c", "...a/b", "caf\udce9", "~"])
@pytest.mark.parametrize("field", ["png", "left.png", "1", "ü", "a..b", "x."])
def test_unusual_names_that_do_come_back_are_taken(key: str, field: str, tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        out.write({"__key__": key, field: b"1"})
    assert members(out.shards[0]) == [(f"{key}.{field}", b"1")]


def test_a_key_twice_in_a_shard_is_refused_and_the_first_stays(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path)), shard_samples=2) as out:
        out.write({"__key__": "a", "cls": b"1"})
        with pytest.raises(GroupingError) as caught:
            out.write({"__key__": "a", "cls": b"2"})
        out.write({"__key__": "b", "cls": b"1"})
        out.write({"__key__": "a", "cls": b"3"})  # another shard
    assert caught.value.key == "a"
    assert [members(shard) for shard in out.shards] == [
        [("a.cls", b"1"), ("b.cls", b"1")],
        [("a.cls", b"3")],
    ]


def test_a_key_comes_again_in_the_next_shard_whatever_has_filled_the_first(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path)), shard_bytes=5000) as out:
        out.write(a_sample(0, 2000))
        out.write(a_sample(0, 2000))
    assert [len(members(shard)) for shard in out.shards] == [1, 1]


def test_a_sample_that_does_not_encode_leaves_nothing_and_is_named(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        out.write(a_sample(0))
        with pytest.raises(CodecError) as caught:
            out.write({"__key__": "bad", "a.cls": 1, "b.cls": "no number", "c.cls": 2})
        out.write({"__key__": "bad", "a.cls": 1})
    assert (caught.value.key, caught.value.member) == ("bad", "bad.b.cls")
    assert members(out.shards[0])[1:] == [("bad.a.cls", b"1")]
    assert out.samples == 2


def test_a_sample_without_fields_is_refused(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path))) as out, pytest.raises(GroupingError):
        out.write({"__key__": "a", "__url__": "x"})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "bad",
    ["x.tar", "x-%s-%d.tar", "x-%06d", "x-%06d.tar.gz", "x-%q.tar", "100%.tar", "data.v1-%06d.tar", "%d"],
)
def test_a_template_that_cannot_number_shards_is_refused(bad: str) -> None:
    with pytest.raises(UsageError) as caught:
        TemplateTarget(bad)
    assert caught.value.url == bad


# --- lifetime


def test_an_exception_inside_drops_the_open_shard_only(tmp_path: Path) -> None:
    with suppress(KeyError), RollingWriter(TemplateTarget(template(tmp_path)), shard_samples=2) as out:
        for number in range(3):
            out.write(a_sample(number))
        raise KeyError
    assert names(tmp_path) == ["x-000000.idx", "x-000000.tar"]
    assert (out.samples, out.sealed) == (2, 2)


def test_nothing_written_leaves_nothing(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        assert names(tmp_path) == []
    assert out.shards == []
    assert names(tmp_path) == []


def test_close_and_discard_may_be_called_twice_and_end_writing(tmp_path: Path) -> None:
    out = RollingWriter(TemplateTarget(template(tmp_path)), shard_seconds=60)
    out.write(a_sample(0))
    out.close()
    out.close()
    out.discard()
    with pytest.raises(UsageError, match="closed"):
        out.write(a_sample(1))
    assert names(tmp_path) == ["x-000000.idx", "x-000000.tar"]


# --- publishing


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaultyStore:
    """The store of tmp_path, whose operations a test can watch and let fail."""
    faulty = FaultyStore(connect(str(tmp_path)))
    monkeypatch.setattr(target, "locate", lambda url: (faulty, locate(url)[1]))
    return faulty


def test_the_index_is_durable_before_the_tar_and_the_folder_after_it(
    store: RecordingStore, tmp_path: Path
) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        out.write(a_sample(0))
    assert store.kinds("draft.sync", "create", "draft.publish", "sync") == [
        ("draft.sync", "x-000000.tar"),
        ("create", "x-000000.idx"),
        ("draft.publish", "x-000000.tar"),
        ("sync", ""),
    ]


def test_an_output_that_exists_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "x-000000.tar").write_bytes(b"mine")
    with pytest.raises(UsageError) as caught, RollingWriter(TemplateTarget(template(tmp_path))) as out:
        out.write(a_sample(0))
    assert caught.value.url == f"{tmp_path}/x-000000.tar"
    assert names(tmp_path) == ["x-000000.tar"]
    assert (tmp_path / "x-000000.tar").read_bytes() == b"mine"


def test_an_output_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path))) as other:
        other.write(a_sample(7))
        out = RollingWriter(TemplateTarget(template(tmp_path / "." / "")))
        with pytest.raises(StoreUnavailable):
            out.write(a_sample(0))  # its scratch is being written
        out.discard()
        (tmp_path / "x-000000.tar").write_bytes(b"mine")
        with pytest.raises(UsageError):
            other.close()
        (tmp_path / "x-000000.tar").unlink()
    assert keys(tmp_path / "x-000000.tar") == ["00007"]


def test_force_replaces_tar_and_index(tmp_path: Path) -> None:
    for number in (1, 2):
        with RollingWriter(TemplateTarget(template(tmp_path), force=number == 2)) as out:
            for _ in range(number):
                out.write({"cls": b"1"})
    assert keys(out.shards[0]) == ["000000000", "000000001"]
    assert parse_index((tmp_path / "x-000000.idx").read_bytes(), "x").samples == 2
    assert names(tmp_path) == ["x-000000.idx", "x-000000.tar"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("number", range(1, 30))
def test_whenever_it_dies_every_visible_tar_is_whole_and_its_index_its_own(
    number: int, force: bool, store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "FLUSH_BYTES", 0)
    if force:
        with RollingWriter(TemplateTarget(template(tmp_path)), shard_samples=1) as out:
            for sample in range(2):
                out.write(a_sample(sample + 10, 3000))
        store.operations.clear()
    store.fails = killed_at(number)
    with (
        suppress(Killed),
        RollingWriter(TemplateTarget(template(tmp_path), force=force), shard_samples=2) as out,
    ):
        for sample in range(4):
            out.write(a_sample(sample))
    for path in tmp_path.glob("*.tar"):
        whole = [name for name, _ in members(path)]
        assert path.read_bytes().endswith(END_MARK)
        index = tmp_path / index_name(path.name)
        assert force or index.exists()
        if index.exists():
            assert index.read_text().split()[5::4][: len(whole)] == whole
    store.dead, store.fails = None, lambda _: None
    with RollingWriter(TemplateTarget(template(tmp_path), force=True), shard_samples=2) as out:
        for sample in range(4):
            out.write(a_sample(sample))
    assert names(tmp_path) == ["x-000000.idx", "x-000000.tar", "x-000001.idx", "x-000001.tar"]


def test_an_index_left_without_its_tar_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "x-000000.idx").write_text("v1.2 0\n")
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        out.write(a_sample(0))
    assert parse_index((tmp_path / "x-000000.idx").read_bytes(), "x").samples == 1


class HashingTarget(TemplateTarget):
    wants_sha256 = True
    closed: ClosedShard | None = None

    def publish(self, draft: Draft, shard: ClosedShard) -> str:
        self.closed = shard
        return super().publish(draft, shard)


def test_a_target_that_asks_is_told_the_sha256_of_the_whole_shard(tmp_path: Path) -> None:
    target = HashingTarget(template(tmp_path))
    with RollingWriter(target) as out:
        for size in (10, 2_000_000, 100, 70_000):
            out.write(a_sample(size, size))
    data = Path(out.shards[0]).read_bytes()
    assert target.closed is not None
    assert target.closed.sha256 == hashlib.sha256(data).hexdigest()
    assert (target.closed.seq, target.closed.samples, target.closed.bytes) == (1, 4, len(data))


# --- what fails


def disk_is_full(operation: Operation) -> BaseException | None:
    full = operation.kind == "draft.write" and operation.bytes > len(END_MARK)
    return StoreUnavailable("the disk is full") if full else None


@pytest.mark.parametrize("limit", ["FLUSH_BYTES", "FLUSH_S"])
def test_the_scratch_ends_in_an_end_mark_after_every_flush(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, limit, 0)
    scratch = tmp_path / "x-000000.tar.partial"
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        for number in range(5):
            out.write(a_sample(number))
            assert scratch.read_bytes().endswith(END_MARK)
            assert len(keys(scratch)) == number + 1


def test_samples_are_flushed_after_a_while_and_in_bulk_before(tmp_path: Path) -> None:
    stopped = StoppedClock()
    scratch = tmp_path / "x-000000.tar.partial"
    with clock.use(stopped), RollingWriter(TemplateTarget(template(tmp_path))) as out:
        out.write(a_sample(0))
        assert scratch.stat().st_size == 0
        stopped.at += growing.FLUSH_S
        out.write(a_sample(1))
        assert len(keys(scratch)) == 2
        out.write(a_sample(2, growing.LARGE_BYTES - 1))
        assert len(keys(scratch)) == 2
        for number in range(3, 20):
            out.write(a_sample(number, growing.LARGE_BYTES - 1))
        assert len(keys(scratch)) > 2


def test_a_write_that_fails_is_undone_and_the_writer_goes_on(
    store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        out.write(a_sample(0))
        monkeypatch.setattr(growing, "FLUSH_S", 0)
        store.fails = disk_is_full
        with pytest.raises(StoreUnavailable):
            out.write(a_sample(1))
        store.fails = lambda _: None
        out.write(a_sample(1))
        out.write(a_sample(2))
    assert keys(out.shards[0]) == ["00000", "00001", "00002"]
    assert out.samples == 3


def test_a_store_that_comes_and_goes_loses_only_what_was_refused(
    store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "FLUSH_BYTES", 3000)
    refused = []
    target = HashingTarget(template(tmp_path))
    with RollingWriter(target) as out:
        for number in range(60):
            store.fails = disk_is_full if number % 20 < 10 else lambda _: None
            try:
                out.write(a_sample(number))
            except StoreUnavailable:
                refused.append(f"{number:05d}")
        store.fails = lambda _: None
    assert refused
    assert keys(out.shards[0]) == [key for key in map("{:05d}".format, range(60)) if key not in refused]
    assert out.samples == 60 - len(refused)
    index = (tmp_path / "x-000000.idx").read_text().splitlines()
    assert [line.split()[3] for line in index[1:]] == [name for name, _ in members(out.shards[0])]
    assert target.closed is not None
    assert target.closed.sha256 == hashlib.sha256(Path(out.shards[0]).read_bytes()).hexdigest()


def test_a_forked_child_hears_that_the_writer_is_its_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "FLUSH_BYTES", 0)
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        out.write(a_sample(0))
        child = os.fork()
        if not child:
            try:
                out.write(a_sample(1))
                out.close()
            except UsageError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        out.write(a_sample(2))
    assert keys(out.shards[0]) == ["00000", "00002"]


def test_close_publishes_what_fits_and_says_how_much_did_not(store: FaultyStore, tmp_path: Path) -> None:
    target = HashingTarget(template(tmp_path))
    out = RollingWriter(target)
    for number in range(10):
        out.write(a_sample(number))
    # All at once does not fit; four samples do, each written with room for the index and then without.
    plan = iter([True] + [False] * 8 + [True] * 9)

    def fails(operation: Operation) -> BaseException | None:
        full = operation.kind == "draft.write" and operation.bytes > len(END_MARK) and next(plan)
        return StoreUnavailable("the disk is full") if full else None

    store.fails = fails
    with pytest.raises(StoreUnavailable, match="last 6 samples"):
        out.close()
    assert keys(out.shards[0]) == [f"{number:05d}" for number in range(4)]
    assert (out.samples, out.sealed) == (4, 4)
    assert parse_index((tmp_path / "x-000000.idx").read_bytes(), "x").samples == 4
    assert target.closed is not None
    assert target.closed.sha256 == hashlib.sha256(Path(out.shards[0]).read_bytes()).hexdigest()
    out.close()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("kind", ["draft.sync", "create", "draft.publish", "sync", "delete", "put"])
def test_a_publication_that_broke_off_anywhere_is_completed_by_the_next_try(
    kind: str, lost: bool, force: bool, store: FaultyStore, tmp_path: Path
) -> None:
    if force:
        (tmp_path / "x-000000.tar").write_bytes(b"old")
        (tmp_path / "x-000000.idx").write_bytes(b"old")
    out = RollingWriter(TemplateTarget(template(tmp_path), force=force))
    out.write(a_sample(0))
    plan = iter([True])

    def breaks(operation: Operation) -> BaseException | None:
        return StoreUnavailable("broke off") if operation.kind == kind and next(plan, False) else None

    if lost and kind != "draft.publish":  # a store's draft repeats its own requests
        store.loses = breaks
    else:
        store.fails = breaks
    with suppress(StoreUnavailable):
        out.close()
    out.close()
    assert keys(out.shards[0]) == ["00000"]
    assert parse_index((tmp_path / "x-000000.idx").read_bytes(), "x").samples == 1
    assert names(tmp_path) == ["x-000000.idx", "x-000000.tar"]


def test_close_may_be_tried_again(store: FaultyStore, tmp_path: Path) -> None:
    out = RollingWriter(TemplateTarget(template(tmp_path)))
    out.write(a_sample(0))
    store.fails = lambda operation: StoreUnavailable("full") if operation.kind == "create" else None
    with pytest.raises(StoreUnavailable):
        out.close()
    assert names(tmp_path) == ["x-000000.tar.partial"]
    store.fails = lambda _: None
    out.close()
    assert keys(out.shards[0]) == ["00000"]


def test_a_block_whose_shard_cannot_be_published_leaves_its_scratch(
    store: FaultyStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.fails = lambda operation: StoreUnavailable("full") if operation.kind == "create" else None
    with pytest.raises(StoreUnavailable), RollingWriter(TemplateTarget(template(tmp_path))) as out:
        out.write(a_sample(0))
    assert keys(tmp_path / "x-000000.tar.partial") == ["00000"]
    assert "*.partial" in caplog.text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def fill(out: RollingWriter, payload: bytes) -> tuple[int, StoreUnavailable]:
    """Write until the disk is full; tell how many samples were taken."""
    for number in range(1000):
        try:
            out.write({"__key__": str(number), "bin": payload, "cls": str(number).encode()})
        except StoreUnavailable as error:
            return number, error
    raise AssertionError("the disk is never full")


def filled(count: int, payload: bytes) -> list[tuple[str, bytes]]:
    pairs = ([(f"{n}.bin", payload), (f"{n}.cls", str(n).encode())] for n in range(count))
    return [member for pair in pairs for member in pair]


@pytest.mark.parametrize("size", [100, 3000, 30_000, 100_000])
def test_on_a_disk_that_fills_whole_samples_are_published_and_no_half_shard(
    size: int, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "FLUSH_BYTES", 200_000)
    with suppress(OSError):
        (small_disk / "ballast").write_bytes(bytes(40_000))
    payload = random.Random(0).randbytes(size)
    with RollingWriter(TemplateTarget(template(small_disk))) as out:
        taken, error = fill(out, payload)
        assert error.url == f"{small_disk}/x-000000.tar"
        assert "full" in error.message
        before = names(small_disk)
        with suppress(StoreUnavailable):
            out.close()
        (small_disk / "ballast").unlink()
        with suppress(StoreUnavailable):
            out.close()
    assert before == ["ballast", "x-000000.tar.partial"]
    assert names(small_disk) == ["x-000000.idx", "x-000000.tar"]
    assert members(out.shards[0]) == filled(out.sealed, payload)
    assert 800_000 < out.bytes < 2**20
    assert out.samples == out.sealed <= taken


def test_a_folder_that_cannot_be_written_is_access_denied(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with (
        pytest.raises(AccessDenied, match="read-only"),
        RollingWriter(TemplateTarget(template(small_disk))) as out,
    ):
        out.write(a_sample(0))


CHILD = """
import sys
from wlshard.shards.writer import RollingWriter, TemplateTarget
out = RollingWriter(TemplateTarget(sys.argv[1]))
for n in range(10**6):
    out.write({"__key__": f"{n:06d}", "bin": bytes([n % 256]) * 70_000, "cls": n})
    if n == 20:
        print("twenty", flush=True)
"""


def test_kill_9_leaves_a_scratch_whose_whole_samples_can_be_read_and_the_next_start_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD, template(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"twenty\n"
        child.send_signal(signal.SIGKILL)
    (scratch,) = tmp_path.glob("x-*.partial")
    found = []
    with tarfile.open(scratch) as tar, suppress(tarfile.ReadError):
        for member in tar:
            stream = tar.extractfile(member)
            assert stream is not None
            found.append((member.name, stream.read()))
    whole = found[: len(found) // 2 * 2 - 2]  # the last one may be torn
    assert len(whole) >= 2 * 20
    assert whole == [
        member
        for n in range(len(whole) // 2)
        for member in ((f"{n:06d}.bin", bytes([n % 256]) * 70_000), (f"{n:06d}.cls", str(n).encode()))
    ]
    with RollingWriter(TemplateTarget(template(tmp_path))) as out:
        out.write({"json": json.dumps("again").encode()})
    assert names(tmp_path)[-2:] == ["x-000000.idx", "x-000000.tar"]
    assert "left by a writer that died" in caplog.text


def test_any_error_is_one_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WlshardError), RollingWriter(TemplateTarget(f"{tmp_path}/file/x-%d.tar")) as out:
        out.write(a_sample(0))
