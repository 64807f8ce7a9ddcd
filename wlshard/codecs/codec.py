"""The table of codecs, and the three calls on it: encode, decode, decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

from wlshard.errors import CodecError, UsageError, printable
from wlshard.sample import extension

Buffer: TypeAlias = bytes | bytearray | memoryview
Decode: TypeAlias = Callable[[Buffer], Any]
Encode: TypeAlias = Callable[[Any], Buffer]

# What broken data and unfit values raise, everywhere below: a codec's module turns its library's own
# exceptions into ValueError. RecursionError: JSON, msgpack or CBOR nested a thousand deep.
_UNFIT = ValueError, TypeError, OverflowError, RecursionError


class Codec(NamedTuple):
    """Where an extension's two functions are: `decode_<name>` and `encode_<name>` of a module."""

    module: str
    name: str
    takes: str


_BYTES = bytes, bytearray, memoryview  # `bytes | …` would be made anew at each call
_TEXT = Codec("text", "text", "a str")
_JSON = Codec("text", "json", "what JSON holds: dict, list, str, int, float, bool, None")
_INT = Codec("text", "int", "an int")
_PACKED = "numbers, str, bytes, lists and dicts of them"
_IMAGE = (
    "an image: an array (H, W) or (H, W, 3|4) of uint8 or of floats in 0..1 "
    "(png, tif, ppm, pgm: of uint16 too), or a PIL image"
)

_CODECS: dict[str, Codec] = {
    **dict.fromkeys(("txt", "text", "transcript"), _TEXT),
    **dict.fromkeys(("json", "jsn"), _JSON),
    **dict.fromkeys(("cls", "cls2", "class", "count", "index", "inx", "id"), _INT),
    "npy": Codec("npy", "npy", "an array of any dtype but object"),
    "npz": Codec("npy", "npz", "a dict of arrays of any dtype but object"),
    **dict.fromkeys(("ten", "tb"), Codec("tensor", "tensors", "an array or a list of arrays")),
    **dict.fromkeys(("mp", "msgpack", "msg"), Codec("packed", "msgpack", _PACKED)),
    "cbor": Codec("packed", "cbor", _PACKED),
}
_IMAGES = frozenset(
    ("jpg", "jpeg", "jpe", "jfif", "png", "ppm", "pgm", "pbm", "pnm", "webp", "bmp", "tif", "tiff", "gif")
)
_PICKLES = frozenset(("pyd", "pickle", "pkl", "pth"))


def encode(field: str, value: Any) -> Buffer:
    """Encode a value for a field; bytes, bytearrays and memoryviews pass as they are, in any field.

    Equal values give equal bytes. Nothing is cast in silence: what a field does not take is a CodecError
    that says what was given and what the field takes (the caller adds key and url).
    """
    if isinstance(value, _BYTES):
        return value
    try:
        return _encoder(field)(value)
    except _UNFIT as error:
        takes = _takes(extension(_strip_gz(field)[0]))
        raise CodecError(
            f"field {printable(field)!r}: cannot encode {_describe(value)} ({error}); "
            f"the field takes {takes}bytes already encoded"
        ) from error


def decode(field: str, data: Buffer, images: bool | str = True) -> Any:
    """Decode the bytes of a field. As `decoder(field, images)(data)`, which is the form for hot paths."""
    return decoder(field, images)(data)


@lru_cache(maxsize=4096)
def decoder(field: str, images: bool | str = True) -> Decode:
    """Give the function that decodes this field; it raises CodecError for data the codec does not read.

    images: True, uint8 RGB (H, W, 3), images of 16 bits and floats keeping their depth; "rgb8" "rgba8"
    "gray8", uint8 (H, W, 3|4) or (H, W); "rgb" "rgba" "gray", float32 in 0..1; "pil" "pilrgba" "pilgray",
    a PIL image; "stored", depth and channels as in the file; False, bytes. `l` stands for `gray`.
    EXIF orientation is not applied.
    Arrays of npy, ten and tb are read-only views that keep `data` alive.
    """
    inner, packed = _strip_gz(field)
    run = _plain_decoder(extension(inner), images)

    def checked(data: Buffer) -> Any:
        try:
            return run(decompress(data) if packed else data)
        except _UNFIT as error:
            raise CodecError(
                f"field {printable(field)!r}: cannot decode {len(data):,} B of it: {error}; "
                "look at it undecoded (decode=False, -d none), or leave the field out"
            ) from error

    if packed:
        from wlshard.codecs.gzipped import decompress
    elif run is bytes:
        return run
    return checked


def _plain_decoder(ext: str, images: bool | str) -> Decode:
    if ext in _IMAGES:
        if images is False:
            return bytes
        from wlshard.codecs.image import image_decoder

        return image_decoder(images)
    codec = _CODECS.get(ext)
    if codec is None:
        return bytes
    run: Decode = getattr(import_module(f"wlshard.codecs.{codec.module}"), f"decode_{codec.name}")
    return run


@lru_cache(maxsize=4096)
def _encoder(field: str) -> Encode:
    inner, packed = _strip_gz(field)
    run = _plain_encoder(extension(inner))
    if not packed:
        return run
    from wlshard.codecs.gzipped import compress

    return lambda value: compress(run(value))


def _plain_encoder(ext: str) -> Encode:
    if ext in _IMAGES:
        from wlshard.codecs.image_encode import image_encoder

        return image_encoder(ext)
    codec = _CODECS.get(ext)
    if codec is None:
        raise TypeError("pickles are never made here" if ext in _PICKLES else f"no codec is named {ext!r}")
    run: Encode = getattr(import_module(f"wlshard.codecs.{codec.module}"), f"encode_{codec.name}")
    return run


def is_image(field: str) -> bool:
    """Tell whether a field's codec is for images."""
    return extension(_strip_gz(field)[0]) in _IMAGES


def _takes(ext: str) -> str:
    codec = _CODECS.get(ext)
    takes = _IMAGE if ext in _IMAGES else codec.takes if codec else ""
    return f"{takes}, or " if takes else ""


def _strip_gz(field: str) -> tuple[str, bool]:
    """Split `seg.npy.gz` into `seg.npy` and True. Gzip in gzip is not looked into."""
    if extension(field) == "gz":
        return field[:-3], True
    return field, False


def _describe(value: Any) -> str:
    """Say a value's type, and an array's dtype and shape, without importing numpy."""
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    return f"{name}, {str(dtype)[:100]} {shape}" if dtype is not None and shape is not None else name


def missing(library: str, extra: str) -> UsageError:
    """Make the error for an optional library that is not installed."""
    return UsageError(f"this field needs {library}, which is not installed: pip install 'wlshard[{extra}]'")
