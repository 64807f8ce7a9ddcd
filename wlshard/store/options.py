"""What users say about stores: `--storage-options`, `storage_options=`; one setting for a whole process.

It stands in the environment, so that the processes started from here have it, too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from wlshard.errors import UsageError

VARIABLE = "WLSHARD_STORAGE_OPTIONS"


def use_options(options: Mapping[str, Any] | None, **ours: str | int | None) -> None:
    """Add these to the storage options of this process and of those that it starts.

    Names as in fsspec's s3fs and gcsfs (`anon`, `endpoint_url`, `requester_pays`, `project`, `token`, `key`,
    `secret`, `profile` …), and ours, where they are not None: `http_proxy`, `cache_dir`, `cache_bytes`,
    `allow_pipe`. What stands under a scheme, {"s3": {…}}, holds for that one.
    """
    if ours.get("cache_bytes") is None:
        ours.pop("cache_dir", None)  # it is for something else
    new = {**(options or {}), **{name: value for name, value in ours.items() if value is not None}}
    if new:
        try:
            os.environ[VARIABLE] = json.dumps(_standing() | new)
        except TypeError as error:
            raise UsageError("storage options are plain JSON values: text, numbers, lists, dicts") from error


def parse_options(text: str) -> dict[str, Any]:
    """Read what a command was given: a JSON object, or k=v,k=v."""
    if text.lstrip().startswith("{"):
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError:  # its text may hold secrets, so may the error's
            raise UsageError("storage options are no JSON object: check quotes and brackets") from None
        return found
    pairs = [part.partition("=") for part in text.split(",") if part]
    if not all(equals and name.strip() for name, equals, _ in pairs):
        raise UsageError('write storage options like anon=true,endpoint_url=http://… or {"anon": true}')
    return {name.strip(): _value(value) for name, _, value in pairs}


def options_for(url: str) -> dict[str, Any]:
    """Give the options that hold for a URL's scheme."""
    standing = _standing()
    own = standing.get(url.partition("://")[0].lower(), {})
    return {**{k: v for k, v in standing.items() if k not in _SCHEMES or not isinstance(v, dict)}, **own}


def foreign_options(url: str) -> dict[str, Any]:
    """Give the options that hold for a URL's scheme, without those that are ours alone."""
    return {name: value for name, value in options_for(url).items() if name not in _OURS}


def size_of(text: str | int) -> int:
    """Read a size: `268435456`, `256M`, `256MiB`; units are powers of 1024. UsageError."""
    parsed = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", str(text).strip().lower())
    if parsed is None:
        raise UsageError(f"{text!r} is no size: write it like 256M")
    return int(float(parsed[1]) * (1 << _UNITS[parsed[2]]))


def option(url: str, name: str) -> Any:
    """Give one option for a URL, or None."""
    return options_for(url).get(name)


_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_OURS = {"http_proxy", "cache_dir", "cache_bytes", "allow_pipe"}
_SCHEMES = {"s3", "gs", "gcs", "http", "https", "ais"}


def _standing() -> dict[str, Any]:
    text = os.environ.get(VARIABLE)
    if not text:
        return {}
    found = parse_options(text)
    if not isinstance(found, dict):
        raise UsageError(f"${VARIABLE} is no JSON object")
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
