"""Make the headers of reproducible ustar members: mtime 0, uid and gid 0, mode 0444, raw UTF-8 names.

Equal names and sizes give equal bytes. Format: POSIX.1-2001, "pax Interchange Format" (ustar is part of it).
"""

from __future__ import annotations

from wlshard.errors import TarError

BLOCK = 512
END_MARK = bytes(2 * BLOCK)

_MEMO = 1 << 14  # sizes

LARGEST = 8**11 - 1  # the size field holds 11 octal digits

# Before the size: mode, uid, gid. After it: mtime. After the checksum: type; linkname, magic, version, user,
# group, device numbers; prefix and the rest of the block.
_BEFORE = b"0000444\0000000000\0000000000\0"
_AFTER = b"\00000000000000\0"
_MIDDLE = bytes(100) + b"ustar\00000" + bytes(80)
FILE = b"\0 0" + _MIDDLE + bytes(BLOCK - 345)
_FILE_SUM = sum(FILE)
_FILL = [bytes(size) for size in range(BLOCK)]


class _Checksums(dict[int, bytes]):
    """Checksums as they are written; there are some 40,000."""

    def __missing__(self, number: int) -> bytes:
        self[number] = digits = b"%06o" % number
        return digits


class _Sizes(dict[int, tuple[bytes, int, bytes, int]]):
    """By a payload's size: what stands from the size to the checksum, what it adds to the checksum of a file,
    the padding, and how many bytes payload and padding are."""

    def __missing__(self, size: int) -> tuple[bytes, int, bytes, int]:
        if len(self) >= _MEMO:
            self.clear()
        # The checksum field counts as 8 blanks; one is in FILE.
        numbers, fill = b"%011o%b" % (size, _AFTER), _FILL[-size % BLOCK]
        self[size] = found = numbers, sum(numbers) + 7 * ord(" ") + _FILE_SUM, fill, size + len(fill)
        return found


# A file's header in parts: name and lead (see `lead`), numbers, checksum, FILE.
checksums, sizes = _Checksums(), _Sizes()


def lead(suffix: bytes, width: int) -> tuple[bytes, int]:
    """Give what stands before the size, behind `width` bytes of a name that ends in suffix; and its sum.

    Nothing: such a name needs more than one block.
    """
    nuls = 100 - width - len(suffix)
    found = suffix + bytes(nuls) + _BEFORE if nuls >= 0 else b""
    return found, sum(found)


def padding(size: int) -> int:
    """Count the zero bytes that fill a payload of this size up to whole blocks."""
    return -size % BLOCK


def member_header(name: str, size: int) -> bytes:
    """Give what precedes the payload of a member: one block, or three with a PAX record if it needs one.

    A PAX record is made for a name that does not fit 100 bytes, nor 155 + "/" + 100, and for a size of
    8 GiB and more. Lone surrogates stand for the bytes of a name that is not UTF-8 (PEP 383).
    """
    try:
        raw = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise TarError("the name cannot be encoded as UTF-8: rename the sample", member=name) from error
    return header(raw, size)


def header(raw: bytes, size: int) -> bytes:
    """Give the same for a name in bytes."""
    prefix, base = _split(raw)
    if base and size <= LARGEST:
        return _block(base, size, b"0", prefix)
    records = b"" if base else _record(b"path", raw)
    if not base and not _is_utf8(raw):
        records = _record(b"hdrcharset", b"BINARY") + records
    if size > LARGEST:
        records += _record(b"size", b"%d" % size)
    return b"".join(
        (
            _block(b"././@PaxHeader", len(records), b"x", b""),
            records,
            bytes(padding(len(records))),
            # What old readers see: the name cut, the size where it can be said.
            _block(base or raw[:100], size if size <= LARGEST else 0, b"0", prefix),
        )
    )


def _block(name: bytes, size: int, kind: bytes, prefix: bytes) -> bytes:
    numbers, total, *_ = sizes[size]
    rest = b"\0 " + kind + _MIDDLE + prefix.ljust(BLOCK - 345, b"\0")
    before, before_sum = lead(b"", len(name))
    total += sum(name) + before_sum + sum(rest) - _FILE_SUM
    return b"".join((name, before, numbers, checksums[total], rest))


def _split(raw: bytes) -> tuple[bytes, bytes]:
    """Split at the first slash that leaves both parts fitting; two empty parts where there is none."""
    if len(raw) <= 100:
        return b"", raw
    slash = raw.find(b"/", max(1, len(raw) - 101))
    return (raw[:slash], raw[slash + 1 :]) if 0 < slash <= 155 and slash < len(raw) - 1 else (b"", b"")


def _record(keyword: bytes, value: bytes) -> bytes:
    """Give one PAX record: its own length in decimal, blank, keyword=value, newline."""
    rest = len(keyword) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, keyword, value)


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
