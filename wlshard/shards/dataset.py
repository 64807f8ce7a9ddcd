"""One index for a whole data set: its shards, what they were, and where their samples lie.

First line: `wlshard-index v1 <shards>`. Then for each shard a line, `shard <bytes> <mtime> <URL>`, and its
index as it would lie beside it, v1.1: without names. A URL is relative to the index's folder if it can be.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import islice

from wlshard.errors import NotFound, TarError, UsageError, counted
from wlshard.shards.indexing import make_index
from wlshard.store.base import Entry, exists
from wlshard.store.connect import connect, is_local, local_path, locate, write_object
from wlshard.tar.index import ListedShard, index_name, parse_index, without_names

log = logging.getLogger(__name__)

_MAGIC = "wlshard-index v1"
_AT_ONCE = 8  # shards read while an index is made
_TOLD = 3  # names of shards in a warning


def read_dataset(url: str) -> list[str]:
    """List the shards of a data set's index; those that are still what they were need no look of their own.

    Lists the stores of the shards where they can be listed. A shard of another size or time than the index
    says is an ordinary URL, which is said. UsageError: this is an index of something else. TarError: it is
    damaged.
    """
    store, name = locate(url)
    shards: list[str] = []
    told: list[str] = []
    there: dict[str, dict[str, Entry] | None] = {}
    listed = list(_parse(store.read(name), url))
    for shard, mtime in listed:
        folder, _, base = shard.rpartition("/")
        if folder not in there:
            there[folder] = _listing(folder, [str(other) for other, _ in listed])
        entries = there[folder]
        entry = None if entries is None else entries.get(base)
        if entries is None or (entry and (entry.bytes, int(entry.mtime)) == (shard.bytes, mtime)):
            shards.append(shard)
        else:
            shards.append(str(shard))
            told.append(base)
    if told:
        names = ", ".join(told[:_TOLD]) + ", …" * (len(told) > _TOLD)
        log.warning(
            "%s: %s changed since, looked at anew (%s): write it again",
            url,
            counted(len(told), "shard"),
            names,
        )
    return shards


def _listing(folder: str, shards: Sequence[str]) -> dict[str, Entry] | None:
    """List what is in a folder and may be one of the shards; None: the store does not list."""
    store = connect(folder or ".")
    if not store.can.list:
        return None
    names = [shard[len(folder) :].lstrip("/") for shard in shards if shard.rpartition("/")[0] == folder]
    return {entry.name: entry for entry in store.list(os.path.commonprefix(names))}  # noqa: RUF071  # of letters


def _parse(data: bytes, url: str) -> Iterator[tuple[ListedShard, int]]:
    lines = BytesIO(data)
    head = lines.readline().decode("utf-8", "surrogateescape")
    if not head.startswith(_MAGIC + " "):
        raise UsageError(
            "this is no index of a data set: name the shards, or write one with wl-index -o", url=url
        )
    folder = url[: url.rfind("/") + 1]
    count = 0
    while line := lines.readline():
        words = line.decode("utf-8", "surrogateescape").rstrip("\n").split(" ", 3)
        first = lines.readline()
        samples = (first.decode("utf-8", "surrogateescape").split() or [""])[-1]
        if len(words) != 4 or words[0] != "shard" or not all(w.isdecimal() for w in [*words[1:3], samples]):
            raise TarError(f"the index is damaged in shard {count}, from 0: write it again", url=url)
        text = b"".join([first, *islice(lines, int(samples))])
        there = "://" in words[3] or words[3].startswith("/")
        shard = ListedShard(words[3] if there else folder + words[3])
        shard.bytes, shard.known = int(words[1]), parse_index(text, str(shard))
        count += 1
        yield shard, int(words[2])
    if head.split()[-1] != str(count) or not data.endswith(b"\n"):
        raise TarError(f"the index is cut behind {counted(count, 'shard')}: write it again", url=url)


def write_dataset(urls: Sequence[str], output: str, *, force: bool = False) -> Iterator[int]:
    """Write one index of all these shards, whole or not at all; yield the samples of each on the way.

    What lies beside a shard is taken, others are read. Holds the index. UsageError: output is there and
    `force` is off; else as `make_index`.
    """
    if not force and exists(*locate(output)):
        raise UsageError("exists already: --force replaces it", url=output)
    folder = output[: output.rfind("/") + 1]
    parts = [f"{_MAGIC} {len(urls)}\n".encode()]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="wlshard index") as threads:
        for url, (entry, text) in zip(urls, threads.map(_index_of, urls), strict=True):
            name = url.removeprefix(folder) if folder else url
            if is_local(url) and name == url and folder:
                name = os.path.abspath(local_path(url))
            if not name.isprintable():
                raise UsageError("no index can hold this name: rename the shard", url=url)
            parts += [
                f"shard {entry.bytes} {int(entry.mtime)} {name}\n".encode("utf-8", "surrogateescape"),
                text,
            ]
            yield text.count(b"\n") - 1
    write_object(output, b"".join(parts), force=force)


def _index_of(url: str) -> tuple[Entry, bytes]:
    store, name = locate(url)
    entry = store.stat(name)
    try:
        text = store.read(index_name(name))
        fits = parse_index(text, url).starts[-1] < entry.bytes
    except (NotFound, TarError):
        fits = False
    if not fits:
        text = make_index(url).text
        after = store.stat(name)
        if (after.bytes, after.mtime) != (entry.bytes, entry.mtime):
            raise UsageError("the shard has changed while it was read: wait for its writer to end", url=url)
    return entry, without_names(text)
