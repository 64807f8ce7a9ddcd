"""Runs of samples through an index; shards without one; indexes that lie."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from tars import END, header, member, pax, simple

from wlshard.errors import GroupingError, NotFound, TarError, UsageError
from wlshard.shards import access, scanned, spans
from wlshard.shards.access import ShardAccess
from wlshard.shards.reader import read_samples
from wlshard.shards.tally import Tally
from wlshard.shards.writer import RollingWriter, TemplateTarget
from wlshard.store.connect import connect


@pytest.fixture(autouse=True, params=["read", "mapped"])
def mapping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """All of it holds in a worker, too, where long runs are not copied; here all runs are long."""
    if request.param == "mapped":
        monkeypatch.setattr(spans, "is_reader", lambda: True)
        monkeypatch.setattr(spans, "MAP_BYTES", 1)
        monkeypatch.setattr(spans, "MAP_SAMPLE_BYTES", 1)
    return request.param == "mapped"


@pytest.fixture
def shard(tmp_path: Path) -> str:
    """Twenty samples of ours, with their index."""
    with RollingWriter(TemplateTarget(str(tmp_path / "x-%06d.tar"))) as writer:
        for i in range(20):
            writer.write({"__key__": f"k{i:03d}", "bin": os.urandom(i * 300), "txt": b"t%d" % i})
    return writer.shards[0]


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


@pytest.fixture
def write(tmp_path: Path):
    def put(*parts: bytes, end: bytes = END) -> str:
        path = tmp_path / "t.tar"
        path.write_bytes(b"".join(parts) + end)
        return str(path)

    return put


def plain(samples) -> list[dict[str, object]]:
    return [{k: v if k.startswith("__") else bytes(v) for k, v in sample.items()} for sample in samples]


def index_of(url: str) -> Path:
    return Path(url).with_suffix(".idx")


@pytest.mark.parametrize("indexed", [True, False])
def test_every_run_is_what_reading_gives(shard: str, cache: str, indexed: bool) -> None:
    if not indexed:
        index_of(shard).unlink()
    whole = plain(read_samples(shard))
    with ShardAccess(shard, cache) as opened:
        assert opened.samples == 20
        assert opened.seekable
        for first in range(21):
            for count in range(21 - first):
                assert plain(opened.read(first, count)) == whole[first : first + count]
            assert plain(opened.stream(first)) == whole[first:]


def test_a_run_is_one_open_and_one_ranged_read(
    shard: str, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = ShardAccess(shard, cache)
    assert opened.samples == 20
    calls: list[tuple[int, int]] = []
    original = ShardAccess._open

    class Watch:
        def __init__(self, reader) -> None:
            self.reader, self.bytes = reader, reader.bytes

        def readinto(self, target) -> int:
            calls.append((len(target), self.reader.readinto(target)))
            return calls[-1][1]

        def __enter__(self):
            return self

        def __exit__(self, *_) -> None:
            self.reader.close()

    monkeypatch.setattr(ShardAccess, "_open", lambda self, at, end: Watch(original(self, at, end)))
    samples = opened.read(3, 5)
    starts = opened._look().starts
    # The run itself, then the header that follows it.
    assert [got for _, got in calls] == [starts[8] - starts[3], 512]
    assert len(samples) == 5
    opened.close()


def test_views_of_a_run_stay_as_they_are_while_others_are_read(shard: str, cache: str) -> None:
    with ShardAccess(shard, cache) as opened:
        runs = [(opened.read(i, 3), plain(opened.read(i, 3))) for i in range(17) for _ in range(5)]
        assert all(plain(run) == expected for run, expected in runs)


def test_outside_the_shard_is_a_usage_error(shard: str, cache: str) -> None:
    with ShardAccess(shard, cache) as opened:
        for first, count in ((-1, 1), (0, 21), (20, 1), (5, -1)):
            with pytest.raises(UsageError):
                opened.read(first, count)
        with pytest.raises(UsageError):
            list(opened.stream(21))


def test_what_a_scan_finds_is_kept_away_from_the_shard(
    write, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = write(simple(6), end=b"")
    folder = set(os.listdir(Path(url).parent))
    assert ShardAccess(url, cache).samples == 6
    assert set(os.listdir(Path(url).parent)) - folder == {"cache"}
    assert len(os.listdir(cache)) == 1
    monkeypatch.setattr(scanned, "_scan", lambda *_: pytest.fail("scanned again"))
    with ShardAccess(url, cache) as opened:
        assert plain(opened.read(2, 4)) == plain(read_samples(url))[2:]


def test_a_changed_shard_is_scanned_again(write, cache: str) -> None:
    assert ShardAccess(write(simple(6), end=b""), cache).samples == 6
    assert ShardAccess(write(simple(3), end=b""), cache).samples == 3


@pytest.mark.parametrize("damage", [b"", b"garbage", b"wlshard scan 1\n" + bytes(12)])
def test_a_damaged_cache_is_not_believed(write, cache: str, damage: bytes) -> None:
    url = write(simple(6), end=b"")
    assert ShardAccess(url, cache).samples == 6
    place = Path(cache) / os.listdir(cache)[0]
    whole = place.read_bytes()
    place.write_bytes(damage)
    assert ShardAccess(url, cache).samples == 6
    assert place.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(write, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with ShardAccess(write(simple(6), end=b""), str(tmp_path / "file" / "sub")) as opened:
        assert len(opened.read(0, 6)) == 6


def test_the_cache_lies_in_the_users_cache_folder(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert ShardAccess(write(simple(2), end=b"")).samples == 2
    assert len(os.listdir(tmp_path / "xdg" / "wlshard" / "index")) == 1


def test_large_payloads_are_not_read_by_a_scan(tmp_path: Path, cache: str) -> None:
    path = tmp_path / "big.tar"
    with open(path, "wb") as file:
        for i in range(4):
            file.write(header(b"%d.bin" % i, 1 << 28))
            file.seek(1 << 28, os.SEEK_CUR)  # a hole: reading it would take a while
        file.write(END)
    read_before = _bytes_read()
    assert ShardAccess(str(path), cache).samples == 4
    assert _bytes_read() - read_before < 1 << 21


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_shards_with_folders_pax_headers_and_links_between(write, cache: str) -> None:
    url = write(
        header(b"d/", kind=b"5"),
        pax(path="d/" + "a" * 200 + ".x"),
        member(b"short", b"1"),
        member(b"d/.hidden"),
        member(b"d/b.x", b"2"),
        pax(mtime="1.5"),
        member(b"d/c.x", b"3"),
        header(b"d/e.x", kind=b"1", link=b"d/b.x"),
        header(b"d/f/", kind=b"5"),
    )
    whole = plain(read_samples(url))
    assert [s["x"] for s in whole] == [b"1", b"2", b"3", b"2"]
    with ShardAccess(url, cache) as opened:
        assert opened.samples == 4
        for first in range(4):
            assert plain(opened.read(first, 1)) == whole[first : first + 1]


@pytest.mark.parametrize("pack", [gzip.compress])
def test_a_compressed_local_shard_counts_and_streams(tmp_path: Path, cache: str, pack, monkeypatch) -> None:
    path = tmp_path / "t.tgz"
    path.write_bytes(pack(simple(7)))
    with ShardAccess(str(path), cache) as opened:
        assert not opened.seekable
        assert opened.samples == 7
        assert [s["__key__"] for s in opened.stream(5)] == ["0005", "0006"]
        with pytest.raises(UsageError, match="only streams"):
            opened.read(0, 1)
    monkeypatch.setattr(scanned, "read_samples", lambda *_, **__: pytest.fail("counted again"))
    assert ShardAccess(str(path), cache).samples == 7


def test_stdin_neither_counts_nor_seeks() -> None:
    opened = ShardAccess("-")
    assert opened.samples is None
    assert not opened.seekable


def test_a_remote_shard_needs_an_index_to_count(cache: str) -> None:
    store = connect("memory://access")
    store.put("t.tar", simple(5))
    opened = ShardAccess("memory://access/t.tar", cache)
    assert opened.samples is None
    assert not opened.seekable
    assert [s["__key__"] for s in opened.stream(3)] == ["0003", "0004"]
    assert not os.path.exists(cache)


def test_a_remote_shard_with_an_index_gives_runs(shard: str, cache: str) -> None:
    store = connect("memory://indexed")
    store.put("x.tar", Path(shard).read_bytes())
    store.put("x.idx", index_of(shard).read_bytes())
    with ShardAccess("memory://indexed/x.tar", cache) as opened:
        assert opened.samples == 20
        assert [s["__key__"] for s in opened.read(7, 2)] == ["k007", "k008"]


def test_a_missing_shard_is_said(tmp_path: Path, cache: str) -> None:
    with pytest.raises(NotFound):
        ShardAccess(str(tmp_path / "none.tar"), cache).samples  # noqa: B018


def test_a_shard_that_goes_away_is_said(shard: str, cache: str) -> None:
    with ShardAccess(shard, cache) as opened:
        assert opened.samples == 20
        os.unlink(shard)
        with pytest.raises(NotFound):
            opened.read(0, 1)


def rewrite(url: str, change) -> None:
    lines = index_of(url).read_bytes().splitlines()
    lines = change(lines)
    lines[0] = b"v1.2 %d" % (len(lines) - 1)
    index_of(url).write_bytes(b"\n".join(lines) + b"\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:-1],  # a sample is missing at the end
        lambda lines: lines[:5] + lines[6:],  # and in the middle
        lambda lines: [*lines[:5], lines[5] + b" " + lines[6], *lines[7:]],  # two are called one
        lambda lines: [*lines[:5], lines[5].split(b" txt ")[0], *lines[6:]],  # a member is missing
    ],
)
def test_an_index_that_disagrees_is_an_error(shard: str, cache: str, change) -> None:
    rewrite(shard, change)
    with ShardAccess(shard, cache) as opened:
        assert opened.samples is not None
        with pytest.raises(TarError, match="index") as caught:
            _read_one_by_one(opened)
        assert caught.value.url == shard


def test_an_index_with_the_right_count_and_wrong_places_is_an_error(shard: str, cache: str) -> None:
    def change(lines: list[bytes]) -> list[bytes]:
        halves = lines[9].partition(b" txt ")
        return [
            *lines[:5],
            lines[5] + b" " + lines[6],
            *lines[7:9],
            halves[0],
            b"txt " + halves[2],
            *lines[10:],
        ]

    rewrite(shard, change)
    with ShardAccess(shard, cache) as opened:
        assert opened.samples == 20
        with pytest.raises(TarError, match="index"):
            opened.read(2, 12)


def _read_one_by_one(opened: ShardAccess) -> None:
    for i in range(opened.samples or 0):
        opened.read(i, 1)


def test_an_index_that_splits_a_sample_is_an_error(write, cache: str) -> None:
    url = write(member(b"a.x", b"1"), member(b"a.y", b"2"), member(b"b.x", b"3"))
    index_of(url).write_bytes(b"v1.2 3\nx 512 1 a.x\ny 1536 1 a.y\nx 2560 1 b.x\n")
    with ShardAccess(url, cache) as opened, pytest.raises(TarError, match="cuts a sample in two"):
        opened.read(0, 1)


def test_an_index_of_another_shard_is_an_error(shard: str, write, cache: str) -> None:
    url = write(simple(200), end=b"")
    index_of(url).write_bytes(index_of(shard).read_bytes())
    with ShardAccess(url, cache) as opened, pytest.raises(TarError, match="index"):
        opened.read(3, 2)


def test_an_index_longer_than_its_shard_is_an_error(shard: str, write, cache: str) -> None:
    url = write(simple(2), end=b"")
    index_of(url).write_bytes(index_of(shard).read_bytes())
    with pytest.raises(TarError, match="index"):
        ShardAccess(url, cache).samples  # noqa: B018


def test_an_index_that_announces_too_few_is_noticed_by_streaming(shard: str, cache: str) -> None:
    rewrite(shard, lambda lines: lines[:-3])
    with ShardAccess(shard, cache) as opened, pytest.raises(TarError, match="index"):
        list(opened.stream(5))


def test_a_shard_cut_behind_its_last_member_is_an_error_at_the_last_run(shard: str, cache: str) -> None:
    data = Path(shard).read_bytes()
    with ShardAccess(shard, cache) as opened:
        assert opened.samples == 20
        os.truncate(shard, len(data) - 1024)
        assert len(opened.read(0, 3)) == 3
        with pytest.raises(TarError, match="end mark"):
            opened.read(18, 2)


def test_every_cut_of_a_shard_is_an_error_whatever_is_read_first(tmp_path: Path, cache: str) -> None:
    data = simple(2)
    path = tmp_path / "t.tar"
    for cut in range(0, len(data), 37):
        path.write_bytes(data[:cut])
        with pytest.raises(TarError):
            ShardAccess(str(path), cache).samples  # noqa: B018


def test_a_scan_is_as_strict_as_reading(write, cache: str) -> None:
    with pytest.raises(GroupingError):
        ShardAccess(write(member(b"a.x"), member(b"b.x"), member(b"a.x")), cache).samples  # noqa: B018
    assert not os.path.exists(cache)


def test_skipping_leaves_out_what_a_scan_finds_damaged(write, cache: str) -> None:
    data = bytearray(simple(8))
    sample_bytes = (len(data) - 1024) // 8
    data[3 * sample_bytes + 2] ^= 1
    url = write(bytes(data[:-1024]), member(b"0001.x", b"again"), member(b"9.x", b"last"))
    tally = Tally()
    whole = plain(read_samples(url, on_error="skip"))
    assert [s["__key__"] for s in whole] == ["0000", "0001", "0004", "0005", "0006", "0007", "9"]
    with ShardAccess(url, cache, on_error="skip", tally=tally) as opened:
        assert opened.samples == 7
        assert tally.faults == 2
        for first in range(7):
            for count in range(8 - first):
                assert plain(opened.read(first, count)) == whole[first : first + count]
        assert tally.faults == 2
    assert not os.path.exists(cache)


def test_read_ahead_is_asked_for_once_a_megabyte(
    shard: str, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, at, size, advice: asked.append((at, size)))
    with ShardAccess(shard, cache) as opened:
        for i in range(20):
            opened.read(i, 1)
        ends = opened._look().starts
    assert len(asked) == 1
    assert asked[0][0] == ends[1]
    assert asked[0][1] >= access.READ_AHEAD_BYTES


def test_the_index_of_real_shards_counts_right(test_data: Path, cache: str) -> None:
    for path, count in (
        ("mpdata.tar", 100),
        ("compressed.tar", 3),
        ("photos-000000.tar", 50),
        ("sample.tgz", 90),
    ):
        with ShardAccess(str(test_data / path), cache) as opened:
            assert opened.samples == count
            assert opened.seekable == (not path.endswith("tgz"))
            whole = plain(read_samples(str(test_data / path)))
            if opened.seekable:
                assert plain(opened.read(1, 2)) == whole[1:3]
            assert plain(opened.stream(2)) == whole[2:]


def test_long_runs_of_local_shards_are_mapped_in_workers_alone(shard: str, cache: str, mapping: bool) -> None:
    with ShardAccess(shard, cache) as opened:
        opened.read(0, 20)
        held = [opened.read(number, 1) for number in range(20)]
        assert sum(one() is not None for one in spans._maps) == (20 if mapping else 0)
        held.clear()
        assert all(one() is None for one in spans._maps)


def test_no_more_runs_are_mapped_than_there_may_be_descriptors(
    shard: str, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "_MAPS", 3)
    whole = plain(read_samples(shard))
    with ShardAccess(shard, cache) as opened:
        held = [opened.read(number, 1)[0] for number in range(20)]
        assert sum(one() is not None for one in spans._maps) <= 3
        assert plain(held) == whole
