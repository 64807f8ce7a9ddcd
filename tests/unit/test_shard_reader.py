"""Samples of a shard as it is read: grouping, strictness, going on behind damage."""

from __future__ import annotations

import gzip
import logging
import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tars import END, Bytes, header, made_by_tarfile, member, simple

from wlshard.errors import GroupingError, NotFound, TarError, TooManyBadSamples, UsageError
from wlshard.sample import split_name
from wlshard.shards.grouping import Grouper, split_raw
from wlshard.shards.keys import Keys
from wlshard.shards.reader import read_samples
from wlshard.shards.tally import Tally
from wlshard.tar.reader import scan


@pytest.fixture
def shard(tmp_path: Path):
    def write(*parts: bytes, end: bytes = END) -> str:
        path = tmp_path / "t.tar"
        path.write_bytes(b"".join(parts) + end)
        return str(path)

    return write


def keys(url: str, **keywords: object) -> list[str]:
    return [sample["__key__"] for sample in read_samples(url, **keywords)]


def plain(url: str, **keywords: object) -> list[dict[str, object]]:
    return [
        {name: value if name.startswith("__") else bytes(value) for name, value in sample.items()}
        for sample in read_samples(url, **keywords)
    ]


def test_adjacent_members_with_one_key_are_a_sample(shard) -> None:
    url = shard(member(b"d/1.left.PNG", b"l"), member(b"d/1.cls", b"5"), member(b"d/2.cls"))
    assert plain(url) == [
        {"__key__": "d/1", "__url__": url, "left.png": b"l", "cls": b"5"},
        {"__key__": "d/2", "__url__": url, "cls": b""},
    ]


def test_fields_are_read_only_views_or_bytes(shard) -> None:
    url = shard(simple(2), end=b"")
    assert all(isinstance(s["jpg"], memoryview) and s["jpg"].readonly for s in read_samples(url))
    assert all(type(s["jpg"]) is bytes for s in read_samples(url, copy=True))
    assert plain(url) == plain(url, copy=True)


def test_dots_belong_to_the_field_from_the_first_on(shard) -> None:
    url = shard(member(b"v1.0.jpg", b"a"), member(b"v1.1.jpg", b"b"))
    assert plain(url)[0].keys() == {"__key__", "__url__", "0.jpg", "1.jpg"}


def test_a_folder_with_a_dot_is_not_taken_for_a_field(shard) -> None:
    url = shard(member(b"a.x", b"1"), member(b"a.b/c.x", b"2"), member(b"a.b/c.y", b"3"))
    assert [(s["__key__"], set(s)) for s in plain(url)] == [
        ("a", {"__key__", "__url__", "x"}),
        ("a.b/c", {"__key__", "__url__", "x", "y"}),
    ]


def test_a_leading_dot_slash_is_stripped(shard) -> None:
    url = shard(member(b"./a.x", b"1"), member(b"a.y", b"2"), member(b"././b.x"))
    assert keys(url) == ["a", "b"]


def test_keys_that_begin_alike_are_not_one(shard) -> None:
    assert keys(shard(member(b"1.x"), member(b"11.x"), member(b"1_.x"))) == ["1", "11", "1_"]


def test_what_belongs_to_no_sample_is_passed_over_and_counted(shard) -> None:
    url = shard(
        header(b"d/", kind=b"5"),
        member(b"d/a.x", b"1"),
        member(b"d/._a.x", b"mac"),
        member(b"d/.DS_Store"),
        member(b"README"),
        member(b"ends."),
        header(b"d/l.x", kind=b"2", link=b"a.x"),
        member(b"d/a.y", b"2"),
    )
    tally = Tally()
    assert [set(s) for s in read_samples(url, tally=tally)] == [{"__key__", "__url__", "x", "y"}]
    assert tally.passed_over == {
        "directories": 1,
        "AppleDouble files": 1,
        "dotfiles": 1,
        "names without a field": 2,
        "symlinks": 1,
    }
    assert (tally.samples, tally.faults, tally.dropped) == (1, 0, 0)


def test_names_split_as_everywhere_else() -> None:
    for name in (
        "a.x",
        "d/a.b.c",
        "a",
        ".a",
        "a.",
        "d.e/f",
        "d.e/f.g",
        "d/.x",
        "ümlaut.TXT",
        "._a.x",
        "a..x",
    ):
        raw = split_raw(name.encode())
        ours = raw and (raw[0].decode(), name.encode()[raw[1] :].decode().lower())
        assert ours == split_name(name), name


@pytest.mark.parametrize("order", [b"abca", b"cabc", b"abab"])
def test_a_key_that_comes_back_is_an_error_with_its_place(shard, order: bytes) -> None:
    url = shard(*(member(b"%c.x" % key, b"1") for key in order))
    samples = read_samples(url)
    found = []
    with pytest.raises(GroupingError) as caught:
        found.extend(sample["__key__"] for sample in samples)
    back = next(i for i in range(len(order)) if order[i] in order[:i])
    assert found == [chr(key) for key in order[:back]]
    assert caught.value.key == chr(order[back])
    assert caught.value.offset == back * 1024
    assert caught.value.url == url


def test_a_field_that_is_there_twice_is_an_error(shard) -> None:
    with pytest.raises(GroupingError, match="twice") as caught:
        keys(shard(member(b"a.jpg", b"1"), member(b"a.cls", b"1"), member(b"a.JPG", b"2")))
    assert (caught.value.key, caught.value.member, caught.value.offset) == ("a", "a.JPG", 2048)


def test_a_field_cannot_pose_as_the_key(shard) -> None:
    with pytest.raises(GroupingError):
        keys(shard(member(b"a.__key__", b"evil")))


NAMES = [
    b"-ab.x",
    b"d/.x",
    b"a.x",
    b"b.x",
    b"b.y",
    b"c.X",
    b"./d.x",
    b".//.x",
    b"./.x.y",
    b"z.x",
    b"ab.x",
    b"a/b.x",
    b"a.b/x",
    b"q\0.x",
    b"q.\0/.x",
]


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from(NAMES), max_size=9))
@example([b"-ab.x", b"b.y", b"d/.x", b"-ab.x"])
def test_any_members_make_the_samples_that_their_names_say(names: list[bytes]) -> None:
    data = b"".join(member(name, b"%d" % i) for i, name in enumerate(names)) + END
    expected: list[tuple[str, list[str]]] = []
    failed = False
    for name in names:
        shown = name.partition(b"\0")[0].decode()
        split = split_name(shown)
        if split is None:
            continue
        key = split[0]
        while key.startswith("./"):
            key = key[2:]
        if expected and expected[-1][0] == key:
            failed = split[1] in expected[-1][1]
            expected[-1][1].append(split[1])
        elif any(key == before for before, _ in expected):
            failed = True
        else:
            expected.append((key, [split[1]]))
        if failed:
            break
    grouper = Grouper("t", Tally()).samples(scan(Bytes(data), "t"))
    found = []
    try:
        found.extend((s["__key__"], [f for f in s if not f.startswith("__")]) for s in grouper)
    except GroupingError:
        assert failed
        assert found == expected[: len(found)]
        assert len(found) >= len(expected) - 1
    else:
        assert not failed
        assert found == expected


def test_a_consumer_that_keeps_nothing_has_large_payloads_read_into_the_same_memory(shard) -> None:
    url = shard(*(member(b"%02d.%s" % (i, f), bytes(3 << 20)) for i in range(8) for f in (b"img", b"seg")))
    areas = set()
    for _ in map(lambda s: areas.update(id(s[f].obj) for f in ("img", "seg")), read_samples(url)):  # noqa: C417
        pass
    assert len(areas) == 2


def test_keys_that_come_back_are_noticed_in_either_order() -> None:
    ascending, not_ascending = Keys(), Keys()
    for i in range(20_000):
        assert ascending.add(b"%09d" % i)
        assert not_ascending.add(b"%d" % i)
    assert not ascending.add(b"%09d" % 77)
    assert not not_ascending.add(b"7")


def test_keys_in_any_order_are_told_apart() -> None:
    order = random.Random(3).sample(range(30_000), 30_000)
    keys_seen = Keys()
    assert all(keys_seen.add(b"%d" % i) for i in order)
    assert not any(keys_seen.add(b"%d" % i) for i in order)


@pytest.mark.parametrize("ascending", [True, False])
def test_keys_take_less_than_128_bytes_even_at_the_peak(ascending: bool) -> None:
    count = 40_000
    keys_seen = Keys()
    tracemalloc.start()
    for i in range(count):
        keys_seen.add(b"%09d" % (i if ascending else i * 7919 % count))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < count * (20 if ascending else 100)


def test_every_cut_is_an_error_and_loses_no_whole_sample_before_it(shard) -> None:
    data = simple(2)
    url = shard(data, end=b"")
    all_keys = keys(url)
    sample_bytes = (len(data) - 1024) // 2
    for cut in reversed(range(len(data))):
        os.truncate(url, cut)
        found: list[str] = []
        samples = read_samples(url)
        with pytest.raises(TarError):
            found.extend(sample["__key__"] for sample in samples)
        # A sample is given once the next header has been seen whole.
        assert found == all_keys[: max(0, min(1, (cut - 512) // sample_bytes))], cut


def test_a_sample_is_not_whole_before_something_follows_it(shard) -> None:
    url = shard(member(b"a.x", b"1"), member(b"b.x", b"2"), end=b"")
    tally = Tally()
    assert keys(url, on_error="skip", tally=tally) == ["a"]
    assert (tally.faults, tally.dropped) == (1, 1)


def test_the_end_mark_makes_the_last_sample_whole(shard) -> None:
    tally = Tally()
    assert keys(shard(simple(2), simple(0), b"junk".ljust(512), end=b""), on_error="skip", tally=tally) == [
        "0000",
        "0001",
    ]
    assert (tally.faults, tally.dropped) == (2, 0)


def damaged(data: bytes, at: int) -> bytes:
    return data[: at + 3] + bytes([data[at + 3] ^ 1]) + data[at + 4 :]


def test_damage_costs_the_samples_on_both_its_sides_and_no_other(
    shard, caplog: pytest.LogCaptureFixture
) -> None:
    data = simple(6)
    sample_bytes = (len(data) - 1024) // 6
    tally = Tally()
    with caplog.at_level(logging.WARNING):
        url = shard(damaged(data, 2 * sample_bytes), end=b"")  # the first header of the third sample
        assert keys(url, on_error="skip", tally=tally) == ["0000", "0003", "0004", "0005"]
    assert (tally.faults, tally.dropped, tally.samples) == (1, 2, 4)
    assert str(2 * sample_bytes) in caplog.text


def test_damage_inside_a_sample_costs_that_sample(shard) -> None:
    data = simple(5)
    inside = 2 * (len(data) - 1024) // 5 + 1024  # the second header of the third sample
    assert keys(shard(damaged(data, inside), end=b""), on_error="skip") == ["0000", "0001", "0003", "0004"]


def test_a_member_too_large_costs_its_own_sample(shard) -> None:
    url = shard(member(b"a.x", b"1"), member(b"b.x", bytes(5000)), member(b"b.y"), member(b"c.x"))
    tally = Tally()
    assert keys(url, on_error="skip", tally=tally, max_member_bytes=4096) == ["a", "c"]
    assert (tally.faults, tally.dropped) == (1, 1)


def test_a_key_that_comes_back_is_left_out(shard) -> None:
    url = shard(member(b"a.x", b"1"), member(b"b.x", b"2"), member(b"a.x", b"3"), member(b"c.x", b"4"))
    tally = Tally()
    assert [(s["__key__"], s["x"]) for s in plain(url, on_error="skip", tally=tally)] == [
        ("a", b"1"),
        ("b", b"2"),
        ("c", b"4"),
    ]
    assert (tally.faults, tally.dropped) == (1, 1)


def test_concatenated_shards_are_read_through_when_skipping(shard) -> None:
    tally = Tally()
    other = member(b"1111.cls", b"x") + END
    assert keys(shard(simple(2), other, end=b""), on_error="skip", tally=tally) == ["0000", "0001", "1111"]
    assert (tally.faults, tally.dropped) == (1, 0)


def test_a_hundred_failures_in_a_row_stop_it(shard) -> None:
    bad = [member(b"a.x")] + [member(b"b.x"), member(b"a.x")] * 60
    with pytest.raises(TooManyBadSamples, match="100 failures"):
        keys(shard(*bad), on_error="skip")
    mixed = [member(b"a.x")] + [part for i in range(300) for part in (member(b"%04d.y" % i), member(b"a.x"))]
    tally = Tally()
    assert len(keys(shard(*mixed), on_error="skip", tally=tally)) == 301
    assert tally.faults == 300


def test_many_faults_are_not_told_one_by_one(shard, caplog: pytest.LogCaptureFixture) -> None:
    mixed = [member(b"a.x")] + [part for i in range(60) for part in (member(b"%04d.y" % i), member(b"a.x"))]
    keys(shard(*mixed), on_error="skip")
    assert len(caplog.records) == 20
    assert "no more" in caplog.records[-1].message


def test_payload_views_outlive_the_reading(shard) -> None:
    parts = [member(b"%05d.bin" % i, b"%05d" % i * 3000) for i in range(300)]
    held = list(read_samples(shard(*parts)))
    assert all(bytes(s["bin"]) == s["__key__"].encode() * 3000 for s in held)


def test_hard_links_in_a_local_shard_are_resolved_in_a_compressed_one_refused(shard, tmp_path: Path) -> None:
    data = member(b"a.x", b"1") + header(b"b.x", kind=b"1", link=b"a.x") + END
    assert [s["x"] for s in plain(shard(data, end=b""))] == [b"1", b"1"]
    packed = tmp_path / "t.tgz"
    packed.write_bytes(gzip.compress(data))
    with pytest.raises(TarError, match="hard link"):
        keys(str(packed))
    tally = Tally()
    assert keys(str(packed), on_error="skip", tally=tally) == ["a"]
    assert tally.dropped == 1


def test_compressed_shards_are_known_by_content(tmp_path: Path) -> None:
    path = tmp_path / "no-suffix"
    path.write_bytes(gzip.compress(simple(3)))
    assert keys(str(path)) == ["0000", "0001", "0002"]


def test_a_shard_in_memory_reads_alike() -> None:
    from wlshard.store.connect import connect

    connect("memory://read").put("t.tar", simple(3))
    assert keys("memory://read/t.tar") == ["0000", "0001", "0002"]


def test_a_missing_shard_is_said_by_name(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        keys(str(tmp_path / "none.tar"))


def test_an_unknown_policy_is_refused(shard) -> None:
    with pytest.raises(UsageError):
        keys(shard(), on_error="ignore")


def test_nothing_is_opened_before_the_first_sample_and_all_closed_when_dropped(shard) -> None:
    url = shard(simple(3), end=b"")
    before = len(os.listdir("/proc/self/fd"))
    samples = read_samples(url)
    assert len(os.listdir("/proc/self/fd")) == before
    next(samples)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    samples.close()
    assert len(os.listdir("/proc/self/fd")) == before


STDIN = """
from wlshard.shards.reader import read_samples
for sample in read_samples("-"):
    print(sample["__key__"], sample["__url__"])
"""


def test_stdin_is_read_in_the_pieces_that_come(tmp_path: Path) -> None:
    for data in (simple(3), gzip.compress(simple(3))):
        process = subprocess.Popen(
            [sys.executable, "-c", STDIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        for at in range(0, len(data), 777):
            process.stdin.write(data[at : at + 777])
            process.stdin.flush()
        assert process.communicate()[0].split() == [b"0000", b"-", b"0001", b"-", b"0002", b"-"]


def test_no_heavy_library_is_imported() -> None:
    code = (
        "import sys, wlshard.shards.reader, wlshard.shards.access; print([m for m in sys.modules if m in "
        "('numpy', 'torch', 'fsspec', 'webdataset', 'tarfile', 'zstandard', 'lz4', 'isal')])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"[]"
    )


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_same_samples_as_webdataset(tmp_path: Path, test_data: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    made = tmp_path / "made.tar"
    made.write_bytes(
        made_by_tarfile({f"s{i:03d}.{e}": os.urandom(99) for i in range(20) for e in ("a", "b.c")}, "pax")
    )
    for path in [made, *sorted(test_data.glob("*.tar")), test_data / "sample.tgz"]:
        theirs = []
        for sample in webdataset.WebDataset(str(path), shardshuffle=False):
            theirs.append({k: v for k, v in sample.items() if k == "__key__" or not k.startswith("__")})
        ours = [{k: v for k, v in sample.items() if k != "__url__"} for sample in plain(str(path))]
        assert ours == theirs
