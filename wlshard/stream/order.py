"""The order of an epoch: which samples are in which batch. Arithmetic on a few integers, nothing else.

The *line* is the shards, permuted, end to end. Its N samples make T = ⌈N/B⌉ batches; batch i belongs to
*lane* i mod C. The line is cut into k bands; band s holds one *strip* of every lane, in an order of its
own, so that a lane touches k places far apart. *Window* j of a lane is the j-th piece of each of its
strips, w samples together, permuted and cut into w/B batches. Workers, ranks and read sizes play no part.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import lcm

from wlshard import seeds

LANES_PER_RANK = 12  # divides by 1, 2, 3, 4, 6: most changes of the world size keep a lane with one rank
STRIPS = 16


@dataclass(frozen=True, slots=True)
class Shape:
    """Batch size B, lanes C, window w and strips k of an order. No lanes (all 0): in order, unshuffled.

    Strips are cut between whole groups of `unit` samples, those that are made of one.
    """

    batch: int
    lanes: int = 0
    window: int = 0
    strips: int = 0
    unit: int = 1


def shape_of(
    batch: int, shuffle: int, world: int, seekable: bool, unit: int = 1, spans: int = STRIPS
) -> Shape:
    """Choose lanes, window and strips so that a rank holds about `shuffle` samples.

    Shards that can only be streamed make one lane with one strip: the shuffle is then local.
    """
    if not shuffle:
        return Shape(batch)
    if not seekable:
        return Shape(batch, 1, batch * max(1, shuffle // batch), 1)
    grain = lcm(batch, unit)
    window = grain * max(1, shuffle // (LANES_PER_RANK * grain))
    return Shape(batch, LANES_PER_RANK * world, window, min(spans, window // unit), unit)


class Line:
    """Shards end to end: `order` lists shard numbers, `counts` their samples."""

    def __init__(self, order: Sequence[int], counts: Sequence[int]) -> None:
        self.order = order
        self.firsts: Sequence[int] | None = None  # sample of each shard at which it begins; None: all at 0
        self.ends = list(accumulate(counts[shard] for shard in order))
        self.samples = self.ends[-1] if self.ends else 0

    @classmethod
    def of(cls, pieces: Sequence[tuple[int, int, int]]) -> Line:
        """Make a line of parts of shards: number, first sample, samples."""
        line = cls(range(len(pieces)), [count for _, _, count in pieces])
        line.order, line.firsts = [shard for shard, _, _ in pieces], [first for _, first, _ in pieces]
        return line

    def spans(self, start: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Give (shard, first sample in it, samples) of each shard that `count` samples from `start` touch."""
        place = bisect_right(self.ends, start)
        while count > 0:
            begin = self.ends[place - 1] if place else 0
            here = min(count, self.ends[place] - start)
            if here:
                first = self.firsts[place] if self.firsts else 0
                yield self.order[place], first + start - begin, here
            start, count, place = start + here, count - here, place + 1


def shard_order(shards: int, shape: Shape, seed: int, epoch: int) -> Sequence[int]:
    """Give the order of the shards in the line: permuted by rng(seed, epoch), or as given without lanes."""
    return seeds.permutation(shards, seed, epoch) if shape.lanes else range(shards)


def window_order(size: int, shape: Shape, seed: int, epoch: int, lane: int, window: int) -> Sequence[int]:
    """Give the order of a window's samples: by rng(seed, epoch, lane, window); as they lie without lanes."""
    return seeds.permutation(size, seed, epoch, lane, window) if shape.lanes else range(size)


class Order:
    """Where each batch of an epoch of `samples` samples lies in the line. Holds C·k integers.

    Without lanes a window is `grain` batches: how much is read at a time, no part of the order.
    """

    def __init__(self, samples: int, shape: Shape, seed: int, epoch: int, grain: int = 1) -> None:
        self.samples = samples
        self.shape = shape
        self.seed = seed
        self.epoch = epoch
        self.batch = shape.batch
        self.lanes = shape.lanes or 1
        self.window = shape.window or shape.batch * grain
        self.strips = shape.strips or 1
        self.batches = -(-samples // shape.batch)
        self._starts = self._lay_strips()

    def lane_samples(self, lane: int) -> int:
        """Count the samples of a lane: whole batches, but for the lane that has the epoch's last one."""
        whole = -(-(self.batches - lane) // self.lanes) * self.batch if lane < self.batches else 0
        last = (self.batches - 1) % self.lanes
        return whole - (self.batches * self.batch - self.samples) if lane == last else whole

    def window_samples(self, lane: int, window: int) -> int:
        """Count the samples of a window: w, but for a lane's last one."""
        return min(self.window, self.lane_samples(lane) - window * self.window)

    def locate(self, batch: int) -> tuple[int, int, int]:
        """Give (lane, window, first sample in the permuted window) of a batch."""
        number, lane = divmod(batch, self.lanes)
        window, inside = divmod(number, self.window // self.batch)
        return lane, window, inside * self.batch

    def batch_at(self, lane: int, window: int, first: int) -> int:
        """Give the batch that begins at this sample of the permuted window; undoes `locate`."""
        return ((window * self.window + first) // self.batch) * self.lanes + lane

    def worker_of(self, batch: int, world: int, workers: int) -> int:
        """Give the worker, of those of a rank, that builds the window in which a batch lies."""
        lane, window, _ = self.locate(batch)
        return (window * self.lanes // world + lane // world) % workers

    def pieces(self, lane: int, window: int) -> list[tuple[int, int]]:
        """Give (first sample in the line, samples) of a window's piece of each strip."""
        size = self.window_samples(lane, window)
        return [
            (self._starts[strip][lane] + window * self._piece(strip, self.window), self._piece(strip, size))
            for strip in range(self.strips)
        ]

    def strip_end(self, lane: int, strip: int) -> int:
        """Give the place in the line where a strip ends."""
        return self._starts[strip][lane] + self._strip_samples(lane, strip)

    def permutation(self, lane: int, window: int) -> Sequence[int]:
        """Give, for each place of the permuted window, which sample of its pieces end to end stands there."""
        size = self.window_samples(lane, window)
        return window_order(size, self.shape, self.seed, self.epoch, lane, window)

    def _piece(self, strip: int, size: int) -> int:
        groups, unit = size // self.shape.unit, self.shape.unit
        piece = ((strip + 1) * groups // self.strips - strip * groups // self.strips) * unit
        return piece + size % unit if strip == self.strips - 1 else piece

    def _strip_samples(self, lane: int, strip: int) -> int:
        full, last = divmod(self.lane_samples(lane), self.window)
        return full * self._piece(strip, self.window) + self._piece(strip, last)

    def _lay_strips(self) -> list[list[int]]:
        place = 0
        starts = []
        for strip in range(self.strips):
            band = [0] * self.lanes
            for lane in self._band_order(strip):
                band[lane] = place
                place += self._strip_samples(lane, strip)
            starts.append(band)
        return starts

    def _band_order(self, strip: int) -> Sequence[int]:
        if not self.shape.lanes:
            return (0,)
        return seeds.permutation(self.lanes, self.seed, self.epoch, strip)
