"""webdataset's tensor format (`ten`, `tb`): a list of arrays as chunks of magic, length, bytes padded to 64.

Source: webdataset/tenbin.py. Each array is a header chunk (int64: dtype name, label, rank, shape) and a
data chunk; integers are little-endian.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from wlshard.codecs.codec import Buffer
from wlshard.codecs.npy import Array, as_array

_MAGIC = b"~TenBin~"
_DTYPES = {
    name: np.dtype(name) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_RANK = 9  # webdataset's writer refuses more


def decode_tensors(data: Buffer) -> list[Array]:
    """Read the arrays without copying: read-only."""
    arrays: list[Array] = []
    chunks = _chunks(memoryview(data))
    for header in chunks:
        values = np.frombuffer(header, "<i8").tolist()
        dtype = _DTYPES.get(bytes(header[:8]).rstrip(b"\0").decode("ascii"))
        if dtype is None or len(values) < 3 or len(values) != 3 + values[2]:
            raise ValueError(f"bad header of array {len(arrays)}")
        payload = next(chunks, None)
        shape = tuple(values[3:])
        size = math.prod(shape) * dtype.itemsize
        if payload is None or min(shape, default=0) < 0 or len(payload) != size:
            raise ValueError(f"the data of array {len(arrays)} is not the {size} bytes of {dtype} {shape}")
        array: Array = np.ndarray(shape, dtype, payload)
        array.flags.writeable = False
        arrays.append(array)
    return arrays


def encode_tensors(value: Any) -> Buffer:
    """Write one array or a list of arrays, as webdataset does; of its dtypes only (f2–f8, i1–i8, u1–u8)."""
    arrays = [as_array(item) for item in (value if isinstance(value, list | tuple) else [value])]
    headers = [_header(array) for array in arrays]
    sizes = [size for head, array in zip(headers, arrays, strict=True) for size in (len(head), array.nbytes)]
    out = bytearray(sum(16 + _padded(size) for size in sizes))
    offset = 0
    for head, array in zip(headers, arrays, strict=True):
        offset = _begin_chunk(out, offset, len(head))
        out[offset : offset + len(head)] = head
        offset = _begin_chunk(out, offset + _padded(len(head)), array.nbytes)
        target: Array = np.ndarray(array.shape, array.dtype, out, offset)
        target[...] = array
        offset += _padded(array.nbytes)
    return out


def _header(array: Array) -> bytes:
    name = _NAMES.get(array.dtype)
    if name is None or array.ndim > _MAX_RANK:
        raise TypeError(f"{array.dtype} of rank {array.ndim} has no place in this format; use npy")
    return name.encode().ljust(16, b"\0") + np.array([array.ndim, *array.shape], "<i8").tobytes()


def _begin_chunk(out: bytearray, offset: int, size: int) -> int:
    out[offset : offset + 16] = _MAGIC + size.to_bytes(8, "little")
    return offset + 16


def _padded(size: int) -> int:
    return -(-size // 64) * 64


def _chunks(data: memoryview) -> Iterator[memoryview]:
    offset = 0
    while offset < len(data):
        if data[offset : offset + 8] != _MAGIC:
            raise ValueError(f"bad magic number at byte {offset}")
        size = int.from_bytes(data[offset + 8 : offset + 16], "little", signed=True)
        if not 0 <= size <= len(data) - offset - 16:
            raise ValueError(f"the chunk at byte {offset} is cut short")
        yield data[offset + 16 : offset + 16 + size]
        offset += 16 + _padded(size)
