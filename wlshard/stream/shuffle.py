"""Mix a stream of samples that cannot be read at random."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random

from wlshard.errors import UsageError
from wlshard.sample import Sample


def shuffled(samples: Iterable[Sample], held_samples: int, random: Random) -> Iterator[Sample]:
    """Yield the samples, each in place of one drawn from the `held_samples` before it, then the rest mixed.

    Holds so many samples: give it ones that hold no block of a shard alive (`read_samples(copy=True)`).
    """
    if held_samples < 1:
        raise UsageError(f"a shuffle over {held_samples} samples: hold at least 1")
    held: list[Sample] = []
    for sample in samples:
        if len(held) < held_samples:
            held.append(sample)
            continue
        place = int(random.random() * held_samples)
        held[place], sample = sample, held[place]
        yield sample
    while held:
        place = int(random.random() * len(held))
        held[place], held[-1] = held[-1], held[place]
        yield held.pop()
