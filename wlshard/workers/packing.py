"""How a batch is packed for another process: shapes and dtypes, short bytes joined, all else by pickle."""

from __future__ import annotations

import pickle
import sys
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple

import numpy as np

LONG_BYTES = 1 << 16  # bytes this long are better not joined to others
_BYTES = {bytes, memoryview}


def layout_of(value: Any) -> tuple[Any, ...] | None:
    """Give shapes and dtypes of a tuple of arrays; None: it is another batch, or pickle knows more of it."""
    if type(value) is not tuple:
        return None
    found = []
    for array in value:
        if type(array) is not np.ndarray or not array.flags.carray or array.dtype.hasobject:
            return None
        found.append((array.shape, array.dtype))
    return tuple(found) if len(set(map(id, value))) == len(value) else None


lay_out = lru_cache(64)(pickle.dumps)  # to pickle dtypes takes longer than all else of a small batch
laid_out = lru_cache(64)(pickle.loads)


class _Column(NamedTuple):
    """A column of short bytes on its way; layout: their sizes, as `struct` takes them."""

    layout: str
    data: bytes

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        return _cut, (self.layout, pickle.PickleBuffer(self.data))


def joined(value: Any) -> Any:
    """Join the bytes, and views of bytes, in each column of a batch: one by one they take twice as long."""
    if type(value) is tuple:
        return tuple(map(_column, value))
    return {name: _column(one) for name, one in value.items()} if type(value) is dict else _column(value)


def _column(values: Any) -> Any:
    if type(values) is not list or not set(map(type, values)) <= _BYTES:
        return values
    try:
        sizes = list(map(len, values))
        if not sizes or sum(sizes) >= LONG_BYTES * len(sizes):
            return values
        data = b"".join(values)
    except TypeError:  # views of no bytes in a row
        return values
    if len(data) != sum(sizes):  # views of other things than bytes
        return values
    alike = len(set(sizes)) == 1
    return _Column(f"{sizes[0]}s" * len(sizes) if alike else f"{'s'.join(map(str, sizes))}s", data)


def _cut(layout: str, data: Any) -> list[bytes]:
    return list(Struct(layout).unpack(data))


class _Pickler(pickle.Pickler):
    """Hands over views as bytes, and torch's tensors as arrays: their own way is a copy as a file's."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is memoryview:
            return bytes, (pickle.PickleBuffer(value if value.c_contiguous else value.tobytes()),)
        torch = sys.modules.get("torch")  # never imported here: who has tensors has imported it
        if torch is None or type(value) is not torch.Tensor:
            return NotImplemented
        try:
            return torch.from_numpy, (value.numpy(),)
        except (TypeError, RuntimeError):  # what numpy does not have: bfloat16, gradients, other devices
            return NotImplemented


class _Pieces(list[bytes]):
    """What a pickler writes: pieces of 64 KiB, longer bytes as they are. None of it is moved as it grows."""

    write = list.append


def dumps(value: Any, buffers: list[pickle.PickleBuffer]) -> list[bytes]:
    """Pickle a value, in pieces; what is long in it is not copied but added to `buffers`."""
    pieces = _Pieces()
    _Pickler(pieces, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append).dump(value)
    return pieces
