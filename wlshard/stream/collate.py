"""From a list of samples to a batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from wlshard.errors import GroupingError, UsageError
from wlshard.sample import KEY, URL

Collate: TypeAlias = Callable[[list[Any]], Any]
Empty: TypeAlias = Callable[[tuple[int, ...], Any], Any]
BatchTransform: TypeAlias = Callable[[Any], Any] | Sequence[Callable[[Any], Any] | None] | None


def collate(samples: list[Any], empty: Empty = np.empty) -> Any:
    """Make a batch: of tuples a tuple of columns, of dicts a dict of columns, else one column.

    A column is one array, stacked (copied) on axis 0, where shapes and dtypes agree; of ints int64, of
    floats float64, of bools bool; a torch tensor if it was of tensors. All else is a list: nothing is cast.
    `empty(shape, dtype)` gives the memory of stacked arrays.
    """
    first = samples[0]
    if isinstance(first, dict):
        return {name: column(values, empty) for name, values in _columns(samples)}
    if isinstance(first, tuple):
        if len({len(sample) for sample in samples}) > 1:
            raise GroupingError("tuples of different lengths in a batch: give fields= or collate_fn=")
        return tuple(column(list(values), empty) for values in zip(*samples, strict=True))
    return column(samples, empty)


def column(values: list[Any], empty: Empty = np.empty) -> Any:
    """Stack one field's values if nothing is lost by it."""
    kinds = set(map(type, values))
    if len(kinds) > 1:
        return values
    kind = kinds.pop()
    if kind is np.ndarray or issubclass(kind, np.generic):
        return _stacked(values, empty) if _alike(values) and not values[0].dtype.hasobject else values
    if kind is int:
        fits = all(-(2**63) <= value < 2**63 for value in values)
        return np.array(values, dtype=np.int64) if fits else values
    if kind in (float, bool):
        return np.array(values)
    torch = sys.modules.get("torch")  # never imported here: who has tensors has imported it
    if torch is not None and issubclass(kind, torch.Tensor):
        return _stacked_tensors(torch, values, empty) if _alike(values) else values
    return values


def _alike(values: list[Any]) -> bool:
    return len({(value.shape, value.dtype) for value in values}) == 1


def _stacked_tensors(torch: Any, values: list[Any], empty: Empty) -> Any:
    try:
        return torch.from_numpy(_stacked([value.numpy() for value in values], empty))
    except (TypeError, RuntimeError):  # what numpy does not have: bfloat16, gradients, other devices
        return torch.stack(values)


def converted(value: Any, convert: Callable[[Any], Any]) -> Any:
    """Convert a sample's or a batch's values, and those in lists of them."""
    if type(value) in (tuple, list):
        return type(value)(converted(one, convert) for one in value)
    if type(value) is dict:
        return {name: converted(one, convert) for name, one in value.items()}
    return convert(value)


def _stacked(values: list[Any], empty: Empty) -> Any:
    # Into an array of our own: np.stack would give native byte order, and structures without their padding.
    out = empty((len(values), *values[0].shape), values[0].dtype)
    if out.dtype.names is not None:
        return np.stack(values, out=out, casting="no")
    for place, value in enumerate(values):  # of one dtype; as np.stack, without a view and a tuple for each
        out[place] = value
    return out


def collator(
    make: Collate | None,
    after: BatchTransform,
    empty: Empty | None = None,
    convert: Callable[[Any], Any] | None = None,
) -> Collate:
    """Give the function from a list of samples to a batch: `make`, or `collate` (into `empty`), then `after`.

    What `collate` gives goes through `convert`, column by column.
    `after` is a callable for the batch, or a list of them (or None), one for each column.
    """
    first = make or (collate if empty is None else partial(collate, empty=empty))
    if make is None and convert is not None:
        stack = first
        first = lambda samples: converted(stack(samples), convert)  # noqa: E731
    if after is None:
        return first
    last = after if callable(after) else _by_column(list(after))
    return lambda samples: last(first(samples))


def _by_column(steps: list[Callable[[Any], Any] | None]) -> Callable[[Any], Any]:
    def apply(batch: Any) -> Any:
        if not isinstance(batch, tuple) or len(batch) != len(steps):
            found = f"a tuple of {len(batch)}" if isinstance(batch, tuple) else type(batch).__name__
            raise UsageError(
                f"batch_transform is a list of {len(steps)}, one for each field of a tuple; the batch is "
                f"{found}: name that many fields, or give one callable for the whole batch"
            )
        return tuple(
            values if step is None else step(values) for values, step in zip(batch, steps, strict=True)
        )

    return apply


def _columns(samples: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    names = samples[0]
    for sample in samples:
        if len(sample) != len(names) or sample.keys() != names.keys():
            odd = sorted(sample.keys() ^ names.keys())
            raise GroupingError(
                f"samples of a batch differ in field(s) {', '.join(odd)}: name the fields that all have with "
                "fields=, or give collate_fn=",
                key=sample.get(KEY),
                url=sample.get(URL),
            )
    for name in names:
        yield name, [sample[name] for sample in samples]
