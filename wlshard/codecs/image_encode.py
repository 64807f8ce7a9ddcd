"""Arrays and PIL images to image files."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from wlshard.codecs.codec import Buffer, missing
from wlshard.codecs.image import Image, cv2
from wlshard.codecs.npy import as_array

# cv2's default; 4:2:0 chroma. webdataset's writer uses 100, at about 2.5 times the bytes: pass encoded
# bytes for another quality, or png where each pixel counts.
JPEG_QUALITY = 95

_PNM = frozenset(("ppm", "pgm", "pbm", "pnm"))
_JPEG = frozenset(("jpg", "jpeg", "jpe", "jfif"))
_16_BITS = frozenset(("png", "tif", "tiff", "ppm", "pgm", "pnm"))
_ALPHA = frozenset(("png", "tif", "tiff", "webp"))
_OPTIONS = {
    **{ext: [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] for ext in _JPEG},
    "webp": [cv2.IMWRITE_WEBP_QUALITY, 101],  # above 100: lossless
}
_PIL_FORMATS = {"tif": "TIFF", "tiff": "TIFF", "png": "PNG", "bmp": "BMP", "webp": "WEBP"}


def image_encoder(ext: str) -> Callable[[Any], Buffer]:
    """Give the function that encodes images for this extension.

    jpg has quality 95, everything else is lossless. Floats in 0..1 are scaled to 0..255 and rounded, so
    that what `images="rgb"` decoded comes back exactly; a float outside 0..1 is an error.
    """
    if ext == "gif":
        raise TypeError("gif is only read here; use png")
    return lambda value: _encode_pil(ext, value) if _is_pil(value) else _encode_array(ext, value)


def _is_pil(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "PIL"


def _encode_array(ext: str, value: Any) -> Buffer:
    image = _to_pixels(ext, as_array(value))
    if ext in _PNM:
        return _encode_pnm(image)
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    try:
        done, data = cv2.imencode(f".{'jpg' if ext in _JPEG else ext}", image, _OPTIONS.get(ext, []))
    except cv2.error as error:
        raise ValueError(f"cv2 does not write it ({error.err})") from error
    if not done:
        raise ValueError("cv2 does not write it")
    return bytes(data)


def _to_pixels(ext: str, image: Image) -> Image:
    """Check that the format holds this array whole; scale floats."""
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    colour = image.ndim == 3 and image.shape[2] in ((3, 4) if ext in _ALPHA else (3,))
    if image.size == 0 or not (image.ndim == 2 or colour) or (colour and ext in ("pgm", "pbm")):
        raise ValueError(f"{ext} does not hold the shape {image.shape}")
    if image.dtype.kind == "f":
        if not (image.min() >= 0 and image.max() <= 1):
            raise ValueError(f"floats must lie in 0..1, these lie in {image.min()}..{image.max()}")
        image = np.rint(image * image.dtype.type(255)).astype(np.uint8)
    if ext == "pbm" and image.dtype != bool:
        if image.dtype != np.uint8 or not np.isin(image, (0, 255)).all():
            raise ValueError("pbm holds black and white: bools, or uint8 of 0 and 255")
        return np.equal(image, 255)
    if ext != "pbm" and image.dtype != np.uint8 and not (image.dtype == np.uint16 and ext in _16_BITS):
        raise ValueError(f"{ext} does not hold {image.dtype}")
    return image


def _encode_pnm(image: Image) -> bytes:
    height, width = image.shape[:2]
    if image.dtype == bool:
        return b"P4\n%d %d\n" % (width, height) + np.packbits(~image, axis=1).tobytes()
    top, kind = (255, "u1") if image.dtype == np.uint8 else (65535, ">u2")
    head = b"P%d\n%d %d\n%d\n" % (5 if image.ndim == 2 else 6, width, height, top)
    return head + image.astype(kind).tobytes()


def _encode_pil(ext: str, image: Any) -> bytes:
    try:
        import PIL.Image
    except ImportError:
        raise missing("Pillow", "image") from None
    if not isinstance(image, PIL.Image.Image):
        raise TypeError("not an image")
    kind = "JPEG" if ext in _JPEG else "PPM" if ext in _PNM else _PIL_FORMATS[ext]
    out = io.BytesIO()
    try:
        image.save(out, format=kind, quality=JPEG_QUALITY, lossless=True)  # each format takes what it knows
    except OSError as error:
        raise ValueError(str(error)) from error
    return out.getvalue()
