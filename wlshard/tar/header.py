"""Make the headers of reproducible ustar members: mtime 0, uid and gid 0, mode 0444, raw UTF-8 names.

Equal names and sizes give equal bytes. Format: POSIX.1-2001, "pax Interchange Format" (ustar is part of it).
"""

from __future__ import annotations

from zlib import adler32

from wlshard.errors import TarError

BLOCK = 512
END_MARK = bytes(2 * BLOCK)

# The size field holds 11 octal digits.
_LARGEST = 8**11 - 1

# mode, uid, gid · size · mtime · checksum · type, linkname, magic, version, user … device minor
_HEADER = b"%b0000444\0000000000\0000000000\0%b\00000000000000\0%06o\0 %b%b"
_MIDDLE = bytes(100) + b"ustar\00000" + bytes(80)
_TAIL = bytes(BLOCK - 345)
# Byte sum of a header whose name, size digits, type and prefix are empty; the checksum counts as blanks.
_SUM = sum(_HEADER % (b"", b"", 0, b"", _MIDDLE)) - 6 * ord("0") + 7 * ord(" ")


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
    if len(raw) <= 100 and size <= _LARGEST:
        return _block(raw, b"", size, b"0")
    prefix, base = _split(raw)
    if base and size <= _LARGEST:
        return _block(base, prefix, size, b"0")
    records = b"" if base else _record(b"path", raw)
    if not base and not _is_utf8(raw):
        records = _record(b"hdrcharset", b"BINARY") + records
    if size > _LARGEST:
        records += _record(b"size", b"%d" % size)
    return b"".join(
        (
            _block(b"././@PaxHeader", b"", len(records), b"x"),
            records,
            bytes(padding(len(records))),
            # What old readers see: the name cut, the size where it can be said.
            _block(base or raw[:100], prefix, size if size <= _LARGEST else 0, b"0"),
        )
    )


def _block(name: bytes, prefix: bytes, size: int, kind: bytes) -> bytes:
    digits = b"%011o" % size
    # adler32's low half is 1 + the byte sum modulo 65521: exact for up to 256 bytes (256 × 255 < 65521).
    total = _SUM + (adler32(name + digits) & 0xFFFF) - 1 + kind[0]
    if not prefix:
        return _HEADER % (name.ljust(100, b"\0"), digits, total, kind, _MIDDLE) + _TAIL
    total += (adler32(prefix) & 0xFFFF) - 1
    head = _HEADER % (name.ljust(100, b"\0"), digits, total, kind, _MIDDLE)
    return head + prefix.ljust(len(_TAIL), b"\0")


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
