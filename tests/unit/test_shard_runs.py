"""Samples taken together are those taken one by one: as listed, counted and told, after any damage."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tars import END, Bytes, header, member, pax

from wlshard.errors import TarError, WlshardError
from wlshard.sample import KEY
from wlshard.shards.grouping import Grouper
from wlshard.shards.indexing import make_index
from wlshard.shards.runs import Run
from wlshard.shards.tally import Tally
from wlshard.tar.index import IndexText
from wlshard.tar.reader import scan

MANY = settings(max_examples=400, deadline=None)
# How keys are made of a number, and the fields.
STYLES = [
    (b"%04d", [b"cls", b"jpg", b"json"]),
    (b"d/%d", [b"x"]),
    (b"d/e/%04d", [b"left.png", b"right.png"]),
    (b"\xff%04d", [b"a", b"b"]),
    (b"%04d\xc3", [b"50%d.x", b"%s"]),
    (b"9" * 91 + b"%04d", [b"cls", b"j"]),
    (b"9" * 94 + b"%04d", [b"x", b"y"]),  # a hundred bytes, without a NUL
    (b"v1.0/%04d", [b"x", b"y"]),
    (b"./%04d", [b"x", b"y"]),
    (b"%04d", [b"X", b"y"]),
    (b"%04d", [b"x y", b"z"]),
    (b"a b/%04d", [b"x", b"y"]),
    (b"%04d/", [b"x", b"y"]),  # dotfiles
    (b"%04d", [b"x", b"x"]),
]
BETWEEN = [
    member(b"._0000.x"),
    header(b"d/", kind=b"5"),
    pax(path="0.x") + member(b"y"),
    pax(comment="c"),
    member(b"0000.cls"),
    member(b"0001.z", b"1"),
    member(b"no-field"),
    member(b"8\0" + b"8" * 50 + b".x"),
    bytes(512),
]
runs = st.tuples(st.sampled_from(STYLES), st.integers(1, 20), st.sampled_from([0, 1, 700]))
parts = st.lists(st.one_of(runs, runs, st.sampled_from(BETWEEN)), min_size=1, max_size=4)
edits = st.lists(st.tuples(st.integers(0, 1 << 17), st.binary(min_size=1, max_size=9)), max_size=3)


def tar_of(parts: list[tuple[tuple[bytes, list[bytes]], int, int] | bytes]) -> bytearray:
    """Put together runs, whose numbers go on from one to the next, and what stands between."""
    made, first = bytearray(), 10
    for part in parts:
        if isinstance(part, bytes):
            made += part
            continue
        (name, fields), count, size = part
        for number in range(first, first + count):
            key = name.replace(b"%04d", b"%04d" % number).replace(b"%d", b"%d" % number)
            for field in fields:
                made += member(key + b"." + field, bytes(size))
        first += count
    return made + END


def edited(data: bytearray, changes: list[tuple[int, bytes]], *, checked: bool) -> bytes:
    """Overwrite bytes, most of them in headers; `checked`: make the checksums right again."""
    for place, new in changes:
        at = place // 512 * 512 % len(data) + place % 160
        data[at : at + len(new)] = new[: max(0, len(data) - at)]
    for at in range(0, len(data) - 511 if checked else 0, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


def listed(data: bytes, *, together: bool, skip: bool = False, **how: object) -> tuple[list[object], int]:
    """Give each sample as an index has it, what ended them, what was counted; how many came together."""
    found: list[object] = []
    index, tally = IndexText(), Tally(quiet=True)
    many = 0

    def take(run: Run) -> None:
        nonlocal many
        many += len(run.keys)
        found.extend(zip(run.keys, run.lines(named=True), strict=True))
        index.extend(run.keys, run.lines)

    grouper = Grouper("t", tally, skip=skip, listing=True)
    grouper.on_run = take if together else None
    try:
        for sample in grouper.samples(scan(Bytes(data), "t", passed_over=tally.passed_over, **how)):
            found.append((sample[KEY], " ".join(grouper.entries)))
            index.add(sample[KEY], grouper.entries)
    except WlshardError as error:
        found.append((type(error), error.message, error.key, error.member, error.offset))
    return [*found, index.text(), tally.samples, tally.faults, tally.dropped, tally.passed_over], many


@MANY
@given(parts, edits, st.booleans(), st.booleans(), st.sampled_from([512, 1 << 14, 1 << 20]), st.booleans())
def test_together_they_are_what_they_are_one_by_one(
    parts: list[tuple[tuple[bytes, list[bytes]], int, int] | bytes],
    changes: list[tuple[int, bytes]],
    checked: bool,
    skip: bool,
    block_bytes: int,
    bare: bool,
) -> None:
    data = edited(tar_of(parts), changes, checked=checked)
    one_by_one, none = listed(data, together=False, skip=skip)  # fields are known from here on
    how = {"block_bytes": block_bytes, "max_member_bytes": 1 << 20, "bare": lambda: bare}
    assert none == 0
    assert (
        listed(data, together=True, skip=skip, **how)[0] == listed(data, together=False, skip=skip, **how)[0]
    )
    assert listed(data, together=True, skip=skip)[0] == one_by_one


@pytest.mark.parametrize("style", STYLES[:6])
def test_samples_that_are_alike_come_together(style: tuple[bytes, list[bytes]]) -> None:
    data = bytes(tar_of([(style, 20, 700), (style, 20, 0)]))
    assert listed(data, together=False)[1] == 0
    assert listed(data, together=True)[1] > 25


A = (b"%04d", [b"cls", b"jpg"])


def both(number: int) -> list[bytes]:
    return [member(b"%04d.%b" % (number, field)) for field in A[1]]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("block_bytes", [1 << 14, 1 << 20])
@pytest.mark.parametrize(
    "parts",
    [
        *([(A, 20, 1), ((name, fields), 1, 1), (A, 20, 1)] for name, fields in (
            *STYLES, (b"%04d", [b"cls", b"jpg", b"txt"]), (b"%04d", [b"cls"]), (b"%04d", [b"cls", b"txt"]),
            (b"%04d/", A[1]),
            (b"%04d b", A[1]), (b"d.e/%04d", A[1]), (b"%04d\0", A[1]), (b"", A[1]))),
        *([(A, 1, 1), ((name, fields), 20, 1)] for name, fields in STYLES),
        [(A, 20, 1), *both(25), (A, 20, 1)],  # a key comes back
        [bytes(512), member(b"no-field"), (A, 20, 1)],  # damage, and no sample right behind it
        [bytes(512), member(b"8\0" + b"8" * 50 + b".x"), (A, 20, 1)],
        [member(b"._0.x"), bytes(512), member(b"8\0" + b"8" * 50 + b".x"), (A, 20, 1)],
        [(A, 20, 1), *both(5), (A, 20, 1), member(b"0045.cls")],
        [(A, 40, 1), *[one for n in range(60, 20, -1) for one in both(n)]],
        [(A, 20, 1), *[one for n in range(5, 20) for one in both(n)]],
        # where a list of members begins: a sample, a run, and a key again
        *([(A, 20, 1), header(b"d/", kind=b"5"), *[one for n in numbers for one in both(n)]]
          for numbers in ((50, *range(31, 45), 50), (50, *range(31, 45), 40), (5, *range(31, 45), 33))),
    ],
)  # fmt: skip
def test_a_run_ends_before_what_is_not_like_it(parts: list[object], block_bytes: int, skip: bool) -> None:
    data = bytes(tar_of(parts))
    one_by_one, _ = listed(data, together=False, skip=skip, block_bytes=block_bytes)
    assert listed(data, together=True, skip=skip, block_bytes=block_bytes)[0] == one_by_one


def test_a_field_that_no_index_can_hold_is_refused_in_a_run_too(tmp_path: Path) -> None:
    for parts in ([((b"%04d", [b"x y"]), 1, 1)], [(A, 1, 1), ((b"%04d", [b"x y"]), 20, 1)]):
        (tmp_path / "x.tar").write_bytes(tar_of(parts))
        with pytest.raises(TarError, match="a blank in the field's name"):
            make_index(str(tmp_path / "x.tar"))


def test_a_forged_header_in_a_payload_is_payload() -> None:
    style = STYLES[0]
    data = bytes(tar_of([(style, 20, 700)]))
    nested = b"".join(member(b"%04d.jpg" % n, data) + member(b"%04d.txt" % n, data[:700]) for n in range(9))
    lines, many = listed(nested + END, together=True, bare=lambda: True)
    assert (lines, many) == (listed(nested + END, together=False)[0], many)
    assert lines[-4:] == [9, 0, 0, {}]
