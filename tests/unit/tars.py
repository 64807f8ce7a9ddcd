"""Tars for the reader's tests: made by Python's tarfile, by GNU tar, and by hand."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from wlshard.errors import TarError
from wlshard.tar.blocks import BLOCK_BYTES
from wlshard.tar.common import RawMember
from wlshard.tar.rare import text
from wlshard.tar.reader import Member, read_members, scan

END = bytes(1024)
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


class Bytes:
    """A source over bytes that gives its size only if told to, as a stream would."""

    def __init__(self, data: bytes, *, sized: bool = False) -> None:
        self.bytes = len(data) if sized else None
        self._file = io.BytesIO(data)
        self.calls = 0

    def readinto(self, target: bytearray | memoryview, /) -> int:
        self.calls += 1
        return self._file.readinto(target)

    def seek(self, offset: int) -> None:
        self._file.seek(offset)


def header(name: bytes, size: int = 0, kind: bytes = b"0", link: bytes = b"", **fields: bytes) -> bytes:
    """Make a header block by hand; fields: magic, prefix, raw_size, checksum, rest (bytes from 345 on)."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:124] = b"0000644\0" * 3
    block[124:136] = fields.get("raw_size", b"%011o\0" % size)
    block[136:148] = b"%011o\0" % 0
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257:265] = fields.get("magic", b"ustar\00000")
    prefix = fields.get("prefix", b"")
    block[345 : 345 + len(prefix)] = prefix
    rest = fields.get("rest", b"")
    block[345 : 345 + len(rest)] = rest
    block[148:156] = b" " * 8
    block[148:156] = fields.get("checksum", b"%06o\0 " % sum(block))
    return bytes(block)


def member(name: bytes, data: bytes = b"", kind: bytes = b"0", **fields: bytes) -> bytes:
    return header(name, len(data), kind, **fields) + data + bytes(-len(data) % 512)


def pax(**records: str) -> bytes:
    """Make a PAX header for the next member."""
    return member(
        b"././@PaxHeader", b"".join(record(k.replace("__", "."), v) for k, v in records.items()), b"x"
    )


def record(keyword: str, value: str) -> bytes:
    text = f" {keyword}={value}\n".encode("utf-8", "surrogateescape")
    size = len(text) + 1
    while len(b"%d" % size) + len(text) != size:
        size += 1
    return b"%d" % size + text


def simple(count: int = 4) -> bytes:
    """Samples of three fields, one of them empty."""
    parts = []
    for i in range(count):
        parts += [member(b"%04d.cls" % i, b"%d" % i), member(b"%04d.empty" % i)]
        parts += [member(b"%04d.jpg" % i, bytes([i % 256]) * 700)]
    return b"".join(parts) + END


def made_by_tarfile(files: dict[str, bytes], kind: str = "ustar") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=FORMATS[kind]) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1700000000.25 if kind == "pax" else 1700000000
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def gnu_tar(folder: Path, out: Path, *options: str) -> Path:
    subprocess.run(["tar", "-C", str(folder), "-cf", str(out), *options], check=True, capture_output=True)
    return out


def members_of(data: bytes, **keywords: object) -> list[Member]:
    return list(read_members(Bytes(data), "t.tar", **keywords))


def contents(data: bytes) -> list[tuple[str, bytes]]:
    return [(m.name, bytes(m.payload)) for m in members_of(data)]


def walk(
    source: object, url: str, **keywords: object
) -> Iterator[tuple[list[RawMember], TarError | None, int]]:
    """Yield what scan finds, names cut at their end, the lists kept."""
    for found in scan(source, url, **keywords):
        members = [(text(raw[: found.name_bytes]), *rest) for raw, *rest in found.members]
        yield members, found.fault, found.at


def names_until_fault(data: bytes, block_bytes: int = BLOCK_BYTES) -> tuple[list[bytes], TarError | None]:
    names: list[bytes] = []
    for members, fault, _ in walk(Bytes(data), "t.tar", block_bytes=block_bytes):
        names += [name for name, *_ in members]
        if fault is not None:
            return names, fault
    return names, None
