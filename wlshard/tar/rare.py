"""Header blocks in all their dialects: v7, ustar, GNU, star and PAX; numbers, long names, sparse maps.

Formats: POSIX.1-2001 `pax`, and the GNU tar manual's appendix "Tar Internals" (base-256 numbers, L and K
headers, old sparse headers, PAX sparse 0.0, 0.1 and 1.0). Errors raised here know only what is wrong; the
reader adds url and offset.
"""

from __future__ import annotations

import re
from typing import NamedTuple, TypeAlias
from zlib import adler32

from wlshard.errors import TarError
from wlshard.tar.blocks import pages

HEADER_BYTES = 512
NO_TAIL = b"\xff"  # no header ends like this one compares
REGULAR = (b"0", b"\0", b"7")
SPARSE, LINK, PAX, PAX_GLOBAL, SUN_PAX, GNU_NAME, GNU_LINK = b"S", b"1", b"x", b"g", b"X", b"L", b"K"
EXTENSIONS = (PAX, PAX_GLOBAL, SUN_PAX, GNU_NAME, GNU_LINK)
PASSED_OVER = {
    b"2": "symlinks",
    b"3": "devices",
    b"4": "devices",
    b"5": "directories",
    b"6": "fifos",
    b"D": "directories",
    b"V": "volume labels",
}

Payload: TypeAlias = memoryview | bytes
ELSEWHERE = b"elsewhere"  # for a payload that was not asked for, and is not in one piece behind its header
Spans: TypeAlias = list[tuple[int, int]]  # (offset in the file, bytes stored), ascending
Pax: TypeAlias = list[tuple[bytes, bytes]]

# Records that change nothing we read; most writers put one with the mtime before each member.
HARMLESS = re.compile(
    rb"(?:[1-9][0-9]* (?:[amc]time|[ug]id|[ug]name|comment|SCHILY\.(?:dev|ino|nlink))=[^\n\0]*\n)+\0*"
)
_RECORD = re.compile(rb"([1-9][0-9]{0,9}) ")
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_DECIMAL = re.compile(rb"[0-9]{1,19}")


class Header(NamedTuple):
    """One header block. `tail`: its bytes from the type on, when headers that share them are plain files."""

    name: bytes
    prefix: bytes
    size: int
    kind: bytes
    link: bytes
    tail: bytes


def number(field: bytes) -> int:
    """Read a header's number: octal, or base-256 if its first bit is set."""
    if field[0] & 0x80:
        if field[0] != 0x80:
            raise TarError("a header holds a negative or absurd number: the tar is damaged")
        return int.from_bytes(field[1:], "big")
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise TarError(f"a header's number is not octal ({field!r}): the tar is damaged")
    return int(match[1] or b"0", 8)


def checksum(field: bytes) -> int | None:
    """Read a checksum field; None: it holds none."""
    match = _OCTAL.fullmatch(field)
    return int(match[1], 8) if match and match[1] else None


def byte_sum(block: bytes) -> int:
    """Add up a header's bytes. Adler sums begin at 1 and are exact up to 256 bytes (256 · 255 < 65521)."""
    return (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2


def checks(block: bytes) -> bool:
    """Tell whether a header block carries its own checksum (of unsigned or, as once, of signed bytes)."""
    stored = checksum(block[148:156])
    if stored is None:
        return False
    rest = block[:148] + b" " * 8 + block[156:]
    total = byte_sum(rest)
    return stored == total or stored == total - 256 * sum(byte > 127 for byte in rest)


def parse_header(block: bytes) -> Header:
    """Take a header block apart."""
    kind, magic = block[156:157], block[257:265]
    prefix = b""
    if magic[:6] == b"ustar\0":
        star = block[508:] == b"tar\0"  # star keeps two times where ustar has the end of the prefix
        prefix = text(block[345 : 476 if star else 500])
    name = text(block[:100])
    if prefix:
        prefix += b"/"
    tail = block[156:] if kind in (b"0", b"7") else NO_TAIL  # v7 may mean a folder
    return Header(prefix + name, prefix, number(block[124:136]), kind, text(block[157:257]), tail)


def text(field: bytes) -> bytes:
    """Cut a field at its first NUL."""
    return field.partition(b"\0")[0]


def parse_pax(body: bytes) -> Pax:
    """Read PAX records, `<length> <keyword>=<value>\\n` one after the other, in order."""
    records: Pax = []
    at = 0
    while at < len(body) and body[at]:
        match = _RECORD.match(body, at)
        end = at + int(match[1]) if match else 0
        record = body[match.end() : end - 1] if match else b""
        if not record or end > len(body) or body[end - 1 : end] != b"\n" or b"=" not in record:
            raise TarError("a PAX header holds a record that is cut or malformed: the tar is damaged")
        keyword, _, value = record.partition(b"=")
        records.append((keyword, value))
        at = end
    return records


def decimal(value: bytes) -> int:
    """Read a PAX number."""
    if not _DECIMAL.fullmatch(value):
        raise TarError(f"a PAX header's number is not decimal ({value[:40]!r}): the tar is damaged")
    return int(value)


def old_sparse_entries(area: bytes) -> Spans:
    """Read the (offset, bytes) pairs of an old GNU sparse header: four in a header, 21 in an extension."""
    spans: Spans = []
    for at in range(0, len(area) - 23, 24):
        if not area[at]:
            break
        spans.append((number(area[at : at + 12]), number(area[at + 12 : at + 24])))
    return spans


def pax_sparse_entries(records: Pax) -> Spans:
    """Read the sparse map that PAX records hold (formats 0.0 and 0.1)."""
    numbers: list[bytes] = []
    for keyword, value in records:
        if keyword in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            numbers.append(value)
        elif keyword == b"GNU.sparse.map":
            numbers = value.split(b",") if value else []
    return _pairs(numbers)


def leading_sparse_entries(data: memoryview) -> tuple[Spans, int]:
    """Read the sparse map at the front of a member's data (format 1.0); give it and the bytes it takes."""
    at, numbers, wanted = 0, list[bytes](), 1
    while len(numbers) < wanted:
        line = bytes(data[at : at + 20]).partition(b"\n")
        if not line[1]:
            raise TarError("a sparse map is cut or malformed: the tar is damaged")
        at += len(line[0]) + 1
        numbers.append(line[0])
        if len(numbers) == 1:
            wanted = 1 + 2 * decimal(line[0])
    return _pairs(numbers[1:]), -(-at // HEADER_BYTES) * HEADER_BYTES


def _pairs(numbers: list[bytes]) -> Spans:
    if len(numbers) % 2:
        raise TarError("a sparse map has an odd count of numbers: the tar is damaged")
    return [(decimal(numbers[i]), decimal(numbers[i + 1])) for i in range(0, len(numbers), 2)]


def expand_sparse(spans: Spans, stored: memoryview, size: int) -> Payload:
    """Put the stored parts of a sparse file where they belong; holes take no memory until written."""
    ends = 0
    for offset, count in spans:
        if offset < ends or offset + count > size:
            raise TarError("a sparse map's parts overlap or pass the file's end: the tar is damaged")
        ends = offset + count
    if sum(count for _, count in spans) != len(stored):
        raise TarError("a sparse map does not add up to the stored bytes: the tar is damaged")
    if not size:
        return b""
    whole = memoryview(pages(size, huge=False))
    at = 0
    for offset, count in spans:
        whole[offset : offset + count] = stored[at : at + count]
        at += count
    return whole.toreadonly()


class Extensions:
    """What the headers before a member's own header say about it."""

    def __init__(self, standing: dict[bytes, bytes]) -> None:
        self.standing = standing  # records of PAX global headers; they last until the tar ends
        self.name: bytes | None = None
        self.link: bytes | None = None
        self.records: Pax = []

    def add(self, kind: bytes, body: bytes) -> None:
        """Take in the body of an extension header."""
        if kind == GNU_NAME:
            self.name = text(body)
        elif kind == GNU_LINK:
            self.link = text(body)
        elif kind == PAX_GLOBAL:
            self.standing.update(item for item in parse_pax(body) if item[0] in (b"path", b"size"))
        else:
            self.records = parse_pax(body)

    def apply(self, header: Header) -> Header:
        """Give the member's header as it is meant."""
        said = {**self.standing, **dict(self.records)}
        said = {keyword: value for keyword, value in said.items() if value}  # an empty value takes one back
        name = said.get(b"GNU.sparse.name") or said.get(b"path") or self.name or header.name
        link = said.get(b"linkpath") or self.link or header.link
        size = decimal(said[b"size"]) if b"size" in said else header.size
        return header._replace(name=name, link=link, size=size)

    def sparse(self) -> tuple[int | None, Spans]:
        """Give the real size and stored parts of a file that PAX records call sparse; None, []: it is not."""
        said = dict(self.records)
        real = said.get(b"GNU.sparse.realsize") or said.get(b"GNU.sparse.size")
        return (None, []) if real is None else (decimal(real), pax_sparse_entries(self.records))

    @property
    def map_leads(self) -> bool:
        """Whether the sparse map stands in front of the data (format 1.0)."""
        return (b"GNU.sparse.major", b"1") in self.records
