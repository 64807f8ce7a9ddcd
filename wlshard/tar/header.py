"""Make the headers of reproducible ustar members: mtime 0, uid and gid 0, mode 0444, raw UTF-8 names.

Equal names and sizes give equal bytes. Format: POSIX.1-2001, "pax Interchange Format" (ustar is part of it).
"""

from __future__ import annotations

from zlib import adler32

from wlshard.errors import TarError

BLOCK = 512
END_MARK = bytes(2 * BLOCK)

_MEMO = 1 << 14  # sizes

# The size field holds 11 octal digits.
_LARGEST = 8**11 - 1

# Before the size: mode, uid, gid. After it: mtime. After the checksum: type; linkname, magic, version, user,
# group, device numbers; prefix and the rest of the block.
_BEFORE = b"0000444\0000000000\0000000000\0"
_AFTER = b"\00000000000000\0"
_MIDDLE = bytes(100) + b"ustar\00000" + bytes(80)
_FILE = b"\0 0" + _MIDDLE + bytes(BLOCK - 345)
_FILE_SUM = sum(_FILE)


class _Octal(dict[int, bytes]):
    """Checksums as they are written; there are some 40,000."""

    def __missing__(self, number: int) -> bytes:
        self[number] = digits = b"%06o" % number
        return digits


class _Numbers(dict[int, tuple[bytes, int]]):
    """All between name and checksum, by size, and what a file's checksum is more than its name's adler32.

    The checksum field counts as 8 blanks; one is in the rest. adler32's low half is 1 + the byte sum modulo
    65521: exact for up to 256 bytes (256 × 255 < 65521).
    """

    def __missing__(self, size: int) -> tuple[bytes, int]:
        if len(self) >= _MEMO:
            self.clear()
        numbers = b"%b%011o%b" % (_BEFORE, size, _AFTER)
        self[size] = found = numbers, sum(numbers) + 7 * ord(" ") + _FILE_SUM - 1
        return found


_octal = _Octal()
_numbers = _Numbers()
_NULS = [bytes(100 - width) for width in range(101)]


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
    return b"".join(header_parts(raw, size))


def header_parts(raw: bytes, size: int) -> tuple[bytes, ...]:
    """Give the same for a name in bytes, in parts to be joined: one part, or several that are one block."""
    width = len(raw)
    if width <= 100 and size <= _LARGEST:
        numbers, total = _numbers[size]  # as _block does, three times as fast
        return raw, _NULS[width], numbers, _octal[total + (adler32(raw) & 0xFFFF)], _FILE
    return (_rare_header(raw, size),)


def _rare_header(raw: bytes, size: int) -> bytes:
    prefix, base = _split(raw)
    if base and size <= _LARGEST:
        return _other(base, size, b"0", prefix)
    records = b"" if base else _record(b"path", raw)
    if not base and not _is_utf8(raw):
        records = _record(b"hdrcharset", b"BINARY") + records
    if size > _LARGEST:
        records += _record(b"size", b"%d" % size)
    return b"".join(
        (
            _other(b"././@PaxHeader", len(records), b"x", b""),
            records,
            bytes(padding(len(records))),
            # What old readers see: the name cut, the size where it can be said.
            _other(base or raw[:100], size if size <= _LARGEST else 0, b"0", prefix),
        )
    )


def _block(name: bytes, size: int, rest: bytes, rest_sum: int) -> bytes:
    numbers, total = _numbers[size]
    total += (adler32(name) & 0xFFFF) - _FILE_SUM + rest_sum
    return b"%b%b%06o%b" % (name.ljust(100, b"\0"), numbers, total, rest)


def _other(name: bytes, size: int, kind: bytes, prefix: bytes) -> bytes:
    rest = b"\0 " + kind + _MIDDLE + prefix.ljust(BLOCK - 345, b"\0")
    return _block(name, size, rest, sum(rest))


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
