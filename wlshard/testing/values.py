"""Compare what loaders give, and name the samples in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal, types, dtypes and shapes included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    if any(getattr(one, name, None) != getattr(other, name, None) for name in ("shape", "dtype")):
        return False
    equal = (one == other) | ((one != one) & (other != other))  # NaN is itself
    return bool(equal.all() if hasattr(equal, "all") else equal)  # a torch tensor compares by element


def keys_of(batch: Any) -> Iterator[str]:
    """Give the keys in a batch or a sample of dicts; of tuples, what stands first in them."""
    found = batch["__key__"] if isinstance(batch, dict) else batch[0]
    if isinstance(found, str):
        yield found
    else:
        yield from map(str, found)


def shown(value: Any) -> str:
    """Show a value in a line."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 200 else f"{text[:200]} …"
