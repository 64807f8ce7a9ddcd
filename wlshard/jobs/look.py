"""Samples to be looked at by a command: so many, from one on, mixed or not, those that the user selects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice

from wlshard import seeds
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
    count_samples: int | None = None,
    select: str | None = None,
    shuffle_samples: int = 0,
    seed: int | None = None,
    images: bool | str = True,
    max_member_bytes: int = MAX_MEMBER_BYTES,
) -> Iterator[Numbered]:
    """Yield samples with their numbers: shuffle, then skip, then select, then count.

    skip: samples passed over before any is selected, by index where one is beside the shard. select: Python
    that is true of the samples wanted. shuffle_samples: mix over so many, which are held, and the order of
    the shards; numbers are then of the mixed order. seed: of that, fresh if None. UsageError, UserCodeError,
    and what reading raises.
    """
    wanted = None if select is None else Expression(select, "-S")
    if count_samples == 0:
        return
    found = _stream(shards, skip, shuffle_samples, seed, max_member_bytes)
    numbered = zip(count(skip), (LazySample(sample, images) for sample in found), strict=False)
    selected = (each for each in numbered if wanted is None or wanted.holds(each[1]))
    yield from islice(selected, count_samples)


def _stream(
    shards: Sequence[str], skip: int, shuffle_samples: int, seed: int | None, most: int
) -> Iterator[Sample]:
    if not shuffle_samples:
        return samples_from(shards, skip, max_member_bytes=most)
    random = seeds.rng(seeds.fresh_seed() if seed is None else seed, "look")
    order = sorted(shards, key=lambda _: random.random())
    read = (one for shard in order for one in read_samples(shard, copy=True, max_member_bytes=most))
    return islice(shuffled(read, shuffle_samples, random), skip, None)
