"""What users say about stores: `--storage-options`, `storage_options=`; one setting for a whole process.

It stands in the environment, so that the processes started from here have it, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from wlshard.errors import UsageError

VARIABLE = "WLSHARD_STORAGE_OPTIONS"


def use_options(options: Mapping[str, Any] | None, *, http_proxy: str | None = None) -> None:
    """Add these to the storage options of this process and of those that it starts.

    Names as in fsspec's s3fs and gcsfs (`anon`, `endpoint_url`, `requester_pays`, `project`, `token`, `key`,
    `secret`, `profile` …), and `http_proxy`. What stands under a scheme, {"s3": {…}}, holds for that one.
    """
    new = {**(options or {}), **({"http_proxy": http_proxy} if http_proxy is not None else {})}
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


def option(url: str, name: str) -> Any:
    """Give one option for a URL, or None."""
    return options_for(url).get(name)


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
