"""Rows of text from samples: tab-separated values, or one JSON object a line."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Iterable, Iterator
from typing import Any

from wlshard.jobs.chosen import Seen
from wlshard.jobs.expression import Expression
from wlshard.jobs.look import Numbered
from wlshard.stream.fields import Fields, parse_fields

_ESCAPED = {char: f"\\x{char:02x}" for char in (*range(32), *range(127, 160))}
_ESCAPED |= {ord("\\"): "\\\\", ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"}


def extract(
    samples: Iterable[Numbered], fields: Fields, *, as_json: bool = False, proc: str | None = None
) -> Iterator[str]:
    """Yield a line for each sample, without its end, with the value of each field in `fields`.

    Values are decoded. Between tabs: text and numbers as they are, with backslash, tab, newline and other
    control characters escaped (\\\\ \\t \\n \\r \\x1b), all else as JSON. As JSON: an object, its names the
    words of `fields`. Arrays are nested lists, bytes base64, NaN and infinities null. A field that a sample
    lacks is empty, or null. proc: Python statements that may change or add to the sample `_` before.

    NotFound, at the end: no sample had one of the fields. UserCodeError, CodecError, what reading raises.
    """
    words = parse_fields(fields) or []
    names, seen, count = [";".join(word) for word in words], Seen(words), 0
    code = None if proc is None else Expression(proc, "-P", statements=True)
    for count, (_, sample) in enumerate(samples, 1):  # noqa: B007
        if code is not None:
            code.value(sample)
        values = [None if name is None else sample[name] for name in seen.fields(sample)]
        yield _as_json(dict(zip(names, values, strict=True))) if as_json else "\t".join(map(_cell, values))
    seen.check(count)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes | bytearray | memoryview):
        return b64encode(value).decode()
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        value = _as_json(value)
    return str(value).translate(_ESCAPED)


def _as_json(value: Any) -> str:
    return json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """Give a value as JSON has it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return b64encode(value).decode()
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if hasattr(value, "tolist"):  # arrays and numpy's numbers
        return _plain(value.tolist())
    return str(value)
