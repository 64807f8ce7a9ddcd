"""From a sample as read to what the consumer gets: fields selected, decoded, transformed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, TypeAlias

from wlshard import seeds
from wlshard.codecs.codec import decoder, is_image
from wlshard.errors import CodecError, UsageError, UserCodeError
from wlshard.sample import KEY, URL, Sample, choose

Fields: TypeAlias = str | Sequence[str] | None
Prepare: TypeAlias = Callable[[Sample], Any]

_BYTES = memoryview, bytes, bytearray  # `memoryview | …` would be made anew at each call


def parse_fields(fields: Fields) -> list[list[str]] | None:
    """Read `"jpg;png cls"`, or a list of such words, as alternatives for each place of a tuple."""
    if fields is None:
        return None
    parts = [fields] if isinstance(fields, str) else fields
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        raise UsageError(f'fields={fields!r}: write for example "jpg;png cls", or a list of such words')
    words = [word for part in parts for word in part.split()]
    found = [[_field(name) for name in word.split(";") if name] for word in words]
    if not found or not all(found):
        raise UsageError(f'fields={fields!r} names no field: write for example "jpg;png cls"')
    return found


def _field(name: str) -> str:
    return name if name.startswith("__") else name.lower()


def preparer(
    fields: Fields, decode: bool | str, *, channels_first: bool = False, views: bool = False
) -> Prepare:
    """Give the function that makes a decoded tuple of `fields`, or a dict of all fields, from a sample.

    Undecoded fields are bytes (copied out of the block they were read into); with `views` they are as they
    came, for who copies them anyway. Values that are no bytes (of a source that holds values) pass as they
    are. channels_first: arrays of images are (C, H, W), grey ones (1, H, W), views of what was decoded.
    Errors: NotFound for a field that is not there, CodecError.
    """
    words = parse_fields(fields)
    if not isinstance(decode, bool | str):
        raise UsageError(f'decode={decode!r}: say True, False, or how images are decoded, such as "rgb"')
    value: Callable[[Sample, str], Any] = _undecoded
    if decode is not False:
        value = partial(_decoded, decode, channels_first)
    if decode is False and views:
        return dict if words is None else _picker(words)
    if words is not None and decode is False and all(len(names) == 1 for names in words):
        return partial(_undecoded_fields, words)
    if words is not None:
        return partial(_picked, words, value)
    if decode is False:
        return lambda sample: {n: bytes(v) if type(v) is memoryview else v for n, v in sample.items()}
    return lambda sample: {name: value(sample, name) for name in sample}


def _picked(words: list[list[str]], value: Callable[[Sample, str], Any], sample: Sample) -> tuple[Any, ...]:
    found = []
    for names in words:  # in place, and arguments by position: small samples have no time for more
        name = names[0]
        found.append(value(sample, name if name in sample else choose(sample, names)))
    return tuple(found)


def _picker(words: list[list[str]]) -> Prepare:
    pick = itemgetter(*(names[0] for names in words))

    def picked(sample: Sample) -> tuple[Any, ...]:
        try:
            found = pick(sample)
        except KeyError:
            return tuple(sample[choose(sample, names)] for names in words)
        return found if len(words) > 1 else (found,)

    return picked


def _undecoded_fields(words: list[list[str]], sample: Sample) -> tuple[Any, ...]:
    found = []
    for names in words:  # in place: to call `_undecoded` for each takes half as long again
        name = names[0]
        value = sample[name] if name in sample else choose(sample, names)
        found.append(value.tobytes() if type(value) is memoryview else value)
    return tuple(found)


def _undecoded(sample: Sample, name: str) -> Any:
    value = sample[name]
    return value.tobytes() if type(value) is memoryview else value


def _decoded(images: bool | str, channels_first: bool, sample: Sample, name: str) -> Any:
    data = sample[name]
    if not isinstance(data, _BYTES) or name[:2] == "__":
        return data
    try:
        found = decoder(name, images)(data)
        return _channels_first(found) if channels_first and is_image(name) else found
    except CodecError as error:
        error.key, error.url = sample.get(KEY), sample.get(URL)
        raise


def _channels_first(image: Any) -> Any:
    if getattr(image, "ndim", None) == 2:
        return image[None]
    return image.transpose(2, 0, 1) if getattr(image, "ndim", None) == 3 else image


def transformer(
    transform: Callable[..., Any], seed: int, parts: int = 1
) -> Callable[[Any, Sample, int, int], Any]:
    """Give the function that applies `transform` to a prepared sample, with its rng if it asks for one.

    It takes the prepared sample, the sample as read, the epoch, and the sample's place in the line. A
    parameter named `rng` gets a numpy Generator that depends on seed, epoch and place alone. With several
    `parts` the transform yields as many, which come as a list. UserCodeError: it yields more, or fewer.
    """
    wants_rng = _takes(transform, "rng")

    def apply(prepared: Any, sample: Sample, epoch: int, place: int) -> Any:
        try:
            given = {}
            if wants_rng:
                import numpy as np

                given["rng"] = np.random.default_rng(seeds.seed_of(seed, epoch, "sample", place))
            made = transform(prepared, **given)
            return made if parts == 1 else _all_of(made, parts)
        except BaseException as error:
            error.add_note(f"in transform, of sample {sample.get(KEY)!r} of {sample.get(URL)!r}")
            raise

    return apply


def _all_of(made: Any, parts: int) -> list[Any]:
    if not isinstance(made, Iterable) or isinstance(made, dict | str | bytes):
        raise UserCodeError(
            f"with per_sample={parts} a transform yields samples, it gave {type(made).__name__}"
        )
    found = list(made)
    if len(found) != parts:
        raise UserCodeError(f"with per_sample={parts} a transform yields as many, it gave {len(found)}")
    return found


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # built-in functions may have no signature
        return False
