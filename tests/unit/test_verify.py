"""Verifying shards: every fault with its place, and nothing that strict reading lets pass."""

from __future__ import annotations

import bz2
import gzip
import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tars import END, header, member, pax, simple
from test_tar_fuzz import SEEDS, edited, edits, shards

from wlshard.errors import NotFound, TarError, WlshardError
from wlshard.shards.access import ShardAccess
from wlshard.shards.indexing import write_index
from wlshard.shards.reader import read_samples
from wlshard.shards.verify import LISTED, ODD_KEY, Fault, Findings, verify
from wlshard.shards.writer import RollingWriter, TemplateTarget
from wlshard.store.connect import connect

MANY = settings(max_examples=300, deadline=None)


def put(folder: Path, data: bytes, name: str = "x.tar") -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


def found(folder: Path, data: bytes, name: str = "x.tar") -> list[Fault]:
    return verify([put(folder, data, name)]).faults


def places(faults: list[Fault]) -> list[tuple[str, int | None]]:
    return [(fault.kind, fault.offset) for fault in faults]


def bad(block: bytes) -> bytes:
    """The same header with a checksum that is wrong."""
    return bytes([block[0] ^ 1]) + block[1:]


A, B, C = (member(name + b".x", name * 600) for name in (b"a", b"b", b"c"))


def test_a_whole_shard_has_no_faults(tmp_path: Path) -> None:
    url = put(tmp_path, simple(3))
    whole = verify([url])
    assert (whole.samples, whole.faults) == (3, [])
    assert whole.notes == {"shards without an index": 1}
    write_index(url)
    assert verify([url]).notes == {}


def test_every_fault_of_a_shard_is_listed_with_its_place(tmp_path: Path) -> None:
    data = b"".join([
        member(b"a.x", b"1"), member(b"a.X", b"2"), bad(header(b"b.x", 600)), b"b" * 600 + bytes(424),
        member(b"c.x", b"3"), member(b"a.y", b"4"), END, member(b"d.x", b"5"),
    ])  # fmt: skip
    faults = found(tmp_path, data)
    assert places(faults) == [
        ("grouping", 1024),
        ("tar", 2048),
        ("grouping", 4608),
        ("tar", 6656),
        ("tar", 7680),
    ]
    twice, damaged, back, behind, cut = faults
    assert (twice.key, twice.member) == ("a", "a.X")
    assert "1536 bytes were passed over, reading goes on at byte 3584" in damaged.message
    assert back.key == "a"
    assert "after the end mark" in behind.message
    assert "no end mark" in cut.message
    assert {fault.url for fault in faults} == {str(tmp_path / "x.tar")}


@pytest.mark.parametrize("cut", [1, 511, 512, 1023, 1024])
def test_a_cut_is_found_also_at_a_members_edge_and_in_the_end_mark(tmp_path: Path, cut: int) -> None:
    assert len(found(tmp_path, (A + B + END)[:-cut])) == 1


def test_a_damaged_last_header_tells_how_much_could_not_be_read(tmp_path: Path) -> None:
    (fault,) = found(tmp_path, A + bad(B) + END)
    assert fault.offset == len(A)
    assert f"{len(B) + len(END)} bytes were passed over" in fault.message


def test_what_is_damaged_in_two_places_is_told_twice(tmp_path: Path) -> None:
    faults = found(tmp_path, A + bad(B) + C + bad(A) + member(b"d.x") + END)
    assert places(faults) == [("tar", len(A)), ("tar", len(A + B + C))]


def test_more_faults_than_are_listed_are_counted(tmp_path: Path) -> None:
    lots = LISTED + 7
    result = verify(
        [put(tmp_path, b"".join(bad(header(b"%d.x" % n)) + header(b"%d.y" % n) for n in range(lots)) + END)]
    )
    assert (len(result.faults), result.faults_omitted) == (LISTED, 7)
    assert not result.as_json()["ok"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_compressed_shards_are_checked_to_the_end_of_their_stream(tmp_path: Path, pack: object) -> None:
    noise = random.Random(1).randbytes(5000)
    whole = pack(member(b"a.x", noise) + END)
    assert found(tmp_path, whole) == []
    damaged = whole[:2500] + bytes([whole[2500] ^ 4]) + whole[2501:]
    for data in (whole[:-1], damaged, whole + b"rest"):
        assert [fault.kind for fault in found(tmp_path, data)][:1] == ["tar"], len(data)


def test_what_strict_reading_lets_pass_is_noted(tmp_path: Path) -> None:
    names = [b"../up.x", b"/abs.x", b"new\nline.x", b"._a.x", b".hidden", b"noext"]
    result = verify([put(tmp_path, b"".join(map(member, names)) + header(b"d/", kind=b"5") + END)])
    assert (result.samples, result.faults) == (3, [])
    del result.notes["shards without an index"]
    assert sum(result.notes.values()) == 7


def test_a_member_larger_than_allowed_is_a_fault_and_does_not_hide_others(tmp_path: Path) -> None:
    url = put(tmp_path, A + member(b"b.x", bytes(5000)) + bad(C) + END)
    faults = verify([url], max_member_bytes=4096).faults
    assert places(faults) == [("tar", len(A)), ("tar", len(A) + 512 + 5120)]
    assert faults[0].member is None or faults[0].member == "b.x"


def test_a_shard_that_is_not_there_is_a_fault_among_others_and_an_error_alone(tmp_path: Path) -> None:
    url, none = put(tmp_path, simple()), str(tmp_path / "none.tar")
    (fault,) = verify([url, none]).faults
    assert (fault.url, fault.kind) == (none, "store")
    with pytest.raises(NotFound):
        verify([none])


def test_the_samples_are_handed_on_until_enough_is_seen(tmp_path: Path) -> None:
    seen: list[dict[str, object]] = []

    def look(sample: dict[str, object]) -> bool:
        seen.append({name: bytes(value) if name == "x" else value for name, value in sample.items()})
        return len(seen) < 2

    url = put(tmp_path, A + B + C + END)
    verify([url], look=look)
    assert seen == [{**sample, "x": bytes(sample["x"])} for sample in read_samples(url)][:2]


def test_progress_counts_every_byte_once(tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    url = put(tmp_path, simple(40))
    verify([url, url], progress=lambda done, total: told.append((done, total)))
    size = 2 * len(simple(40))
    assert told[-1] == (size, size)


# the index

INDEX = b"v1.2 3\nx 512 600 a.x\nx 2048 600 b.x\nx 3584 600 c.x\n"


def index_faults(folder: Path, text: bytes) -> list[Fault]:
    (folder / "x.idx").write_bytes(text)
    faults = found(folder, A + B + C + END)
    assert {fault.kind for fault in faults} <= {"index"}
    return faults


@pytest.mark.parametrize(
    "text",
    [
        INDEX,
        INDEX.replace(b" a.x", b"").replace(b" b.x", b"").replace(b" c.x", b"").replace(b"v1.2", b"v1.1"),
        INDEX.replace(b"\nx", b"\nX").replace(b"a.x", b"./a.X"),
    ],
)
def test_an_index_that_is_right_has_no_faults(tmp_path: Path, text: bytes) -> None:
    assert index_faults(tmp_path, text) == []


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (INDEX.replace(b"2048 600", b"2048 601"), ["b"]),
        (INDEX.replace(b"600 b.x", b"600 B.x"), ["b"]),
        (INDEX.replace(b"x 2048", b"y 2048"), ["b"]),
        (INDEX.replace(b"x 2048 600 b.x", b"x 2560 600 b.x"), ["b", None]),
        (INDEX.replace(b"x 2048 600 b.x\n", b""), ["b", None]),
        (INDEX.replace(b"x 2048 600 b.x\n", b"").replace(b"v1.2 3", b"v1.2 2"), ["b"]),
        (INDEX + b"x 9728 1 d.x\n", [None, None]),
        (INDEX.replace(b"v1.2 3", b"v1.2 4"), [None]),
        (INDEX.replace(b"v1.2", b"v9"), [None]),
        (INDEX.replace(b"v1.2 3", b"v1.2 " + b"9" * 5000), [None]),
        (INDEX.replace(b"b.x\n", b"b.x y 3 4 b.y\n"), ["b"]),
        (INDEX.replace(b"x 2048 600 b.x\n", b"\n"), [None, "b"]),
        (b"", [None]),
        (b"\0" * 3000, [None]),
    ],
)
def test_an_index_that_disagrees_is_a_fault_for_each_sample(
    tmp_path: Path, text: bytes, keys: list[str | None]
) -> None:
    faults = index_faults(tmp_path, text)
    assert [fault.key for fault in faults] == keys
    if keys[0]:
        assert faults[0].offset == 2048


def test_fields_with_blanks_are_told_as_others_are(tmp_path: Path) -> None:
    (tmp_path / "x.idx").write_bytes(b"v1.2 1\nx 512 600 a.x\n")
    shard = b"".join(member(b"%d.a 5" % n, b"1") for n in range(3)) + END
    assert [(fault.kind, fault.offset) for fault in found(tmp_path, shard)] == [
        ("index", 512), ("index", 1536), ("index", 2560)
    ]  # fmt: skip


@pytest.mark.parametrize("key", [b"/%04d", b"d\x01%04d", b"d/%04d", b"d-%04d"])
def test_keys_that_are_odd_are_noted_one_by_one(tmp_path: Path, key: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(b"".join(member((key + b".x") % n, b"1") for n in range(20)) + END)
    odd = 0 if key.startswith((b"d/", b"d-")) else 20
    for _ in range(2):  # fields are known the second time
        assert verify([str(tmp_path / "x.tar")]).notes[ODD_KEY] == odd


# against strict reading


def strictly(url: str) -> bool:
    try:
        for _ in read_samples(url):
            pass
    except WlshardError:
        return False
    return True


def by_index(url: str) -> bool:
    try:
        with ShardAccess(url) as shard:
            for number in range(shard.samples or 0):
                shard.read(number, 1)
            list(shard.stream())
    except WlshardError:
        return False
    return True


def in_memory(data: bytes, index: bytes | None = None) -> str:
    store = connect("memory://verify")
    store.put("x.tar", data)
    if index is None:
        store.delete("x.idx")
    else:
        store.put("x.idx", index)
    return "memory://verify/x.tar"


@MANY
@given(shards, edits, st.booleans(), st.integers(0, 2000))
def test_there_are_faults_exactly_where_strict_reading_raises(
    which: int, changes: list[tuple[int, bytes]], checked: bool, cut: int
) -> None:
    data = edited(which, changes, checked=checked)
    for damaged in (data, SEEDS[which][:-cut], data[:-cut]):
        url = in_memory(damaged)
        assert strictly(url) == (not verify([url]).faults)


BLOCKS = [member(b"a.x", b"1"), member(b"b.x", b"2"), member(b"b.X", b"3"), pax(path="c.x"), bytes(512), END,
          member(b"._a.x"), bad(member(b"e.x")), header(b"g.x", 600)]  # fmt: skip


@MANY
@given(st.lists(st.sampled_from(BLOCKS), max_size=9), st.booleans(), st.sampled_from([bytes, gzip.compress]))
def test_so_it_is_with_members_in_any_order_compressed_or_not(
    blocks: list[bytes], ended: bool, pack: object
) -> None:
    url = in_memory(pack(b"".join(blocks) + END * ended))
    assert strictly(url) == (not verify([url]).faults)


@MANY
@given(edits, st.booleans())
def test_an_index_without_faults_is_one_that_reads(changes: list[tuple[int, bytes]], cut: bool) -> None:
    text = bytearray(INDEX)
    for place, new in changes[:2]:
        at = place % len(text)
        text[at : at + (not cut) * len(new)] = new
    url = in_memory(A + B + C + END, bytes(text))
    if not verify([url]).faults:
        assert by_index(url)


# memory


def test_a_million_members_take_little_memory(tmp_path: Path) -> None:
    count = 20_000
    with RollingWriter(TemplateTarget(f"{tmp_path}/x-%06d.tar"), shard_samples=count) as out:
        for number in range(count):
            out.write({"__key__": f"{number ^ 1:07d}", "x": b"1"})
    tracemalloc.start()
    result = verify(out.shards)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (result.samples, result.faults) == (count, [])
    assert peak < 8 << 20, peak  # 70 bytes a key, at most, and the members of a block or two


def test_faults_do_not_hold_the_blocks_they_were_found_in() -> None:
    error = TarError("x")
    try:
        raise error
    except TarError:
        Findings("x.tar").fault(error)
    assert error.__traceback__ is None
