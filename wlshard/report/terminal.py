"""Pictures in a terminal: two pixels a character."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Pixels = np.ndarray[Any, np.dtype[Any]]

_SHADES = " ░▒▓█"


def draw(picture: Pixels, columns: int, lines: int, *, colour: bool) -> list[str]:
    """Draw a uint8 picture, (H, W) or (H, W, 3), in at most so many columns and lines, as lines of text.

    colour: half blocks in 24-bit colour, each line ending in a reset; else five shades and no escape codes.
    It is made smaller by averaging, never larger.
    """
    import numpy as np

    height, width = picture.shape[:2]
    scale = min(1.0, columns / width, 2 * lines / height)
    rows, wide = max(1, round(height * scale)), max(1, round(width * scale))
    small = averaged(averaged(picture.astype(np.float64), rows, 0), wide, 1)
    if rows % 2:
        small = np.concatenate([small, small[-1:]])
    if not colour:
        grey = small.mean(axis=2) if small.ndim == 3 else small
        shades = np.rint((grey[::2] + grey[1::2]) / 2 * (len(_SHADES) - 1) / 255).astype(int)
        return ["".join([_SHADES[shade] for shade in row]).rstrip() for row in shades.tolist()]
    if small.ndim == 2:
        small = np.repeat(small[:, :, None], 3, axis=2)
    pixels = np.rint(small).astype(int).tolist()
    return [_blocks(upper, lower) for upper, lower in zip(pixels[::2], pixels[1::2], strict=True)]


def averaged(pixels: Pixels, count: int, axis: int) -> Pixels:
    """Shrink an axis to so many means of neighbours."""
    import numpy as np

    size = pixels.shape[axis]
    starts = np.arange(count) * size // count
    counts = np.diff(np.append(starts, size))
    sums = np.add.reduceat(pixels, starts, axis=axis)
    shape = [1] * pixels.ndim
    shape[axis] = count
    means: Pixels = sums / counts.reshape(shape)
    return means


def _blocks(upper: list[list[int]], lower: list[list[int]]) -> str:
    cells = []
    before = None
    for (r, g, b), (s, h, c) in zip(upper, lower, strict=True):
        paint = f"\x1b[38;2;{r};{g};{b};48;2;{s};{h};{c}m"
        cells.append("▀" if paint == before else f"{paint}▀")
        before = paint
    return f"{''.join(cells)}\x1b[0m"
