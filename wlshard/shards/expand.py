"""From what users write to a list of shard URLs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TypeAlias

from wlshard.errors import NotFound, UsageError
from wlshard.shards.braces import expand_braces, expand_count
from wlshard.store.connect import connect, is_local, is_pipe, local_path, locate
from wlshard.tar.index import SizedShard

Source: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"

STDIN = "-"


def expand(source: Source) -> list[str]:
    """List the shards that a source names, in its order; what stands in folders and globs is sorted.

    `x-{0000..0147}.tar`, `x-{a,b}.tar`, `x-@000148.tar` (the same as 000000 … 000147), `a.tar::b.tar`, a glob
    or a folder (its `*.tar*`) where the store can list, a wids JSON index (its urls relative to it), a data
    set's index (`x.idx`, see `shards.dataset`), `-` for stdin, `pipe:COMMAND` where that is allowed, or a
    list of all these. A local file that is there under the whole name is just that file.
    NotFound: a glob, a folder or a list without a shard. UsageError: a range, a brace or an index that makes
    no sense. Names that come from braces are not looked for: opening them does that.
    """
    if isinstance(source, str | os.PathLike):
        shards = list(_expand_text(os.fspath(source)))
    elif isinstance(source, Iterable):
        shards = list(chain.from_iterable(expand(part) for part in source))
    else:
        raise UsageError(f"{source!r} names no shard: give a path, a URL, or a list of them")
    if not shards:
        raise NotFound("a list of no shards: name at least one")
    return shards


def _expand_text(text: str) -> Iterator[str]:
    if not text:
        raise UsageError("an empty name of a shard: give a path, a URL or - for stdin")
    if text == STDIN or (_is_file(text) and not text.endswith((".json", ".idx"))):
        yield text
    elif len(parts := _split_list(text)) > 1:
        for part in parts:
            yield from _expand_text(part)
    else:
        for url in expand_braces(text):
            for one in [url] if is_pipe(url) else expand_count(url):
                yield from _look(one)


def _split_list(text: str) -> list[str]:
    """Split at `::`, but not inside brackets: http://[::1]/x.tar is one URL."""
    parts, depth = [""], 0
    pieces = text.split("::")
    for number, piece in enumerate(pieces):
        parts[-1] += piece
        depth += piece.count("[") - piece.count("]")
        if number < len(pieces) - 1:
            if depth > 0:
                parts[-1] += "::"
            else:
                parts.append("")
    return parts


def _is_file(text: str) -> bool:
    return is_local(text) and os.path.isfile(local_path(text))


def _look(url: str) -> Iterator[str]:
    """Give what a single name stands for: a glob's or a folder's shards, an index's, or itself."""
    local = is_local(url)
    if is_pipe(url):
        yield url
    elif local and os.path.isdir(local_path(url)):
        yield from _list_folder(url)
    elif url.endswith(".json"):
        yield from _read_list(url)
    elif url.endswith(".idx"):
        from wlshard.shards.dataset import read_dataset

        yield from read_dataset(url)
    elif any(char in url for char in ("*?[" if local else "*")) and url != STDIN:
        yield from _list_glob(url)
    elif url.endswith("/"):
        yield from _list_folder(url)
    else:
        yield url


def _list_folder(url: str) -> list[str]:
    folder = url.rstrip("/") or "/"
    names = _names(folder)
    if "wlshard.json" in names:
        raise UsageError("a pool, where a list of shards is needed: name a folder of plain tars", url=url)
    folder = folder.rstrip("/")
    found = [_sized(f"{folder}/{name}", names[name]) for name in names if ".tar" in name and _is_shard(name)]
    if not found:
        raise NotFound("no shard (*.tar*) in this folder: check its name", url=url)
    return found


def _list_glob(pattern: str) -> list[str]:
    if is_local(pattern):
        from glob import glob

        found = [
            path for path in sorted(glob(local_path(pattern))) if os.path.isfile(path) and _is_shard(path)
        ]
    else:
        from fnmatch import fnmatchcase

        folder, _, last = pattern.rpartition("/")
        if "*" in folder:
            raise UsageError("wildcards may stand in the last part of a URL only", url=pattern)
        names = _names(folder, re.split(r"[*?[]", last)[0])
        found = [
            _sized(f"{folder}/{name}", names[name])
            for name in names
            if fnmatchcase(name, last) and _is_shard(name)
        ]
    if not found:
        raise NotFound("no shard matches this pattern: check the folder and the pattern", url=pattern)
    return found


def _names(folder: str, prefix: str = "") -> dict[str, int]:
    """List the objects right in a folder, sorted, with their bytes (0: not known)."""
    if is_local(folder):
        path = local_path(folder)
        return dict.fromkeys(
            sorted(name for name in os.listdir(path) if os.path.isfile(os.path.join(path, name))), 0
        )
    store = connect(folder)
    if not store.can.list:
        raise UsageError("this store cannot list: name its shards, like x-{0000..0147}.tar", url=folder)
    return {entry.name: entry.bytes for entry in sorted(store.list(prefix)) if "/" not in entry.name}


def _sized(url: str, size: int) -> str:
    if not size:
        return url
    shard = SizedShard(url)
    shard.bytes = size
    return shard


def _is_shard(name: str) -> bool:
    return not name.endswith((".idx", ".partial", ".json")) and not os.path.basename(name).startswith(".")


def _read_list(url: str) -> list[str]:
    """Read the shardlist of a wids index: {"shardlist": [{"url": …}, …]}."""
    import json

    store, name = locate(url)
    try:
        shards = [entry["url"] for entry in json.loads(store.read(name))["shardlist"]]
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            'no wids index: {"shardlist": [{"url": "x.tar"}, …]} is expected', url=url
        ) from error
    if not shards or not all(isinstance(shard, str) and shard for shard in shards):
        raise UsageError("this wids index lists no shard, or one without a url", url=url)
    if any(shard[:5].lower() == "pipe:" for shard in shards):
        raise UsageError("a list may not name commands to be run: name them yourself", url=url)
    folder = url[: url.rfind("/") + 1]
    return [shard if "://" in shard or shard.startswith("/") else folder + shard for shard in shards]
