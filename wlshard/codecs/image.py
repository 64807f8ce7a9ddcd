"""Images to arrays: cv2, which is fast, and Pillow for what cv2 does not read or would read past a fault."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from wlshard.codecs.codec import Buffer, missing
from wlshard.errors import UsageError

try:
    import cv2
except ImportError:
    raise missing("cv2", "image") from None

if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(
        cv2.utils.logging.LOG_LEVEL_SILENT
    )  # what it has to say about a broken image is in our error

__all__ = ["Image", "cv2", "image_decoder"]

Image = np.ndarray[Any, np.dtype[Any]]


class Spec(NamedTuple):
    """What is asked of an image: the result's mode in PIL's words, and its depth; None and "": as stored."""

    mode: str
    depth: str | None
    pil: bool = False


_SPECS: dict[bool | str, Spec] = {
    True: Spec("RGB", None),
    "rgb8": Spec("RGB", "uint8"),
    "rgba8": Spec("RGBA", "uint8"),
    "gray8": Spec("L", "uint8"),
    "l8": Spec("L", "uint8"),
    "rgb": Spec("RGB", "float32"),
    "rgba": Spec("RGBA", "float32"),
    "gray": Spec("L", "float32"),
    "l": Spec("L", "float32"),
    "pil": Spec("RGB", None, pil=True),
    "pilrgb": Spec("RGB", None, pil=True),
    "pilrgba": Spec("RGBA", None, pil=True),
    "pilgray": Spec("L", None, pil=True),
    "pill": Spec("L", None, pil=True),
    "stored": Spec("", None),
}
# EXIF orientation is metadata: applying it would turn an image away from its label map.
_COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
# Grey is made from the colours, as Pillow makes it: a JPEG's own luminance differs where colours are cut off.
_FLAGS = {"RGB": _COLOUR, "L": _COLOUR, "RGBA": cv2.IMREAD_UNCHANGED, "": cv2.IMREAD_UNCHANGED}
_FROM_CHANNELS = {
    ("RGB", 3): cv2.COLOR_BGR2RGB,
    ("L", 3): cv2.COLOR_BGR2GRAY,
    ("RGBA", 1): cv2.COLOR_GRAY2RGBA,
    ("RGBA", 3): cv2.COLOR_BGR2RGBA,
    ("RGBA", 4): cv2.COLOR_BGRA2RGBA,
    ("", 3): cv2.COLOR_BGR2RGB,
    ("", 4): cv2.COLOR_BGRA2RGBA,
}


def image_decoder(images: bool | str) -> Callable[[Buffer], Any]:
    """Give the function that decodes any image as `images` names it (see `codecs.decoder`)."""
    spec = _SPECS.get(images)
    if spec is None:
        names = " ".join(name for name in _SPECS if isinstance(name, str))
        hint = '; for tensors use converters="torch"' if str(images).startswith("torch") else ""
        raise UsageError(f"images={images!r} is no way to decode images: True, False or one of {names}{hint}")
    if spec.pil:
        return lambda data: _with_pillow(data, spec.mode)
    return lambda data: _decode(data, spec)


def _decode(data: Buffer, spec: Spec) -> Image:
    image: Any = _with_cv2(memoryview(data), _FLAGS[spec.mode])
    if image is None:
        image = np.array(_with_pillow(data, spec.mode))
    else:
        conversion = _FROM_CHANNELS.get((spec.mode, 1 if image.ndim == 2 else image.shape[2]))
        if conversion is not None:
            image = cv2.cvtColor(image, conversion)
    if spec.depth == "uint8" and image.dtype != np.uint8:
        if image.dtype != np.uint16:
            raise ValueError(
                f"its pixels are {image.dtype}, which do not fit 8 bits; ask for the stored ones"
            )
        image = (image >> 8).astype(np.uint8)
    if spec.depth == "float32":
        top = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1
        image = np.divide(image, np.float32(top), dtype=np.float32)
    pixels: Image = image
    return pixels


def _with_cv2(data: memoryview, flags: int) -> Image | None:
    """None: leave it to Pillow, which reads it or says what is wrong."""
    magic = bytes(data[:8])
    if magic[:2] == b"\xff\xd8" and b"\xff\xd9" not in bytes(data[-32:]):
        return None  # a cut JPEG, whose missing part some cv2 versions fill with grey
    if magic == b"\x89PNG\r\n\x1a\n":
        data = memoryview(_checked_png(data))
    if not data:
        return None
    try:
        image: Image | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return image


def _checked_png(data: memoryview) -> Buffer:
    """Check the CRCs, and leave out what does not make the picture: libpng prints what it thinks of it."""
    kept, offset, whole = [data[:8]], 8, True
    while True:
        size = int.from_bytes(data[offset : offset + 4], "big")
        end = offset + 12 + size
        if offset + 12 > len(data) or end > len(data):
            raise ValueError(f"the PNG is cut short (its chunk at byte {offset} reaches beyond the end)")
        kind = bytes(data[offset + 4 : offset + 8])
        if zlib.crc32(data[offset + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise ValueError(f"the PNG chunk at byte {offset} has a bad checksum")
        if kind[:1].isupper() or kind == b"tRNS":
            kept.append(data[offset:end])
        else:
            whole = False
        if kind == b"IEND":
            return data if whole else b"".join(kept)
        offset = end


def _with_pillow(data: Buffer, mode: str) -> Any:
    try:
        import PIL.Image
    except ImportError:
        raise missing("Pillow", "image") from None
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            if mode and image.mode[0] in "IF":  # Pillow would cut each value off at 255
                raise ValueError(
                    f"its pixels, Pillow's mode {image.mode}, do not fit 8 bits; ask for the stored ones"
                )
            if image.mode == "P" and "transparency" in image.info:
                return image.convert("RGBA").convert(mode or "RGBA")
            return image.convert(mode or image.mode)
    except PIL.UnidentifiedImageError as error:
        raise ValueError("neither cv2 nor Pillow knows this as an image") from error
    except (OSError, SyntaxError, EOFError, KeyError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
