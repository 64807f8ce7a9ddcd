"""How well an order mixes classes: `wl-test --shuffle-quality`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from wlshard.errors import NotFound, UsageError
from wlshard.sample import KEY, URL
from wlshard.shards.reader import read_samples
from wlshard.stream.data import data_of_shards
from wlshard.stream.lazy import LazySample
from wlshard.stream.order import Line, Order, Shape, shape_of, shard_order

Labels = npt.NDArray[np.int64]
IN_A_ROW = 16


def labels_of(urls: Sequence[str], field: str, heard: Callable[[], object] = lambda: None) -> list[Labels]:
    """Read the class of every sample: for each shard the numbers of its samples' classes. Reads all of it."""
    numbers: dict[Any, int] = {}
    found = []
    for url in urls:
        labels = []
        for value in _values(url, field):
            labels.append(numbers.setdefault(value, len(numbers)))
            heard()
        found.append(np.array(labels, np.int64))
    if len(numbers) < 2:
        what = f"all samples have the same {field}"
        raise UsageError(f"{what}: mixing is told by a field of two classes or more")
    return found


def _values(url: str, field: str) -> Iterator[Any]:
    for sample in read_samples(url):
        where = {"url": sample[URL], "key": sample[KEY]}
        if field not in sample:
            raise NotFound(f"no field {field!r}: name the one that holds the class with --field", **where)
        value = LazySample(sample, images=False)[field]
        try:
            hash(value)
        except TypeError:
            what = f"the field {field} holds {type(value).__name__}, no class"
            raise UsageError(f"{what}: name another with --field", **where) from None
        yield value


def order_of(labels: Sequence[Labels], shape: Shape, seed: int, epoch: int = 0) -> Labels:
    """Give the classes of the whole batches of an epoch of the Loader, (batches, batch size), unread."""
    shards = shard_order(len(labels), shape, seed, epoch)
    line = np.concatenate([labels[shard] for shard in shards])
    order = Order(Line(shards, [len(shard) for shard in labels]).samples, shape, seed, epoch)
    batches = np.zeros((order.batches, shape.batch), np.int64)
    for lane in range(order.lanes):
        for window in range(-(-order.lane_samples(lane) // order.window)):
            pieces = [line[place : place + count] for place, count in order.pieces(lane, window)]
            mixed = np.concatenate(pieces)[order.permutation(lane, window)]
            for first in range(0, len(mixed), order.batch):
                found = mixed[first : first + order.batch]
                batches[order.batch_at(lane, window, first), : len(found)] = found
    return batches[: len(line) // shape.batch]


def quality(batches: Labels, labels: Sequence[Labels]) -> dict[str, float | None]:
    """Give chi²/dof of class counts against those of all samples, the mean over groups of samples.

    batches: (steps, ranks, batch size). `batch`: the batch of a rank; `global`: those of all ranks in a step;
    `run`: 16 batches of a rank in a row, None if there are not as many. A full shuffle gives 1. Pearson's
    chi², the sum of (seen - expected)² / expected, over classes - 1.
    """
    classes = np.bincount(np.concatenate(labels))
    steps, ranks, _ = batches.shape
    rows = batches.reshape(steps * ranks, -1)
    counts = np.stack([np.bincount(row, minlength=len(classes)) for row in rows]).reshape(steps, ranks, -1)
    whole = steps // IN_A_ROW * IN_A_ROW
    runs = counts[:whole].reshape(-1, IN_A_ROW, ranks, len(classes)).sum(1)
    groups = {"batch": counts, "global": counts.sum(1), "run": runs}
    return {name: _chi2(group.reshape(-1, len(classes)), classes) for name, group in groups.items()}


def _chi2(counts: Labels, classes: Labels) -> float | None:
    if not len(counts):
        return None
    expected = counts[0].sum() * classes / classes.sum()
    return float((((counts - expected) ** 2 / expected).sum(1) / (len(classes) - 1)).mean())


def mixing(
    urls: Sequence[str], labels: Sequence[Labels], *, batch: int, shuffle: int, world: int, seed: int
) -> dict[str, dict[str, float | None]]:
    """Give the quality of the Loader's order of these shards, and of a full shuffle of the same samples."""
    everything = np.concatenate(labels)
    if len(everything) < 2 * batch * world:
        needed = f"two steps are {2 * batch * world} samples, there are {len(everything)}"
        raise UsageError(f"too few samples: {needed}; take a smaller --batchsize or --world")
    with closing(data_of_shards(urls, None, "raise")) as data:
        shape = shape_of(batch, shuffle, world, data.seekable)
    ours = order_of(labels, shape, seed)
    full = np.random.default_rng(seed).permutation(everything)[: ours.size].reshape(ours.shape)
    orders = {"wlshard": ours, "full": full}
    steps = len(ours) // world
    return {
        name: quality(found[: steps * world].reshape(steps, world, -1), labels)
        for name, found in orders.items()
    }
