"""Rows of text from samples: tab-separated values, or one JSON object a line."""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from wlshard.errors import NotFound, counted
from wlshard.jobs.expression import Expression
from wlshard.jobs.look import Numbered
from wlshard.stream.fields import Fields, parse_fields
from wlshard.stream.lazy import LazySample

Format = Literal["tsv", "json"]

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_UNSAFE = re.compile(r"[\\\x00-\x1f\x7f-\x9f]")


def extract(
    samples: Iterable[Numbered], fields: Fields, *, form: Format = "tsv", proc: str | None = None
) -> Iterator[str]:
    """Yield a line for each sample, without its end, with the value of each field in `fields`.

    Values are decoded. tsv: text and numbers as they are, with backslash, tab, newline and other control
    characters escaped (\\\\ \\t \\n \\r \\x1b), all else as JSON. json: an object, its names the words of
    `fields`. Arrays are nested lists, bytes base64, NaN and infinities null. A field that a sample lacks is
    empty, or null. proc: Python statements that may change or add to the sample `_` before.

    NotFound, at the end: no sample had one of the fields. UserCodeError, CodecError, what reading raises.
    """
    words = parse_fields(fields) or []
    names = [";".join(word) for word in words]
    code = None if proc is None else Expression(proc, "-P", statements=True)
    seen, count, last = [False] * len(words), 0, None
    for _, sample in samples:
        if code is not None:
            code.value(sample)
        count, last = count + 1, sample
        values = []
        for place, word in enumerate(words):
            found = next((name for name in word if name in sample), None)
            seen[place] = seen[place] or found is not None
            values.append(None if found is None else sample[found])
        yield _as_json(dict(zip(names, values, strict=True))) if form == "json" else _as_tsv(values)
    if last is not None and not all(seen):
        raise _missing(names[seen.index(False)], count, last)


def _missing(name: str, count: int, last: LazySample) -> NotFound:
    there = " ".join(last)
    return NotFound(f"none of {counted(count, 'sample')} had the field {name!r}; the last one has: {there}")


def _as_tsv(values: list[Any]) -> str:
    return "\t".join(["" if value is None else _cell(value) for value in values])


def _cell(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return b64encode(value).decode()
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        value = _as_json(value)
    return _UNSAFE.sub(_escape, str(value))


def _escape(found: re.Match[str]) -> str:
    char = found[0]
    return _ESCAPES.get(char) or f"\\x{ord(char):02x}"


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
