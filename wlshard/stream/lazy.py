"""A sample whose fields decode when they are touched, and are known to be changed or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Self

from wlshard.codecs import decoder, encode
from wlshard.errors import CodecError, printable
from wlshard.sample import KEY, URL, Sample, extension, fields_of

_OWN = ("_stored", "_values", "_images", "_decoded", "_handed")
_BYTES = frozenset((memoryview, bytes, bytearray))
_PLAIN = frozenset((str, bytes, int, float, type(None)))  # values that nobody can change in place


class LazySample(MutableMapping[str, Any]):
    """What user code gets as `_`: a dict of fields, `__key__` and `__url__`.

    `_["left.png"]` decodes the field at its first touch and keeps the value, which is the user's to change,
    in place too; `_.cls` is the same as `_["cls"]` for names that Python allows. `in`, `len` and a loop over
    the names decode nothing. images: as for `codecs.decoder`. CodecError names key, member and url.
    """

    __slots__ = (*_OWN, "__weakref__")

    _stored: Sample
    _handed: (
        MutableMapping[int, LazySample] | None
    )  # by id of a value: whose it is, among those seen together
    _values: dict[str, Any]
    _images: bool | str
    _decoded: list[tuple[str, Any, Any, Any]]  # field, bytes, value handed out, what an image held then

    def __init__(
        self, sample: Sample, images: bool | str = True, handed: MutableMapping[int, LazySample] | None = None
    ) -> None:
        _put_stored(self, sample)  # our __setattr__ sets fields, and takes much longer
        _put_handed(self, handed)
        _put_values(self, {})
        _put_images(self, images)
        _put_decoded(self, [])

    def __getitem__(self, name: str) -> Any:
        values, stored = self._values, self._stored
        if name in values:
            return values[name]
        if name not in stored:
            there = " ".join(printable(field) for field in fields_of(dict.fromkeys(self)))
            raise KeyError(f"no field {name!r}; there are: {there}")
        decoded = value = _decode(stored, name, self._images)
        held = None
        if type(decoded) not in _PLAIN:
            value = _own(decoded)
            held = _pixels(value) if value is decoded else None
        values[name] = value
        self._decoded.append((name, stored[name], value, held))
        if self._handed is not None:
            self._handed[id(value)] = self
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        self._values[name] = value
        if name not in self._stored:
            self._stored = {**self._stored, name: _ABSENT}

    def __delitem__(self, name: str) -> None:
        if name not in self._stored:
            raise KeyError(name)
        self._values.pop(name, None)
        self._stored = {kept: data for kept, data in self._stored.items() if kept != name}

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._stored))

    def __len__(self) -> int:
        return len(self._stored)

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def __getattr__(self, name: str) -> Any:
        if name in _OWN or name not in self._stored:
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
        else:
            self[name] = value

    def __repr__(self) -> str:
        return f"LazySample({', '.join(map(repr, self))})"

    def copy(self) -> Self:
        """Give a sample of its own with the same fields; values touched so far are shared, as in a dict."""
        twin = type(self)(dict(self._stored), self._images, self._handed)
        twin._values.update(self._values)
        twin._decoded += self._decoded
        return twin


_slots: Any = LazySample
_put_stored, _put_handed, _put_values = _slots._stored.__set__, _slots._handed.__set__, _slots._values.__set__
_put_images, _put_decoded = _slots._images.__set__, _slots._decoded.__set__
_ABSENT = object()  # stands in `_stored` for a field that the user added


# Functions, not methods: every name that a method takes is one that `_.name` cannot reach.
def changed_fields(sample: LazySample) -> set[str]:
    """Name the fields that were added or differ from what is stored.

    A value that can be changed in place (what JSON held, an array) is compared with the field decoded anew,
    an image with its pixels as they were.
    """
    return {name for name, value in sample._values.items() if not _is_stored(sample, name, value)}


def result_as_stored(sample: LazySample, result: Mapping[str, Any]) -> Sample:
    """Give what user code made of a sample as it is to be written: all fields as bytes.

    result: the sample itself, or a mapping of its own, whose values may be the sample's: what was left as it
    came, also under another name of the same extension, is the bytes it came as, the very object. So are
    values of other samples in `handed` that live. CodecError: a value that does not encode.
    """
    if isinstance(result, LazySample):
        stored = result._stored.copy()
        for name, value in result._values.items():
            if not _is_stored(result, name, value):
                stored[name] = _as_bytes(result, name, value)
        return stored
    came = sample._stored
    return {
        name: value if value is came.get(name) else _as_bytes(sample, name, value)
        for name, value in result.items()
    }


def _as_bytes(sample: LazySample, name: str, value: Any) -> Any:
    """Give a value as bytes: those it was decoded from where it still is what they say."""
    origin = _origin(sample, name, value)
    if origin is not value or type(value) is bytes or not isinstance(name, str) or name[:2] == "__":
        return origin
    data = encode(name, value)
    if isinstance(data, bytes):
        return data
    view = memoryview(data)
    # A read-only view must last, as those do that are as they came: see `GrowingShard.add`.
    return view.cast("B") if view.c_contiguous and not view.readonly else view.tobytes()


def _origin(sample: LazySample, name: str, value: Any) -> Any:
    """Give the bytes that a value was decoded from if it still is what they say, else the value."""
    for field, data, handed, held in sample._decoded:
        if handed is value and extension(field) == extension(name):
            return data if _is_as_it_came(sample, field, data, value, held) else value
    owner = sample._handed.get(id(value), sample) if sample._handed is not None else sample
    return value if owner is sample else _origin(owner, name, value)


def _is_stored(sample: LazySample, name: str, value: Any) -> bool:
    data = sample._stored[name]
    if data is value or data is _ABSENT:
        return data is value
    for field, came, handed, held in sample._decoded:
        if field == name and came is data:
            if type(handed) in _PLAIN:
                return handed is value or _same(value, handed)
            if handed is value:
                return _is_as_it_came(sample, field, data, value, held)
    return _same(value, _decode(sample._stored, name, sample._images))


def _is_as_it_came(sample: LazySample, field: str, data: Any, value: Any, held: Any) -> bool:
    if type(value) in _PLAIN:
        return True
    if held is not None:
        return bool(held == _pixels(value))
    return _same(value, _decode({**sample._stored, field: data}, field, sample._images))


def stored_fields(sample: LazySample) -> Sample:
    """Give the fields as they are stored, undecoded, whatever was touched; those that were added, as set."""
    return {name: sample._values[name] if data is _ABSENT else data for name, data in sample._stored.items()}


def _decode(stored: Sample, name: str, images: bool | str) -> Any:
    data = stored[name]
    if type(data) not in _BYTES or name[:2] == "__":
        return data
    try:
        return decoder(name, images)(data)
    except CodecError as error:
        error.key, error.url = stored.get(KEY), stored.get(URL)
        error.member = f"{error.key}.{name}"
        raise


def _own(value: Any) -> Any:
    """Give arrays that are views of the shard's bytes, and so read-only, as arrays of their own."""
    if isinstance(value, list):
        return [_own(one) for one in value]
    if isinstance(value, dict):
        return {name: _own(one) for name, one in value.items()}
    flags = getattr(value, "flags", None)
    return value.copy() if flags is not None and not flags.writeable else value


def _pixels(value: Any) -> tuple[Any, ...] | None:
    """Give all that tells an image from another, an array's or Pillow's; None: it is no image.

    Decoding it again to see whether it has changed would cost a hundred times as much.
    """
    if hasattr(value, "putpixel"):
        return value.mode, value.size, value.tobytes()
    dtype = getattr(value, "dtype", None)
    return (str(dtype), value.shape, value.tobytes()) if dtype is not None else None


def _same(value: Any, other: Any) -> bool:
    if type(value) is not type(other):
        return False
    if type(value) in _PLAIN:
        return bool(value == other) or (value != value and other != other)  # NaN is itself
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(_same(value[name], other[name]) for name in value)
    if isinstance(value, list | tuple):
        return len(value) == len(other) and all(map(_same, value, other))
    if hasattr(value, "dtype") and hasattr(value, "tobytes"):
        # bytes, not ==: what would be stored is what counts
        if value.dtype != other.dtype or value.shape != other.shape:
            return False
        return bool(value.tobytes() == other.tobytes())
    return bool(value == other)
