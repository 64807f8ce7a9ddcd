"""Sources mixed by weight: an epoch has of each what its weight says, and none of it twice."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NoReturn

from wlshard import seeds
from wlshard.errors import LostLease, NotFound, UsageError
from wlshard.place import Place
from wlshard.sample import Sample
from wlshard.shards.reader import OnError
from wlshard.stream.data import Data, Shard, digest_of
from wlshard.stream.feed import Accord, Feed, never
from wlshard.stream.order import Line, Shape


class Mix:
    """Sources for a Loader, each with a weight: `Mix({"real-@000012.tar": 1, "synthetic@7": 3})`, or pairs.

    An epoch is as long as the source that is scarce for its weight: it comes whole, of each other one so many
    samples as its weight says. What an epoch takes of a source has no sample twice; epochs go on in one order
    of its shards as long as whole ones fit, then in another. Needs `shuffle=`, shards that can be read at
    random, and of a pool a named generation (POOL@n). UsageError: weights that are no positive numbers.
    """

    def __init__(self, sources: Mapping[Any, float] | Sequence[tuple[Any, float]]) -> None:
        pairs = list(sources.items()) if isinstance(sources, Mapping) else list(sources)
        if not pairs or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
            raise UsageError("Mix takes {source: weight}, or a list of (source, weight)")
        for source, weight in pairs:
            number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not number or not 0 < weight < math.inf:
                raise UsageError(f"weight {weight!r} of {source!r}: give a positive number")
            if isinstance(source, Mix):
                raise UsageError("a Mix in a Mix: name its sources, with their weights multiplied")
        self.sources = [source for source, _ in pairs]
        self.weights = [weight / sum(weight for _, weight in pairs) for _, weight in pairs]


class MixFeed:
    """Feed on the sources of a Mix, which stay the same in every epoch."""

    moves = chooses = False

    def __init__(self, feeds: Sequence[Feed], weights: Sequence[float]) -> None:
        if any(feed.chooses for feed in feeds):
            raise UsageError("a pool in a Mix does not move: name one of its generations, POOL@n")
        self.accord: Callable[[Place], Accord] = never
        self._feeds = feeds
        self._weights = weights
        self._data: MixedData | None = None

    def data(self, generation: int | None = None, after: int | None = None) -> MixedData:  # noqa: ARG002
        if self._data is None:
            self._data = MixedData([feed.data() for feed in self._feeds], self._weights)
        return self._data

    def newer(self) -> bool:
        return False

    def rows(self, on_error: OnError, copy: bool) -> Iterator[Sample]:  # noqa: ARG002
        raise UsageError("a Mix is for a Loader: samples() reads one source")

    def served(self, samples: int, waited_s: float) -> None:
        for feed, weight in zip(self._feeds, self._weights, strict=True):
            feed.served(round(samples * weight), waited_s)

    def check(self) -> None:
        for feed in self._feeds:
            feed.check()

    def close(self) -> None:
        for feed in self._feeds:
            feed.close()


class MixedData(Data):
    """The shards of several sources, of which an epoch's line has a part."""

    def __init__(self, parts: Sequence[Data], weights: Sequence[float]) -> None:
        super().__init__([name for part in parts for name in part.names], _never)
        self._parts = parts
        self._weights = weights
        self._firsts = list(accumulate((len(part.names) for part in parts), initial=0))
        for part in parts:
            if not part.seekable or not part.samples:
                what = "can only be streamed: index it (wl-index)" if not part.seekable else "has no samples"
                raise UsageError(f"a source of a Mix {what}", url=part.names[0] if part.names else None)
            part.skipped = self.skipped
        self.seekable = True
        self.digest = digest_of([(part.digest, None, None) for part in parts] + [(str(weights), None, None)])
        self._count()

    def _count(self) -> None:
        times = self._parts[0].each_gives  # what is made of a sample is not divided
        known = [
            ((part.samples or 0) // times, weight)
            for part, weight in zip(self._parts, self._weights, strict=True)
        ]
        whole = min(samples / weight for samples, weight in known)
        self._takes = [times * max(1, min(samples, round(whole * weight))) for samples, weight in known]
        self.counts = [count for part in self._parts for count in part.counts or ()]
        self.samples = sum(self._takes)
        sizes = [(part.sample_bytes or 0) * take for part, take in zip(self._parts, self._takes, strict=True)]
        self.sample_bytes = sum(sizes) / self.samples if all(sizes) else None

    def repeat(self, times: int) -> None:
        for part in self._parts:
            part.repeat(times)
        self._count()

    def shard(self, number: int) -> Shard:
        place = bisect_right(self._firsts, number) - 1
        return self._parts[place].shard(number - self._firsts[place])

    def line(self, shape: Shape, seed: int, epoch: int) -> Line:
        if not shape.lanes:
            raise UsageError("a Mix is mixed by shuffle=: give one, as large as memory allows")
        pieces: list[tuple[int, int, int]] = []
        for number, (part, take) in enumerate(zip(self._parts, self._takes, strict=True)):
            counts = part.counts or ()
            line = Line(
                seeds.permutation(len(counts), seed, "mix", number, epoch // (sum(counts) // take)), counts
            )
            start = epoch * take % line.samples  # what did not fit into the order before comes first
            here = min(take, line.samples - start)
            for shard, first, count in [*line.spans(start, here), *line.spans(0, take - here)]:
                pieces.append((self._firsts[number] + shard, first, count))
        return Line.of(pieces)

    def gone(self, error: NotFound) -> NotFound | LostLease:
        owner = next((part for part in self._parts if error.url in part.names), None)
        return error if owner is None else owner.gone(error)

    def close(self) -> None:
        super().close()
        for part in self._parts:
            part.close()


def _never(*_: object, **__: object) -> NoReturn:
    raise AssertionError("the parts open their shards")
