"""Headers of members: read back by tarfile and GNU tar, the same for the same name and size."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlshard.errors import TarError
from wlshard.tar.header import BLOCK, END_MARK, member_header, padding

GIB = 2**30
NAMES = [
    "000000.png",
    "train/00042.left.png",
    "a" * 96 + ".cls",  # exactly 100 bytes
    "a" * 97 + ".cls",  # 101: no slash to split at
    "d" * 155 + "/" + "b" * 96 + ".cls",  # the longest that prefix and name hold
    "d" * 156 + "/" + "b" * 96 + ".cls",
    "d" * 155 + "/" + "b" * 97 + ".cls",
    "many/" * 60 + "x.jpg",
    "日本/жук-ü.png",
    "ü" * 60 + ".png",  # 124 bytes, 64 characters
]


def a_member(name: str, payload: bytes) -> bytes:
    return member_header(name, len(payload)) + payload + bytes(padding(len(payload)))


def a_tar(names: list[str]) -> bytes:
    return b"".join(a_member(name, name.encode()) for name in names) + END_MARK


def test_tarfile_reads_names_and_payloads_back() -> None:
    with tarfile.open(fileobj=io.BytesIO(a_tar(NAMES))) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == NAMES
        payloads = [tar.extractfile(member) for member in members]
        assert [stream.read() for stream in payloads if stream] == [name.encode() for name in NAMES]
        assert {(m.mode, m.uid, m.gid, m.mtime, m.type) for m in members} == {(0o444, 0, 0, 0, b"0")}


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar command")
def test_gnu_tar_lists_them_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(a_tar(NAMES))
    shown = subprocess.run(
        ["tar", "--quoting-style=literal", "-tf", path], capture_output=True, check=True, env={"LC_ALL": "C"}
    )
    assert shown.stderr == b""
    assert shown.stdout.decode().splitlines() == NAMES


@pytest.mark.parametrize(("name", "blocks"), list(zip(NAMES, [1, 1, 1, 3, 1, 3, 3, 3, 1, 3], strict=True)))
def test_only_a_name_that_needs_one_gets_a_pax_record(name: str, blocks: int) -> None:
    header = member_header(name, 7)
    assert len(header) == blocks * BLOCK
    assert header[257:265] == b"ustar\x0000"


@pytest.mark.parametrize(("size", "blocks"), [(0, 1), (8 * GIB - 1, 1), (8 * GIB, 3), (2**45, 3)])
def test_a_size_of_8_gib_and_more_gets_a_pax_record(size: int, blocks: int) -> None:
    header = member_header("x/big.npy", size)
    assert len(header) == blocks * BLOCK
    with tarfile.open(fileobj=io.BytesIO(header)) as tar:
        assert tar.firstmember is not None
        assert (tar.firstmember.name, tar.firstmember.size) == ("x/big.npy", size)


def test_a_long_name_and_a_large_size_share_one_record() -> None:
    header = member_header("n" * 300 + ".npy", 9 * GIB)
    assert header.count(b"PaxHeader") == 1
    with tarfile.open(fileobj=io.BytesIO(header)) as tar:
        assert tar.firstmember is not None
        assert (tar.firstmember.name, tar.firstmember.size) == ("n" * 300 + ".npy", 9 * GIB)


@pytest.mark.parametrize("length", range(80, 120))
def test_a_record_counts_its_own_digits(length: int) -> None:
    name = "k" * (length - 4) + ".cls"
    with tarfile.open(fileobj=io.BytesIO(a_tar([name]))) as tar:
        assert tar.getnames() == [name]


@pytest.mark.parametrize("count", [3, 80])
def test_the_bytes_of_a_foreign_name_that_is_not_utf8_stay(count: int) -> None:
    name = "caf\udce9" * count + ".png"
    data = member_header(name, 0) + END_MARK
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as tar:
        assert tar.getnames() == [name]


def test_a_name_that_is_no_text_is_refused_by_name() -> None:
    with pytest.raises(TarError, match="UTF-8") as caught:
        member_header("x\ud800.png", 0)
    assert caught.value.member == "x\ud800.png"


@given(
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=300).filter(
        lambda name: name.strip("/") == name and name
    ),
    size=st.integers(0, 3000),
)
def test_any_name_reads_back(name: str, size: int) -> None:
    with tarfile.open(fileobj=io.BytesIO(a_member(name, bytes(size)) + END_MARK), encoding="utf-8") as tar:
        assert [(member.name, member.size) for member in tar.getmembers()] == [(name, size)]
    assert member_header(name, size) == member_header(name, size)


@given(size=st.integers(0, 2**60))
def test_padding_fills_whole_blocks(size: int) -> None:
    assert (size + padding(size)) % BLOCK == 0
    assert 0 <= padding(size) < BLOCK
