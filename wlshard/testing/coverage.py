"""Oracle: over all ranks each sample comes exactly once an epoch, and every rank has as many steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sized
from typing import Any, Protocol

from wlshard.testing.values import keys_of


class Closable(Protocol):
    """What is checked: `wlshard.Loader`, or any iterable of batches that can be closed."""

    def __iter__(self) -> Iterator[Any]: ...

    def close(self) -> None: ...


def check_coverage(
    make_loader: Callable[[int, int], Closable],
    keys: Collection[str],
    *,
    batch_size: int,
    drop_last: bool = False,
    worlds: Iterable[int] = range(1, 9),
    epochs: int = 1,
) -> None:
    """Check an epoch (or more) of every world size.

    `make_loader(rank, world)` gives a loader of `keys` whose batches hold keys (see `keys_of`). Each sample
    comes once over the ranks; with `drop_last` fewer than batch_size · world are missing; else the last step
    is divided evenly, and only where it has fewer samples than ranks does each rank left empty repeat one.
    All ranks give as many batches, `len()` if the loader has it. Errors: AssertionError naming world, rank.
    """
    for world in worlds:
        loaders = [make_loader(rank, world) for rank in range(world)]
        try:
            for epoch in range(epochs):
                place = f"world {world}, epoch {epoch}"
                ranks = [_epoch(loader, f"{place}, rank {rank}") for rank, loader in enumerate(loaders)]
                _check_epoch(ranks, list(keys), batch_size, drop_last, place)
        finally:
            for loader in loaders:
                loader.close()


def _epoch(loader: Closable, place: str) -> list[list[str]]:
    counted = len(loader) if isinstance(loader, Sized) else None
    batches = [list(keys_of(batch)) for batch in loader]
    assert counted in (None, len(batches)), f"{place}: len() said {counted}, {len(batches)} batches came"
    return batches


def _check_epoch(
    ranks: list[list[list[str]]], keys: list[str], batch_size: int, drop_last: bool, place: str
) -> None:
    world = len(ranks)
    counts = [len(batches) for batches in ranks]
    assert len(set(counts)) == 1, f"{place}: ranks have different numbers of batches: {counts}"
    whole, rest = divmod(len(keys), batch_size * world)
    steps = whole + (1 if rest and not drop_last else 0)
    assert counts[0] == steps, f"{place}: {counts[0]} batches a rank, {steps} expected of {len(keys)} samples"
    for rank, batches in enumerate(ranks):
        sizes = [len(batch) for batch in batches[:whole]]
        assert sizes == [batch_size] * whole, f"{place}, rank {rank}: batches of {sizes}, not {batch_size}"
    given = Counter(key for batches in ranks for batch in batches for key in batch)
    _check_counts(given, keys, rest if drop_last else 0, place)
    repeated = sum(given.values()) - len(given)
    padding = world - rest if 0 < rest < world and not drop_last else 0
    assert repeated == padding, f"{place}: {repeated} repeated samples, {padding} expected"
    if steps > whole:
        last = [len(batches[-1]) for batches in ranks]
        assert min(last) >= 1, f"{place}: the last step leaves ranks without a sample: {last}"
        assert max(last) - min(last) <= 1, f"{place}: the last step is not divided evenly: {last}"


def _check_counts(given: Counter[str], keys: list[str], dropped: int, place: str) -> None:
    unknown = sorted(set(given) - set(keys))
    assert not unknown, f"{place}: samples that are not in the data: {unknown[:5]}"
    missing = sorted(set(keys) - set(given))
    assert len(missing) == dropped, (
        f"{place}: {len(missing)} samples missing, {dropped} expected: {missing[:5]}"
    )
