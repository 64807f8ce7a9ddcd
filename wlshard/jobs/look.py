"""Samples to be looked at by a command: so many, from one on, mixed or not, those that the user selects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from wlshard import seeds
from wlshard.errors import NotFound
from wlshard.jobs.expression import Expression
from wlshard.sample import Sample
from wlshard.shards.reader import read_samples
from wlshard.shards.sought import samples_from
from wlshard.stream.lazy import LazySample
from wlshard.stream.shuffle import shuffled
from wlshard.tar.tape import MAX_MEMBER_BYTES

Numbered = tuple[int, LazySample]


def look(
    shards: Sequence[str],
    *,
    skip: int = 0,
    count: int | None = None,
    select: str | None = None,
    shuffle: int = 0,
    seed: int | None = None,
    images: bool | str = True,
    max_member_bytes: int = MAX_MEMBER_BYTES,
) -> Iterator[Numbered]:
    """Yield samples with their numbers: shuffle, then skip, then select, then count.

    skip: samples passed over before any is selected, by index where one is beside the shard. select: Python
    that is true of the samples wanted. shuffle: mix over so many, which are held, and the order of the
    shards; numbers are then of the mixed order. seed: of that, fresh if None. UsageError, UserCodeError,
    and what reading raises.
    """
    wanted = None if select is None else Expression(select, "-S")
    if count == 0:
        return
    found = _stream(shards, skip, shuffle, seed, max_member_bytes)
    numbered = enumerate((LazySample(sample, images) for sample in found), skip)
    yield from islice((one for one in numbered if wanted is None or wanted.holds(one[1])), count)


def first(found: Iterator[Numbered], url: str, skip: int, select: str | None) -> Numbered:
    """Give the first of the samples found. NotFound: there is none."""
    for one in found:
        return one
    raise NotFound(f"no sample after {skip} others" + (" of which -S is true" if select else ""), url=url)


def _stream(shards: Sequence[str], skip: int, shuffle: int, seed: int | None, most: int) -> Iterator[Sample]:
    if not shuffle:
        return samples_from(shards, skip, max_member_bytes=most)
    random = seeds.rng(seeds.fresh_seed() if seed is None else seed, "look")
    order = sorted(shards, key=lambda _: random.random())
    read = (one for shard in order for one in read_samples(shard, copy=True, max_member_bytes=most))
    return islice(shuffled(read, shuffle, random), skip, None)
