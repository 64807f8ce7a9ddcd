"""Indexes of local shards that have none: found by hopping from header to header, kept in a cache folder."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import zlib
from array import array
from collections.abc import Iterator
from contextlib import closing, suppress

from wlshard.shards.grouping import Grouper
from wlshard.shards.reader import OnError, open_shard, read_samples, scan_headers
from wlshard.shards.tally import Tally
from wlshard.store.connect import local_path
from wlshard.tar.header import END_MARK
from wlshard.tar.reader import Found

log = logging.getLogger(__name__)

_MAGIC = b"wlshard scan 1\n"


def find_starts(url: str, cache_dir: str | None, on_error: OnError, tally: Tally) -> array[int]:
    """Give where each sample of a plain local shard begins, and where the last one ends.

    Reads the headers, and payloads below 128 KiB with them, once for each state of the file (path, size,
    mtime). TarError, GroupingError; with `on_error="skip"` the samples that are good.
    """
    place = _place(url, cache_dir)
    starts = _load(place)
    if starts is None:
        faults = tally.faults
        starts = _scan(url, on_error, tally)
        if tally.faults == faults:
            _keep(place, starts)
    return starts


def count_samples(url: str, cache_dir: str | None, on_error: OnError, tally: Tally) -> int:
    """Count the samples of a compressed local shard by reading it whole, once for each state of the file."""
    place = _place(url, cache_dir)
    kept = _load(place)
    if kept is not None:
        return kept[0]
    faults = tally.faults
    count = sum(1 for _ in read_samples(url, on_error=on_error, tally=tally))
    if tally.faults == faults:
        _keep(place, array("Q", [count]))
    return count


def _scan(url: str, on_error: OnError, tally: Tally) -> array[int]:
    starts, end = array("Q"), 0

    def noted(steps: Iterator[Found]) -> Iterator[Found]:
        nonlocal end
        for found in steps:
            if found.ends:
                end = found.at - len(END_MARK)
            elif found.fault is not None and found.fault.offset is not None:
                end = found.fault.offset  # there may be no end mark behind it
            yield found

    with open_shard(url) as source:
        grouper = Grouper(url, tally, skip=on_error == "skip")
        with closing(scan_headers(source, source, url, tally.passed_over)) as steps:
            for _ in grouper.samples(noted(steps)):
                starts.append(grouper.at)
    starts.append(end)
    return starts


def _place(url: str, cache_dir: str | None) -> str:
    path = os.path.realpath(local_path(url))
    state = os.stat(path)
    name = hashlib.sha256(f"{path}\0{state.st_size}\0{state.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    if cache_dir is None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        cache_dir = os.path.join(home, "wlshard", "index")
    return os.path.join(cache_dir, name.hexdigest())


def _load(place: str) -> array[int] | None:
    try:
        with open(place, "rb") as file:
            data = file.read()
    except OSError:
        return None
    body, check = data[len(_MAGIC) : -4], data[-4:]
    if not data.startswith(_MAGIC) or len(body) % 8 or zlib.crc32(body) != int.from_bytes(check, "little"):
        return None  # written by a process that died, or by another version
    starts = array("Q", body)
    if sys.byteorder == "big":
        starts.byteswap()
    return starts


def _keep(place: str, starts: array[int]) -> None:
    """Put the result into the cache, whole or not at all. A cache that cannot be written is done without."""
    held = array("Q", starts)
    if sys.byteorder == "big":
        held.byteswap()
    body = held.tobytes()
    scratch = f"{place}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(scratch, "xb") as file:
            file.write(_MAGIC + body + zlib.crc32(body).to_bytes(4, "little"))
        os.replace(scratch, place)
    except OSError as error:
        log.info("the index found for a shard is not kept: %s", error)
        with suppress(OSError):
            os.unlink(scratch)
