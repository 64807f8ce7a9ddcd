"""Any array as a picture: images as they are, volumes by their middle slice, values spread over the greys."""

from __future__ import annotations

from typing import Any

import numpy as np

Image = np.ndarray[Any, np.dtype[Any]]

_LABELS = 32  # uint8 values that all lie below are taken for classes and spread, too


def picture(value: Any, palette: Image | None = None) -> Image | None:
    """Make uint8 (H, W) or (H, W, 3) of an array, a PIL image, or the first array in a list or dict.

    An axis of 1, 3 or 4 at the end, or of 1 or 3 in front of two larger ones, is colour; alpha is dropped. Of
    the axes before the last two the middle slice is taken. Floats in 0..1, if colour, become 0..255; uint8
    stays; all else is spread from its least to its greatest finite value. None: nothing with two axes.
    palette: uint8 (classes, 3), the colours for arrays that hold nothing but so many classes.
    """
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        found = (picture(one, palette) for one in value)
        return next((one for one in found if one is not None), None)
    if not (hasattr(value, "dtype") or hasattr(value, "getbands")):
        return None
    pixels = np.asarray(value)
    if pixels.ndim < 2 or not pixels.size or pixels.dtype.kind not in "biufc":
        return None
    plane = _plane(pixels)
    if palette is not None and plane.ndim == 2 and _holds_classes(pixels, len(palette)):
        return palette[plane.astype(np.intp)]
    return _spread(plane)


def _holds_classes(pixels: Image, classes: int) -> bool:
    return pixels.dtype.kind in "bui" and int(pixels.min()) >= 0 and int(pixels.max()) < classes


def _plane(pixels: Image) -> Image:
    """Reduce to (H, W) or (H, W, 3)."""
    while True:
        shape = pixels.shape
        if pixels.ndim == 2:
            return pixels
        if shape[-1] in (1, 3, 4) and min(shape[-3:-1]) > 4:
            if pixels.ndim == 3:
                return pixels[..., 0] if shape[-1] == 1 else pixels[..., :3]
        elif pixels.ndim == 3 and shape[0] in (1, 3) and min(shape[1:]) > 4:
            return pixels[0] if shape[0] == 1 else np.moveaxis(pixels, 0, -1)
        pixels = pixels[shape[0] // 2]


def _spread(pixels: Image) -> Image:
    if pixels.dtype.kind == "c":
        pixels = np.abs(pixels)
    colour = pixels.ndim == 3
    if pixels.dtype == np.uint8 and (colour or pixels.max() >= _LABELS):
        return np.ascontiguousarray(pixels)
    values = pixels.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape, np.uint8)
    low, high = values[finite].min(), values[finite].max()
    if colour and pixels.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scale = 255 / (high - low) if high > low else 0.0
    spread = np.nan_to_num((values - low) * scale, nan=0.0, posinf=255.0, neginf=0.0)
    grey: Image = np.rint(spread).astype(np.uint8)
    return grey
