"""Codecs of the standard library alone: text, JSON, integers."""

from __future__ import annotations

import json
import operator
from typing import Any

from wlshard.codecs.codec import Buffer


def decode_text(data: Buffer) -> str:
    """Read UTF-8; a byte-order mark is kept."""
    return str(data, "utf-8")


def encode_text(value: Any) -> bytes:
    """Write UTF-8."""
    if not isinstance(value, str):
        raise TypeError("not a str")
    return value.encode("utf-8")


def decode_json(data: Buffer) -> Any:
    """Read JSON (UTF-8, -16 or -32)."""
    return json.loads(bytes(data))


def encode_json(value: Any) -> bytes:
    """Write JSON as UTF-8, keys in the order given. A str becomes a JSON string: encoded text is bytes."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8")


def decode_int(data: Buffer) -> int:
    """Read decimal digits, blanks around them allowed."""
    return int(bytes(data))


def encode_int(value: Any) -> bytes:
    """Write decimal digits. Python's and numpy's integers only: a bool or a float is no class."""
    if isinstance(value, bool):
        raise TypeError("a bool is not an int here; use int(value)")
    return b"%d" % operator.index(value)
