"""Whatever the bytes: the same members as before, or an error that says where; no crash, no hang."""

from __future__ import annotations

import tracemalloc
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tars import END, Bytes, contents, header, made_by_tarfile, member, names_until_fault, pax, simple, walk

from wlshard.errors import TarError, TooManyBadSamples
from wlshard.shards.grouping import Grouper
from wlshard.shards.tally import Tally
from wlshard.tar.rare import text
from wlshard.tar.reader import MAX_MEMBER_BYTES, read_members, scan

SEEDS = [
    simple(3),
    made_by_tarfile({"a/b.txt": b"1" * 600, "n" * 120 + ".x": b"", "c.json": b"{}"}, "gnu"),
    made_by_tarfile({"a/b.txt": b"1" * 600, "n" * 120 + ".x": b"", "c.json": b"{}"}, "pax"),
    pax(GNU__sparse__size="900", GNU__sparse__map="100,60,800,4", GNU__sparse__name="s.x")
    + member(b"x", b"d" * 64)
    + END,
    header(b"d/", kind=b"5") + member(b"d/a.x", b"1") + header(b"l.x", kind=b"1", link=b"d/a.x") + END,
]
LONG = settings(max_examples=300, deadline=None)

places = st.integers(0, 1 << 16)
edits = st.lists(st.tuples(places, st.binary(min_size=1, max_size=12)), min_size=1, max_size=4)
shards = st.sampled_from(range(len(SEEDS)))


def edited(which: int, changes: list[tuple[int, bytes]], *, checked: bool) -> bytes:
    """Overwrite bytes; `checked`: give every header that was one a checksum that is right again."""
    data = bytearray(SEEDS[which])
    for place, new in changes:
        at = place % len(data)
        data[at : at + len(new)] = new[: len(data) - at]
    if checked:
        for at in range(0, len(data) - 511, 512):
            if data[at + 257 : at + 262] == b"ustar":
                data[at + 148 : at + 156] = b" " * 8
                data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


@LONG
@given(shards, edits)
def test_damage_in_headers_is_never_taken_for_something_else(
    which: int, changes: list[tuple[int, bytes]]
) -> None:
    data = edited(which, changes, checked=False)
    before, _ = names_until_fault(SEEDS[which])
    found, fault = names_until_fault(data)
    if fault is None:
        named_by_data = b"Pax" in data or b"LongLink" in data  # and data has no checksum
        assert found == before or named_by_data
    else:
        assert fault.url == "t.tar"
        assert 0 <= (fault.offset or 0) <= len(data)


@LONG
@given(shards, edits, st.booleans(), st.sampled_from([512, 4096, 1 << 20]))
def test_hostile_headers_end_in_members_or_in_an_error(
    which: int, changes: list[tuple[int, bytes]], checked: bool, block_bytes: int
) -> None:
    data = edited(which, changes, checked=checked)
    total = 0
    for members, fault, at in walk(Bytes(data), "t", block_bytes=block_bytes, max_member_bytes=1 << 20):
        assert at <= len(data)
        total += len(members)
        if fault is not None:
            assert fault.url == "t"
    assert total <= len(data) // 512


@LONG
@given(shards, edits, st.booleans())
def test_blocks_of_every_size_see_the_same(
    which: int, changes: list[tuple[int, bytes]], checked: bool
) -> None:
    data = edited(which, changes, checked=checked)

    def seen(block_bytes: int) -> list[object]:
        found: list[object] = []
        for members, fault, *_ in walk(Bytes(data), "t", block_bytes=block_bytes, max_member_bytes=1 << 20):
            found += [(*fields, bytes(payload)) for *fields, payload in members]
            if fault is not None:
                found.append((fault.message, fault.offset, fault.member))
        return found

    assert seen(512) == seen(1 << 20)


@LONG
@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 700, 20_000, 140_000]), st.booleans()), max_size=6),
    edits,
    st.sampled_from(["", "cut", "headers", "any"]),
    st.sampled_from([512, 4096, 1 << 16]),
)
def test_hopping_over_payloads_and_knowing_the_size_change_nothing(
    sizes: list[tuple[int, bool]], changes: list[tuple[int, bytes]], damage: str, block_bytes: int
) -> None:
    made = [member(b"%d.x" % n, bytes(size), magic=magic(old)) for n, (size, old) in enumerate(sizes)]
    data = bytearray(b"".join(made) + END)
    starts = list(accumulate(map(len, made), initial=0))
    for place, new in changes if damage in ("headers", "any") else ():
        at = place * 8191 % len(data) if damage == "any" else starts[place % len(starts)] + place // 7 % 512
        data[at : at + len(new)] = new[: len(data) - at]
    if damage == "cut":
        del data[changes[0][0] * 8191 % (len(data) + 1) :]

    def seen(*, sized: bool = True, hopping: bool = False) -> tuple[list[object], list[object]]:
        source = Bytes(bytes(data), sized=sized)
        how = {"payloads": False, "seek": source.seek} if hopping else {}
        found: list[object] = []
        faults: list[object] = []
        for step in scan(source, "t", block_bytes=block_bytes, max_member_bytes=1 << 20, **how):
            found += [(text(raw[: step.name_bytes]), *where) for raw, *where, _ in step.members]
            if step.fault is not None:
                faults.append((step.fault.message, step.fault.offset, step.fault.member))
        return found, faults

    assert seen(hopping=True) == seen() == seen(sized=False)


def magic(old: bool) -> bytes:
    return b"ustar  \0" if old else b"ustar\00000"


PARTS = {
    "zeros": bytes(512),
    "a": member(b"a.x", b"1"),
    "b": member(b"b.x", b"2"),
    "junk": b"\xff" * 512,
    "pax": pax(path="c.x"),
}


def meaning(parts: list[str]) -> int | None:
    """Say how many members such a tar has; None: it is not one."""
    count, announced = 0, False
    for place, part in enumerate(parts):
        if part == "zeros":
            end = not announced and len(parts) > place + 1 and set(parts[place:]) == {"zeros"}
            return count if end else None
        if part == "junk":
            return None
        announced = part == "pax"
        count += not announced
    return None


@LONG
@given(st.lists(st.sampled_from(sorted(PARTS)), max_size=8), st.integers(0, 3))
def test_blocks_in_any_order_mean_what_they_should(parts: list[str], zeros: int) -> None:
    parts = parts + ["zeros"] * zeros
    data = b"".join(PARTS[part] for part in parts)
    expected = meaning(parts)
    if expected is None:
        with pytest.raises(TarError):
            contents(data)
    else:
        assert len(contents(data)) == expected


@LONG
@given(shards, edits, st.booleans())
def test_samples_are_those_of_the_whole_shard_or_counted_as_missing(
    which: int, changes: list[tuple[int, bytes]], checked: bool
) -> None:
    data = edited(which, changes, checked=checked)
    tally = Tally()
    grouper = Grouper("t", tally, skip=True)
    try:
        found = list(grouper.samples(scan(Bytes(data), "t", max_member_bytes=1 << 20)))
    except TooManyBadSamples:
        return
    assert len(found) == tally.samples
    if not tally.faults:
        assert not tally.dropped
        strict = Grouper("t", Tally())
        assert [s["__key__"] for s in strict.samples(scan(Bytes(data), "t"))] == [s["__key__"] for s in found]


@LONG
@given(st.binary(max_size=3000))
def test_random_bytes_are_no_tar(data: bytes) -> None:
    try:
        found = contents(data)
    except TarError:
        return
    assert not found
    assert not any(data)


def test_announced_sizes_take_no_memory_before_their_bytes_come() -> None:
    size = b"\x80" + (MAX_MEMBER_BYTES - 512).to_bytes(11, "big")
    data = header(b"a.x", raw_size=size) + bytes(4096)
    tracemalloc.start()
    with pytest.raises(TarError) as caught:
        list(read_members(Bytes(data), "t"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.offset == len(data)
    assert peak < 1 << 20
