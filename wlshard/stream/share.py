"""Whose batches are whose: step t of rank r is global batch i₀ + t·W + r; how the last step is divided."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple


class Part(NamedTuple):
    """Samples `first` … `first + samples - 1` of a global batch."""

    batch: int
    first: int
    samples: int


class Share:
    """What one rank of `world` gets of an epoch of `samples` samples from global batch `start` on.

    The R < W·B samples of the last step are dropped by `drop_last`; else rank r gets numbers ⌊rR/W⌋ …
    ⌊(r+1)R/W⌋ - 1 of them, or, where R < W leaves it none, one that another rank has too (`padded`).
    Every rank has the same number of `steps`. `mine` tells which of them are made here, by one of several
    workers; all, unless it is set.
    """

    def __init__(
        self,
        samples: int,
        batch: int,
        *,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
    ) -> None:
        left = max(0, samples - start * batch)
        self.batch = batch
        self.start = start
        self.rank = rank
        self.world = world
        self.whole, rest = divmod(left, batch * world)
        self.steps = self.whole + (1 if rest and not drop_last else 0)
        self.low, self.high = divide(rest, rank, world)
        self.mine: Callable[[int], bool] | None = None
        self.padded = 1 if self.steps > self.whole and rest * (rank + 1) // world == self.low else 0

    def step(self, step: int) -> list[Part]:
        """Give the parts of global batches that make this rank's batch of a step."""
        base = self.start + step * self.world
        if step < self.whole:
            return [Part(base + self.rank, 0, self.batch)]
        first, last = self.low // self.batch, -(-self.high // self.batch)
        return [self._cut(base + i, i * self.batch) for i in range(first, last)]

    def first_batch(self, step: int) -> int:
        """Give the first global batch that a step needs."""
        turn = self.rank if step < self.whole else self.low // self.batch
        return self.start + step * self.world + turn

    def steps_here(self) -> Iterable[int]:
        """Give the steps that are made here, in order."""
        return range(self.steps) if self.mine is None else filter(self.mine, range(self.steps))

    def batches(self) -> Iterator[int]:
        """Give the global batches that are needed here, in the order of the steps."""
        for step in self.steps_here():
            if step < self.whole:
                yield self.first_batch(step)
            else:
                yield from (part.batch for part in self.step(step))

    def part(self, batch: int) -> Part | None:
        """Give what is needed here of a global batch, None if nothing."""
        step, turn = divmod(batch - self.start, self.world)
        if step < 0 or step >= self.steps or (self.mine is not None and not self.mine(step)):
            return None
        if step < self.whole:
            return Part(batch, 0, self.batch) if turn == self.rank else None
        part = self._cut(batch, turn * self.batch)
        return part if part.samples > 0 else None

    def _cut(self, batch: int, offset: int) -> Part:
        first = max(self.low - offset, 0)
        return Part(batch, first, min(self.high - offset, self.batch) - first)


def divide(rest: int, rank: int, world: int) -> tuple[int, int]:
    """Give the half-open range of the last step's `rest` samples that goes to a rank; never empty."""
    low = rank * rest // world
    return low, max((rank + 1) * rest // world, min(low + 1, rest))
