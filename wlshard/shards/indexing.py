"""Indexes for shards that have none: made in one strict pass over the headers, put beside the shard."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

from wlshard.errors import TarError, UsageError
from wlshard.sample import KEY, URL, Sample
from wlshard.shards.expand import STDIN
from wlshard.shards.grouping import Grouper
from wlshard.shards.reader import open_shard, scan_headers
from wlshard.shards.tally import Tally
from wlshard.store.base import Store, exists, object_url
from wlshard.store.connect import locate
from wlshard.tar.compression import plain
from wlshard.tar.index import IndexText, index_name
from wlshard.tar.rare import ELSEWHERE


class NewIndex(NamedTuple):
    """The text of an index, and how many samples it knows of."""

    text: bytes
    samples: int


def make_index(url: str) -> NewIndex:
    """Make the index of a plain shard; `-` is stdin. Reads headers and small members, jumps over large ones.

    Holds about 40 bytes a member. UsageError: the shard is compressed. TarError, GroupingError: the shard is
    not whole and strict, or has members that no index can tell: hard links, sparse files, blanks in a field.
    """
    index = IndexText()
    with open_shard(url) as source:
        tar, compression = plain(source, url)
        if compression is not None:
            advice = "decompress it first, or write it anew without compression"
            raise UsageError(f"a compressed shard ({compression}) cannot have an index: {advice}", url=url)
        grouper, known = Grouper(url, Tally(), listing=True), {KEY, URL}
        grouper.on_run = lambda run: index.extend(run.keys, run.lines)
        with closing(scan_headers(source, tar, url)) as steps:
            for sample in grouper.samples(steps):
                entries = grouper.entries
                if not sample.keys() <= known or ELSEWHERE in sample.values():
                    _check_entries(sample, entries, url)
                    known.update(sample)
                index.add(sample[KEY], entries)
    return NewIndex(index.text(), index.samples)


def _check_entries(sample: Sample, entries: list[str], url: str) -> None:
    """Raise TarError for what an index cannot tell."""
    for entry, (field, payload) in zip(entries, list(sample.items())[2:], strict=True):
        if payload is ELSEWHERE or field.split() != [field]:
            what = "a hard link or a sparse file" if payload is ELSEWHERE else "a blank in the field's name"
            data, _, name = entry[len(field) + 1 :].split(" ", 2)
            advice = "which an index cannot tell: write the shard anew without it"
            raise TarError(f"{what}, {advice}", url=url, member=name, offset=int(data))


def write_index(url: str, *, force: bool = False) -> tuple[str, int]:
    """Make a shard's index and publish it beside the shard, whole; give its URL and how many samples it has.

    UsageError: there is one and `force` is off, or the shard has changed meanwhile; else as `make_index`.
    """
    store, name = locate(url)
    before = store.stat(name)
    made = make_index(url)
    after = store.stat(name)
    if (before.bytes, before.mtime) != (after.bytes, after.mtime):
        raise UsageError("the shard has changed while it was read: wait for its writer to end", url=url)
    index = index_name(name)
    if force:
        store.put(index, made.text)
    elif not store.create(index, made.text):
        raise _exists(store, index)
    else:
        store.sync("")
    return object_url(store.url, index), made.samples


def without_index(urls: Sequence[str]) -> list[str]:
    """List those of the shards that have no index beside them."""
    found = [(url, *locate(url)) for url in urls]
    return [url for url, store, name in found if not exists(store, index_name(name))]


def check_indexable(urls: Sequence[str], *, force: bool) -> None:
    """Refuse, before anything is read, shards that cannot all be given an index. UsageError, NotFound."""
    owner: dict[str, str] = {}
    for url in urls:
        if url == STDIN:
            raise UsageError("stdin is indexed alone, to stdout: wl-index - > x.idx")
        store, name = locate(url)
        index = index_name(name)
        other = owner.setdefault(object_url(store.url, index), url)
        if other != url:
            raise UsageError(f"it would share its index {index} with {other}: rename one of them", url=url)
        if not store.can.write:
            raise UsageError("its store takes no writes: wl-index - < SHARD > x.idx makes one here", url=url)
        store.stat(name)
        if not force and exists(store, index_name(name)):
            raise _exists(store, index)


def _exists(store: Store, index: str) -> UsageError:
    advice = "exists already: --force replaces it, --missing leaves it"
    return UsageError(advice, url=object_url(store.url, index))
