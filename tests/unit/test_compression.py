"""Compressed shards: known by content, read through to their end, never silently shorter."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from tars import END, Bytes, contents, header, member, simple

from wlshard.errors import TarError, UsageError
from wlshard.tar import compression
from wlshard.tar.compression import plain
from wlshard.tar.reader import read_members


def zst(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress(data)


def lz4(data: bytes) -> bytes:
    frame = pytest.importorskip("lz4.frame")
    return bytes(frame.compress(data, content_checksum=True))


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": zst,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "lz4": lz4,
}
kinds = pytest.mark.parametrize("kind", sorted(PACK))


def unpacked(data: bytes) -> bytes:
    source, _ = plain(Bytes(data), "t")
    out = []
    block = memoryview(bytearray(1000))
    while count := source.readinto(block):
        out.append(bytes(block[:count]))
    return b"".join(out)


def read(data: bytes) -> list[tuple[str, bytes]]:
    source, _ = plain(Bytes(data), "t")
    return [(m.name, bytes(m.payload)) for m in read_members(source, "t")]


@pytest.fixture(params=["isal", "zlib"])
def gz_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
        monkeypatch.setitem(sys.modules, "isal.igzip_lib", None)
    else:
        pytest.importorskip("isal")
    return request.param


@kinds
def test_shards_are_known_by_content(kind: str) -> None:
    data = simple(3)
    assert plain(Bytes(PACK[kind](data)), "no-suffix")[1] == kind
    assert read(PACK[kind](data)) == contents(data)


def test_a_plain_tar_is_plain_even_if_a_member_is_named_like_a_magic_number() -> None:
    data = member(b"BZh91AY&SY.x", b"1") + END
    source, kind = plain(Bytes(data), "t")
    assert kind is None
    assert [m.name for m in read_members(source, "t")] == ["BZh91AY&SY.x"]


@kinds
def test_streams_one_after_the_other_are_one(kind: str) -> None:
    data = simple(5)
    parts = [PACK[kind](data[at : at + 1000]) for at in range(0, len(data), 1000)]
    assert unpacked(b"".join(parts)) == data


@kinds
def test_an_empty_stream_between_others_is_read_over(kind: str) -> None:
    assert unpacked(PACK[kind](b"abc") + PACK[kind](b"") + PACK[kind](b"def")) == b"abcdef"


@kinds
def test_every_cut_is_an_error(kind: str) -> None:
    packed = PACK[kind](simple(2))
    for cut in range(1, len(packed)):
        with pytest.raises(TarError):
            read(packed[:cut])


def test_every_cut_of_a_gz_is_an_error_with_either_library(gz_by: str) -> None:
    packed = gzip.compress(simple(2))
    for cut in range(2, len(packed)):
        with pytest.raises(TarError, match=r"gz stream is (cut|damaged)"):
            read(packed[:cut])


@kinds
def test_a_cut_in_the_second_stream_is_an_error(kind: str) -> None:
    data = simple(4)
    packed = PACK[kind](data[:5000]) + PACK[kind](data[5000:])
    with pytest.raises(TarError):
        read(packed[:-1])


@kinds
def test_a_wrong_checksum_is_an_error(kind: str) -> None:
    packed = bytearray(PACK[kind](simple(2)))
    packed[-5 if kind == "gz" else -2] ^= 0x10
    with pytest.raises(TarError, match="damaged"):
        read(bytes(packed))


def test_a_wrong_crc_in_the_first_gz_member_is_an_error(gz_by: str) -> None:
    data = simple(2)
    first = bytearray(gzip.compress(data[:2000]))
    first[-6] ^= 1
    with pytest.raises(TarError, match="gz stream is damaged"):
        read(bytes(first) + gzip.compress(data[2000:]))


@kinds
def test_zeros_after_the_stream_are_padding_other_bytes_are_not(kind: str) -> None:
    packed = PACK[kind](simple(2))
    assert len(read(packed + bytes(700))) == 6
    with pytest.raises(TarError):
        read(packed + b"trailing junk")


@kinds
def test_damage_in_the_middle_comes_after_the_members_before_it(kind: str) -> None:
    data = b"".join(member(b"%03d.bin" % i, os.urandom(50_000)) for i in range(20)) + END
    packed = bytearray(PACK[kind](data))
    packed[len(packed) // 2] ^= 0xFF
    packed[len(packed) // 2 + 1] ^= 0xFF
    source, _ = plain(Bytes(bytes(packed)), "t")
    members = read_members(source, "t")
    found = []
    with pytest.raises(TarError) as caught:
        found.extend(bytes(m.payload) for m in members)
    assert caught.value.url == "t"
    if kind in ("gz", "zst", "lz4"):  # xz and bz2 check a large block before they give any of it
        assert found[:5] == [payload for _, payload in contents(data)][:5]


@kinds
def test_a_pack_of_concatenated_tars_is_an_error(kind: str) -> None:
    with pytest.raises(TarError, match="after the end mark"):
        read(PACK[kind](simple(1)) + PACK[kind](simple(1)))


@kinds
def test_output_comes_in_bounded_pieces(kind: str) -> None:
    source, _ = plain(Bytes(PACK[kind](bytes(50_000_000))), "t")
    sizes = set()
    make = source._make

    class Watch:
        def __init__(self) -> None:
            self._inner = make()

        def __getattr__(self, name: str) -> object:
            return getattr(self._inner, name)

        def decompress(self, data: bytes, most: int) -> bytes:
            made = self._inner.decompress(data, most)
            assert len(data) <= compression.INPUT_BYTES
            sizes.add(len(made))
            return made

    source._make = Watch
    block = memoryview(bytearray(1 << 24))
    total = 0
    while count := source.readinto(block):
        total += count
    assert total == 50_000_000
    assert max(sizes) <= compression.OUTPUT_BYTES


@kinds
def test_a_bomb_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "BOMB_BYTES", 1 << 20)
    monkeypatch.setattr(compression, "BOMB_RATIO", 20)
    packed = PACK[kind](member(b"a.bin", bytes(8 << 20)) + END)
    with pytest.raises(TarError, match="bomb"):
        read(packed)


def test_a_zst_stream_that_asks_for_a_huge_window_is_refused() -> None:
    zstandard = pytest.importorskip("zstandard")
    params = zstandard.ZstdCompressionParameters.from_level(3, window_log=30)
    packer = zstandard.ZstdCompressor(compression_params=params).compressobj()
    with pytest.raises(TarError, match="damaged"):
        read(packer.compress(simple(2)) + packer.flush())


def test_skippable_zst_frames_are_skipped() -> None:
    skip = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"meta"
    data = simple(2)
    assert read(skip + zst(data[:1500]) + skip + zst(data[1500:]) + skip) == contents(data)


def test_a_missing_library_is_named_with_its_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = zst(simple(1))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UsageError, match="pip install zstandard"):
        read(packed)


def test_raw_deflate_is_no_tar() -> None:
    with pytest.raises(TarError, match="no tar"):
        read(zlib.compress(os.urandom(5000)))


def test_offsets_are_those_of_the_plain_bytes() -> None:
    data = bytearray(simple(30))
    data[20 * 512 * 3 // 3 + 5] ^= 1
    with pytest.raises(TarError) as plain_fault:
        contents(bytes(data))
    with pytest.raises(TarError) as caught:
        read(gzip.compress(bytes(data)))
    assert caught.value.offset == plain_fault.value.offset


def test_a_shard_packed_by_gnu_tar(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"hello")
    subprocess.run(["tar", "-C", tmp_path, "-czf", tmp_path / "t.tgz", "a.txt"], check=True)
    assert read((tmp_path / "t.tgz").read_bytes()) == [("a.txt", b"hello")]


def test_the_digits_of_the_real_shard(test_data: Path) -> None:
    found = read((test_data / "sample.tgz").read_bytes())
    assert len(found) == 180
    assert dict(found)["10.png"][:4] == b"\x89PNG"


def test_a_hard_link_in_a_compressed_tar_is_an_error() -> None:
    packed = gzip.compress(member(b"a.x", b"1") + header(b"b.x", kind=b"1", link=b"a.x") + END)
    with pytest.raises(TarError, match="hard link in a stream"):
        read(packed)
