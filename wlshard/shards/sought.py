"""The samples of many shards from one on, by their indexes where they have them."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from wlshard.errors import WlshardError
from wlshard.sample import Sample
from wlshard.shards.reader import in_turn, read_samples
from wlshard.store.connect import locate
from wlshard.tar.index import ListedShard, index_name
from wlshard.tar.tape import MAX_MEMBER_BYTES


def samples_from(
    shards: Sequence[str], first: int, *, max_member_bytes: int = MAX_MEMBER_BYTES
) -> Generator[Sample, None, int]:
    """Yield the samples of these shards, one after the other, from number `first` (counted from 0) on.

    At the end give how many are missing before that one.

    What an index beside a shard lets pass is not read; other shards are read, from their start. Streams, as
    `read_samples`.
    """
    with in_turn(shards):
        return (yield from _from(shards, first, max_member_bytes))


def _from(shards: Sequence[str], left: int, max_member_bytes: int) -> Generator[Sample, None, int]:
    for shard in shards:
        if left and _has_index(shard):
            from wlshard.shards.access import ShardAccess  # for the first sample nobody waits for it

            with ShardAccess(shard, max_member_bytes=max_member_bytes) as access:
                count = access.samples if access.seekable else None
                if count is not None:
                    if left < count:  # whether the index fits the tar is seen here, at no cost
                        yield from access.read(left, 1)
                        yield from access.stream(left + 1)
                    left = max(0, left - count)
                    continue
        for sample in read_samples(shard, max_member_bytes=max_member_bytes):
            if left:
                left -= 1
            else:
                yield sample
    return left


def _has_index(shard: str) -> bool:
    """Tell whether an index lies beside a shard."""
    if shard == "-" or isinstance(shard, ListedShard):
        return shard != "-"
    store, name = locate(shard)
    try:
        store.stat(index_name(name))
    except WlshardError:  # not there, or not to be asked for: reading on finds the sample, too
        return False
    return True
