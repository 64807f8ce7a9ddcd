"""One epoch on one rank: samples, as read, step by step, from a global batch on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from math import gcd
from typing import Any, Protocol, TypeAlias

from wlshard.shards.reader import in_turn
from wlshard.stream.ahead import ReadAhead
from wlshard.stream.data import AHEAD_BYTES, Data
from wlshard.stream.order import Order, Shape, shard_order
from wlshard.stream.recipe import Step
from wlshard.stream.share import Share
from wlshard.stream.window import (
    Placed,
    Read,
    Sequential,
    Strips,
    Window,
    dealt,
    shuffled,
    steps_of,
    windows,
)
from wlshard.tar.blocks import is_reader

STREAM_BYTES = 2**20  # a block of the tar reader, which holds two, or two members if they are larger
# What Python holds besides a sample's payloads: a dict, its key, a view for each of three fields.
SAMPLE_OBJECTS_BYTES = 2**10
INDEX_BYTES = 16  # of a sample: where it lies, and what tells a key that comes back
INDEX_TEXT_BYTES = 128  # of a sample, while its shard's index is parsed: three members take about 100
REST_BYTES = 2**21  # threads, codecs: 1.5 MiB seen beside the above
FAR_BYTES = 2**27  # a far store reads ahead as much (see store.ranges)
HELD_SAMPLES = 64  # taken at a time of a list, whose samples are in memory
SMALL_BYTES = 2**15  # a sample
DEPTH = 2  # windows read ahead, beyond the one that each lane holds


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides which samples an epoch gives to this rank, and in which order."""

    shape: Shape
    seed: int
    epoch: int
    start: int  # the first global batch
    rank: int
    world: int
    drop_last: bool
    skip: bool  # bad samples take their place in the order as errors, instead of ending the epoch
    worker: int = 0  # of those that share this rank's steps
    workers: int = 1
    given: int = 0  # samples selected of the first step that were given before
    by_turns: bool = False  # they take steps in turn, as a torch DataLoader asks its workers, not by window

    @property
    def stride(self) -> int:
        """Give how many global batches a step goes on by."""
        return self.world * self.workers if self.by_turns else self.world


# Makes a step of samples as read, of the epoch's number and, where ranks must keep step, of samples to come.
Make: TypeAlias = Callable[[list[Placed], int, Iterator[Placed] | None], Step]


class Run(Protocol):
    """An epoch under way, made in this process or by workers."""

    data: Data
    plan: Plan

    @property
    def waited_s(self) -> float: ...

    def step(self) -> Step | None: ...

    def announced_bytes(self) -> int | None: ...

    def close(self) -> None: ...


class Epoch:
    """Make the steps of an epoch in this process; reads ahead in a thread, which `close()` ends.

    `share` is None where the data must be streamed to be counted.
    """

    def __init__(self, data: Data, plan: Plan, make: Make) -> None:
        self.data = data
        self.plan = plan
        self.share: Share | None = None
        self._make = make
        self._later: deque[tuple[list[Placed], int]] = deque()  # steps looked at before their turn
        self.held_samples = 0
        self._unreleased = 0
        self._release_at = 1
        self._ahead: ReadAhead[Any]
        self._owner: Callable[[int], int] = self._by_step
        self._steps = self._streamed() if data.counts is None else self._counted()

    @property
    def waited_s(self) -> float:
        return self._ahead.waited_s

    def step(self) -> Step | None:
        """Make the next step; None behind the last one."""
        placed, padded = self._later.popleft() if self._later else next(self._steps, (None, 0))
        if placed is None:
            return None
        shared = self.plan.skip and self.plan.world > 1
        step = self._make(placed, self.plan.epoch, self._look_ahead() if shared else None)
        self._unreleased += len(placed)
        if self._unreleased >= self._release_at:
            self._ahead.release(self._unreleased)
            self._unreleased = 0
        return step._replace(padded=step.padded + padded) if padded else step

    def _look_ahead(self) -> Iterator[Placed]:
        """Give the samples of the steps to come; they are held, and come again in their turn."""
        for number in count():
            if number == len(self._later):
                step = next(self._steps, None)
                if step is None:
                    return
                self._later.append(step)
            yield from self._later[number][0]

    def announced_bytes(self, batches: int = 2) -> int | None:
        """Give the bytes held at most: samples read and not given, blocks read into, indexes, and `batches`.

        By default the one that the consumer looks at while the next is made. None where sizes are not known.
        """
        size, shape = self.data.sample_bytes, self.plan.shape
        if size is None:
            return None
        blocks = 2.0 * max(STREAM_BYTES, size)
        if not self._streams():
            strips = shape.strips or 1
            each = self.data.piece_bytes(strips)
            blocks = self._lanes(shape.lanes or 1) * strips * 2 * each
            if self.data.remote:
                blocks += AHEAD_BYTES + max(shape.window * size, strips * each)
        elif self.data.remote:
            blocks += FAR_BYTES
        samples = (self.held_samples + batches * shape.batch) * (size + SAMPLE_OBJECTS_BYTES)
        counts = self.data.counts or (0,)
        return int(samples + blocks + INDEX_BYTES * sum(counts) + INDEX_TEXT_BYTES * max(counts)) + REST_BYTES

    def close(self) -> None:
        self._ahead.close()
        self._steps = iter(())  # and the windows it holds: our own references are a cycle
        self._later.clear()

    def _counted(self) -> Iterator[tuple[list[Placed], int]]:
        plan, data = self.plan, self.data
        line = data.line(plan.shape, plan.seed, plan.epoch)
        order = Order(line.samples, plan.shape, plan.seed, plan.epoch, self._grain())
        share = self.share = share_of(line.samples, plan)
        self._owner = self._by_window(order, share) if data.seekable and not plan.by_turns else self._by_step
        if plan.workers > 1:
            share.mine = lambda step: self._owner(step) == plan.worker
        read: Read
        ahead = None
        if self._streams():
            read = Sequential(data, line, skip=plan.skip).read
        else:
            alone = order.lanes % plan.world == 0 and order.lanes // plan.world % plan.workers == 0
            strips = Strips(data, order, line, skip=plan.skip, ahead=alone)
            read, ahead = strips.read, strips if data.remote else None
        limit = (self._lanes(order.lanes) + DEPTH) * order.window
        self.held_samples = limit + order.window
        self._release_at = max(1, order.window // 2)
        held = 0 if data.in_memory else limit
        # To read small samples takes Python's time more than the disk's: in a worker, which takes no steps
        # meanwhile, a second thread would only make the first one wait.
        small = (data.sample_bytes or SMALL_BYTES) < SMALL_BYTES
        here = is_reader() and small and not data.remote
        self._ahead = ReadAhead(windows(order, share, read, ahead), Window.samples, held, only_if_slow=here)
        return steps_of(share, self._ahead)

    def _streamed(self) -> Iterator[tuple[list[Placed], int]]:
        plan = self.plan
        rows = shuffled(stream(self.data, plan), plan.shape, plan.seed, plan.epoch)
        rest = islice(rows, plan.start * plan.shape.batch, None)
        steps = dealt(rest, plan.shape.batch, plan.rank, plan.world, plan.drop_last)
        if plan.by_turns:
            steps = islice(steps, plan.worker, None, plan.workers)
        limit = plan.shape.window // plan.world + DEPTH * plan.shape.batch
        self.held_samples = plan.shape.window + plan.shape.batch * plan.world + limit
        self._ahead = ReadAhead(steps, _first_len, limit)
        return iter(self._ahead)

    def worker_of(self, step: int) -> int:
        """Tell which worker makes a step."""
        return self._owner(step)

    def _by_step(self, step: int) -> int:
        return step % self.plan.workers  # each reads all there is; they share the decoding

    def _by_window(self, order: Order, share: Share) -> Callable[[int], int]:
        world, workers = self.plan.world, self.plan.workers
        return lambda step: order.worker_of(share.first_batch(step), world, workers)

    def _lanes(self, lanes: int) -> int:
        """Count the lanes of which windows are held here at the same time."""
        mine = -(-lanes // self.plan.world)
        workers = self.plan.workers
        return mine // gcd(mine, workers) if self.plan.by_turns else -(-mine // workers)

    def _streams(self) -> bool:
        # In order and alone, a stream needs no index and is fastest; what it skips has no place in the order.
        plan = self.plan
        parts = plan.world * plan.workers
        return not self.data.seekable or not (plan.shape.lanes or parts > 1 or plan.skip)

    def _grain(self) -> int:
        size = self.data.sample_bytes
        if self.data.seekable and self.plan.stride > 1:
            return 1  # what lies between this rank's (or worker's) batches is not read
        samples = int(self.data.read_bytes / size) if size else HELD_SAMPLES if self.data.in_memory else 1
        if self.data.remote:  # what follows the last one is in the first request, too: it ends it
            samples -= 1
        return max(1, samples // self.plan.shape.batch)


def share_of(samples: int, plan: Plan) -> Share:
    """Give this rank's part of an epoch of so many samples."""
    return Share(
        samples,
        plan.shape.batch,
        start=plan.start,
        rank=plan.rank,
        world=plan.world,
        drop_last=plan.drop_last,
    )


def stream(data: Data, plan: Plan) -> Iterator[Placed]:
    """Stream the shards of an epoch's line, with each sample's place in it."""
    place = 0
    order = shard_order(len(data.names), plan.shape, plan.seed, plan.epoch)
    with in_turn([data.names[number] for number in order]):
        for number in order:
            for row in data.shard(number).stream():
                yield place, row
                place += 1


def _first_len(item: tuple[list[Placed], int]) -> int:
    return len(item[0])
