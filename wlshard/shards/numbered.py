"""Outputs named by number: the shards of earlier runs, which must not be mixed with those of this one."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator

from wlshard.errors import UsageError
from wlshard.shards.output import STDOUT
from wlshard.store.base import Store, object_url
from wlshard.store.connect import is_local, locate
from wlshard.tar.index import index_name

_NUMBER = r"(?:\{(\d+)\.\.\d+(?:\.\.\d+)?\}|@(\d+)|%0?(\d*)d)"
_OF_INDEX = re.compile(r"((?:.*/)?)\.([^/.]+)\.idx\.[0-9a-f]{16}", re.DOTALL)  # how stores put them
_NUMBERED = re.compile(rf"([^{{}}@%]*){_NUMBER}([^{{}}@%]*)", re.DOTALL)


def refuse_numbered(output: str, but: Collection[str] = ()) -> None:
    """Raise UsageError if a shard is there that belongs to the template `output`, other than `but` these.

    That is any number in the place of the one in `out-%06d.tar`, `out-{0000..0009}.tar` or `out-@0010.tar`;
    of other names nothing is known. Does nothing where the store cannot list.
    """
    for store, name in _found(output, but):
        advice = "exists already, and would be taken for one of these: choose another name, or --force"
        raise UsageError(f"{advice} to replace all of them", url=object_url(store.url, name))


def delete_numbered(output: str, but: Collection[str] = ()) -> None:
    """Delete what `refuse_numbered` would refuse: each shard, then its index."""
    for store, name in _found(output, but):
        store.delete(name)
        store.delete(index_name(name))


def drop_scratch(output: str) -> None:
    """Delete what writers of such shards, and of their indexes, left on this machine that died."""
    if output == STDOUT or not is_local(output):
        return
    store, start = locate(output)
    wanted, after = re.compile(re.escape(start), re.DOTALL), os.path.basename(start)
    found, parts = _pattern(output), _NUMBERED.fullmatch(output)
    if found is not None and parts is not None:
        (store, start, wanted), after = found, parts[5]
    folder, slash, base = start.rpartition("/")
    ending = after.partition(".")[2]
    for prefix in (start, f"{folder}{slash}.{base.partition('.')[0]}"):
        for one in list(store.drafts(prefix)):
            if wanted.fullmatch(_OF_INDEX.sub(rf"\1\2.{ending}", one.name)):
                store.drop(one.name)


def _found(output: str, but: Collection[str]) -> Iterator[tuple[Store, str]]:
    found = _pattern(output)
    if found is not None and found[0].can.list:
        store, start, wanted = found
        kept = {object_url(where.url, name) for where, name in map(locate, but)}
        there = sorted(one.name for one in store.list(start) if wanted.fullmatch(one.name))
        yield from ((store, name) for name in there if object_url(store.url, name) not in kept)


def _pattern(output: str) -> tuple[Store, str, re.Pattern[str]] | None:
    parts = _NUMBERED.fullmatch(output)
    if parts is None:
        return None
    before, first, count, percent, after = parts.groups()
    width = len(first or count or "") or int(percent or 1)
    store, name = locate(f"{before}0")
    start, end = name[:-1], re.escape(after)
    return store, start, re.compile(rf"{re.escape(start)}(\d{{{width}}}|[1-9]\d{{{width},}}){end}")
