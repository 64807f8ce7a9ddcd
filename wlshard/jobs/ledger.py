"""The ledger of samples that failed: a line of JSON each, `{url, key, number, error}`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from wlshard.errors import NotFound, UsageError
from wlshard.store.connect import is_local, local_path
from wlshard.store.files import errors_of


def ledger_name(output: str) -> str:
    """Name the ledger beside an output: `out-{0000..0099}.tar` has `out.failed.jsonl`; in the current folder
    where the output is no file."""
    folder, slash, base = local_path(output).rpartition("/") if is_local(output) else ("", "", output)
    stem = re.split(r"[{%@.]", base.rpartition("/")[2], maxsplit=1)[0].rstrip("-_")
    return f"{folder}{slash}{stem or 'samples'}.failed.jsonl"


def append(path: str, failed: Sequence[Mapping[str, Any]]) -> None:
    """Add failures; they are durable on return."""
    if failed:
        lines = "".join(json.dumps(one) + "\n" for one in failed)
        with errors_of(path), open(path, "a", encoding="ascii") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())


def read(path: str) -> dict[str, list[str]]:
    """Give the keys of the samples that failed, by the URL of their shard, in the order of the ledger.

    NotFound: there is none; UsageError: a line that is none of a ledger, or no line at all.
    """
    keys: dict[str, list[str]] = {}
    number = 0
    try:
        with errors_of(path), open(path, encoding="utf-8") as file:
            for line in file:
                number += 1
                one = json.loads(line)
                of_shard = keys.setdefault(one["url"], [])
                if one["key"] not in of_shard:
                    of_shard.append(one["key"])
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"line {number} is none of a ledger of failed samples", url=path) from error
    except NotFound as error:
        raise NotFound(
            "there is no such ledger: nothing failed, or it is called otherwise", url=path
        ) from error
    if not keys:
        raise UsageError("this ledger names no sample: there is nothing to do again", url=path)
    return keys
