"""numpy's npy (versions 1 to 3) and npz, without pickles in either direction.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import ast
import io
import math
import re
import zipfile
import zlib
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.lib import format as npy_format

from wlshard.codecs.codec import Buffer
from wlshard.codecs.gzipped import check_unpacked

_MAGIC = b"\x93NUMPY"
_USUAL_BYTES = 128  # of the headers that numpy writes for all but structures and many dimensions
_USUAL_REST = (_USUAL_BYTES - 10).to_bytes(2, "little")
_MAX_HEADER = 2**20  # a structured dtype of 5,000 fields has 90 kB; more is not worth parsing
Array = np.ndarray[Any, np.dtype[Any]]
_Layout: TypeAlias = tuple[np.dtype[Any], Literal["C", "F"], tuple[int, ...], int, int]


def decode_npy(data: Buffer) -> Array:
    """Read an array without copying: read-only, in the data's own dtype and memory order."""
    view = memoryview(data)
    dtype, order, shape, start, size = _usual(bytes(view[:_USUAL_BYTES])) or _layout(view)
    if size != len(view):
        raise ValueError(f"its header promises {size} bytes ({dtype} {shape}), there are {len(view)}")
    array: Array = np.ndarray(shape, dtype, view, start, order=order)
    array.flags.writeable = False
    return array


@lru_cache(maxsize=1024)
def _usual(head: bytes) -> _Layout | None:
    """Read a header that ends where `head` does; None: it is longer, shorter, or none."""
    if len(head) < _USUAL_BYTES or head[:7] != _MAGIC + b"\1" or head[8:10] != _USUAL_REST:
        return None
    return _layout(memoryview(head))


def _layout(view: memoryview) -> _Layout:
    """Read a header: dtype, order, shape, where the array begins and ends."""
    if view[:6] != _MAGIC or len(view) < 10:
        raise ValueError("not npy data (its magic number is missing)")
    width = 2 if view[6] == 1 else 4
    start = 8 + width + int.from_bytes(view[8 : 8 + width], "little")
    if start > min(len(view), _MAX_HEADER):
        raise ValueError(f"the npy header ends at byte {start}, beyond the data or {_MAX_HEADER} bytes")
    dtype, fortran, shape = _parse_header(view[6], bytes(view[8 + width : start]))
    return dtype, "F" if fortran else "C", shape, start, start + math.prod(shape) * dtype.itemsize


def encode_npy(value: Any) -> Buffer:
    """Write an array as `np.save` does, byte for byte (but for field names beyond latin-1). One copy."""
    array = as_array(value)
    header = _make_header(array)
    data = bytearray(len(header) + array.nbytes)
    data[: len(header)] = header
    order: Literal["C", "F"] = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    target: Array = np.ndarray(array.shape, array.dtype, data, len(header), order=order)
    target[...] = array
    return data


def decode_npz(data: Buffer) -> dict[str, Any]:
    """Read a dict of arrays, decompressed whole; members that are no npy stay bytes, as in `np.load`."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            check_unpacked(sum(member.file_size for member in members))
            read = {member.filename: archive.read(member) for member in members}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"bad npz data ({error})") from error
    return {
        name.removesuffix(".npy"): decode_npy(blob) if blob.startswith(_MAGIC) else blob
        for name, blob in read.items()
    }


def encode_npz(value: Any) -> bytes:
    """Write a dict of arrays as `np.savez_compressed` does, but without the time of day."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise TypeError("not a dict of names and arrays")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in value.items():
            member = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, bytes(encode_npy(array)))
    return out.getvalue()


def as_array(value: Any) -> Array:
    """Take an array of numpy or of a library that converts to one without a cast (torch, jax)."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("its mask would be lost; give .data and .mask as two fields")
    if not hasattr(value, "__array__"):
        raise TypeError("not an array")
    try:
        array = np.asarray(value)
    except RuntimeError as error:  # torch: a tensor that requires grad
        raise ValueError(str(error)) from error
    if array.dtype.hasobject:
        raise TypeError("arrays of Python objects need pickle, which is never used here")
    return array


def _make_header(array: Array) -> bytes:
    fields = npy_format.header_data_from_array_1_0(array)
    out = io.BytesIO()
    try:
        npy_format.write_array_header_1_0(out, fields)
        return out.getvalue()
    except UnicodeEncodeError:
        text = repr(fields).encode("utf-8")
    except ValueError:  # longer than version 1 can say
        npy_format.write_array_header_2_0(out, fields)
        return out.getvalue()
    text += b" " * (-(len(text) + 13) % npy_format.ARRAY_ALIGN) + b"\n"
    return _MAGIC + b"\3\0" + len(text).to_bytes(4, "little") + text


@lru_cache(maxsize=1024)
def _parse_header(version: int, header: bytes) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    if version not in (1, 2, 3):
        raise ValueError(f"npy version {version} is unknown (1, 2 and 3 are known)")
    text = header.decode("utf-8" if version == 3 else "latin-1")
    try:
        try:
            fields = ast.literal_eval(text)
        except SyntaxError:  # Python 2 wrote its long integers as 10L
            fields = ast.literal_eval(re.sub(r"(\d)L\b", r"\1", text))
        descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
        dtype = npy_format.descr_to_dtype(descr)
    except (SyntaxError, KeyError, IndexError, MemoryError) as error:
        raise ValueError(f"bad npy header {text[:200]!r}") from error
    if dtype.hasobject:
        raise ValueError("an array of Python objects needs pickle, which is never used here")
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"bad npy shape {shape!r}")
    return dtype, bool(fortran), shape
