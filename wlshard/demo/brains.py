"""Synthetic brains without end: deform a label map, draw an intensity for each class, spoil the picture.

After SynthSeg (Billot et al. 2023, Medical Image Analysis 86, arXiv:2107.09559): a network that sees
random contrasts, bias fields, resolutions and noise learns anatomy, not the look of one scanner.
Run by `wl-gen wlshard.demo.brains:generate POOL --arg size=64`; numpy alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from wlshard.demo.phantom import Field, Labels, head
from wlshard.errors import NotFound, UsageError

SIZE = 48
_SMALLEST = 16
_GRID = 7  # knots a side of displacement and bias fields: four spans of a cubic B-spline
_SLAB_VOXELS = 2**20  # what is worked on at a time: 4 MB a float32 array


class Atlas(NamedTuple):
    """A label map to start from, with a border of one voxel of label 0 around it.

    target: what a network is to find. paint: classes that get an intensity each, finer than target where
    the atlas has a scan: SynthSeg, too, splits what it has no labels for by its brightness.
    """

    target: Labels
    paint: Labels
    box: Field  # (2, 3): first and last place, along each axis, with a label other than 0


class Look(NamedTuple):
    """What is drawn at random for one volume."""

    matrix: Field  # (3, 3): rotation, scale and shear, output to atlas
    centre: Field  # (3,): the place in the atlas shown in the middle, voxels
    bumps: Field  # (3, GRID, GRID, GRID): elastic displacement at the knots, voxels
    means: Field  # intensity of each painted class, 0..1
    spreads: Field  # its standard deviation inside the class
    bias: Field  # (GRID, GRID, GRID): logarithm of the bias field at the knots
    blur: Field  # (3,): standard deviation along each axis, voxels; the thick slices of a real scan
    noise: float  # standard deviation


def generate(
    rng: np.random.Generator,
    size: int = SIZE,
    atlas: str | None = None,
    dtype: str = "uint8",
) -> Iterator[dict[str, Any]]:
    """Yield {"img.npy": (size, size, size), "seg.npy": the same, uint8} without end.

    size: voxels a side; a larger atlas is shown whole, more coarsely. atlas: an npz file with the array
    `label` (uint8, 3 axes) and maybe `t1`, the scan it was made from; None: the phantom. dtype: img is uint8
    over 0..255, or float32 over 0..1.
    Seconds a volume: 0.005 at 48, 0.7 at 256; the first one takes about twice that.
    """
    if dtype not in ("uint8", "float32"):
        raise UsageError(f"dtype={dtype!r}: images are uint8 or float32")
    if size < _SMALLEST:
        raise UsageError(f"size={size}: a head needs {_SMALLEST} voxels a side to be one")
    source = load_atlas(atlas, size)
    while True:
        image, target = make_volume(rng, source, size)
        yield {"img.npy": _as_uint8(image) if dtype == "uint8" else image, "seg.npy": target}


def load_atlas(path: str | None, size: int) -> Atlas:
    """Load an atlas, or make the phantom of this size."""
    if path is None:
        return _framed(head(size), head(size))
    try:
        with np.load(path, allow_pickle=False) as arrays:
            label = np.ascontiguousarray(arrays["label"])
            scan = arrays.get("t1")
    except FileNotFoundError:
        raise NotFound("there is no such atlas; give an npz file with the array `label`", url=path) from None
    except (KeyError, ValueError, OSError) as error:
        raise UsageError(
            f"this is no atlas, an npz file with the array `label` ({error})", url=path
        ) from error
    if label.ndim != 3 or label.dtype != np.uint8 or (scan is not None and scan.shape != label.shape):
        raise UsageError(
            f"`label` must be uint8 with 3 axes (`t1` alike), not {label.dtype} {label.shape}", url=path
        )
    if not label.any():
        raise UsageError("`label` is 0 everywhere", url=path)
    return _framed(label, label if scan is None else _split_by_brightness(label, scan))


def _framed(target: Labels, paint: Labels) -> Atlas:
    others = [tuple({0, 1, 2} - {axis}) for axis in range(3)]
    lines = [np.flatnonzero(target.any(axis=pair)) for pair in others]
    box = np.array([[line[0] for line in lines], [line[-1] for line in lines]], np.float32)
    return Atlas(np.pad(target, 1), np.pad(paint, 1), box)


def make_volume(rng: np.random.Generator, atlas: Atlas, size: int) -> tuple[Field, Labels]:
    """Make one image, float32 in 0..1, and its labels. Works in slabs: little memory beyond the result."""
    look = draw_look(rng, atlas, size)
    image = np.empty((size, size, size), np.float32)
    target = np.empty((size, size, size), np.uint8)
    weights = _spline(size)
    step = max(1, _SLAB_VOXELS // size**2)
    slabs = [slice(start, start + step) for start in range(0, size, step)]
    for rows in slabs:
        where = _look_up(look, atlas.target.shape, weights, rows)
        target[rows] = atlas.target.take(where)
        paint = atlas.paint.take(where)
        part = rng.standard_normal(paint.shape, np.float32)
        part *= look.spreads[paint]
        part += look.means[paint]
        part *= np.exp(_spread(look.bias, weights, rows))
        image[rows] = _blur(_blur(part, 2, look.blur[2]), 1, look.blur[1])
    for columns in slabs:
        image[:, columns] = _blur(image[:, columns], 0, look.blur[0])
    bright = float(
        np.quantile(image[::4, ::4, ::4], 0.995)
    )  # a class of a few voxels leaves the rest its range
    scale = np.float32(1 / max(bright, 1e-3))
    for rows in slabs:
        part = rng.standard_normal(image[rows].shape, np.float32)
        part *= np.float32(look.noise)
        image[rows] *= scale
        part += image[rows]
        np.clip(part, 0, 1, out=image[rows])
    return image, target


def draw_look(rng: np.random.Generator, atlas: Atlas, size: int) -> Look:
    """Draw deformation, contrast and faults: milder than SynthSeg's, for a network that has a minute."""
    turn, shear = rng.uniform(-0.2, 0.2, 3), rng.uniform(-0.03, 0.03, (3, 3))
    zoom = max(1, np.ptp(atlas.box, 0).max() / (0.95 * size))  # atlas voxels in a voxel: all of it is shown
    classes = int(atlas.paint.max()) + 1
    means = (
        rng.permutation(classes) + rng.uniform(0, 1, classes)
    ) / classes  # each class in a band of its own
    means[0] *= 0.15  # air is dark
    return Look(
        matrix=(zoom * _rotation(turn) @ (np.diag(rng.uniform(0.9, 1.1, 3)) + shear)).astype(np.float32),
        centre=(atlas.box.mean(0) + 1).astype(np.float32),
        bumps=rng.normal(0, rng.uniform(0, 0.06) * size * zoom, (3, _GRID, _GRID, _GRID)).astype(np.float32),
        means=means.astype(np.float32),
        spreads=rng.uniform(0.01, 0.05, classes).astype(np.float32),
        bias=rng.normal(0, rng.uniform(0, 0.4), (_GRID, _GRID, _GRID)).astype(np.float32),
        blur=rng.uniform(0.3, 0.7, 3).astype(np.float32),
        noise=float(rng.uniform(0, 0.03)),
    )


def _look_up(
    look: Look, shape: tuple[int, ...], weights: Field, rows: slice
) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Give, for each voxel of the slab, the index of the nearest voxel in the flattened atlas."""
    size = len(weights)
    line = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
    up, front, right = line[rows, None, None], line[None, :, None], line[None, None, :]
    index = np.zeros((), np.int32)
    for axis in range(3):
        a, b, c = look.matrix[axis]
        place = _spread(look.bumps[axis], weights, rows)
        place += a * up + (look.centre[axis] + np.float32(0.5))
        place += b * front + c * right
        np.clip(place, 0, shape[axis] - 1, out=place)
        index = index * np.int32(shape[axis]) + place.astype(np.int32)
    return index


def _spread(knots: Field, weights: Field, rows: slice) -> Field:
    """Give a smooth field from its knots, for the rows of one slab."""
    # einsum and not @: BLAS would start a thread for each core, in each of the generators
    planes = np.einsum("fb,abr->afr", weights, np.einsum("rc,abc->abr", weights, knots))
    spread: Field = np.einsum("ua,afr->ufr", weights[rows], planes)
    return spread


def _spline(size: int) -> Field:
    """Give the weights (size, GRID) of a uniform cubic B-spline along one axis."""
    place = np.linspace(0, _GRID - 3, size)[:, None] - (np.arange(_GRID) - 1)
    far = np.abs(place)
    near = 2 / 3 - far**2 + far**3 / 2
    weights: Field = np.where(far < 1, near, np.maximum(0, 2 - far) ** 3 / 6).astype(np.float32)
    return weights


def _blur(image: Field, axis: int, sigma: float) -> Field:
    """Blur along one axis by a Gaussian, cut off after two voxels; beyond an edge it is like at the edge."""
    kernel = np.exp(-0.5 * (np.arange(3) / sigma) ** 2).astype(np.float32)
    kernel /= kernel[0] + 2 * kernel[1:].sum()
    along = np.moveaxis(image, axis, 0)
    blurred = along * kernel[0]
    for far in (1, 2):
        part = along * kernel[far]
        blurred[far:] += part[:-far]
        blurred[:-far] += part[far:]
        blurred[:far] += part[:1]
        blurred[-far:] += part[-1:]
    result: Field = np.moveaxis(blurred, 0, axis)
    return result


def _rotation(turn: Field) -> Field:
    """Give the rotation by three angles, radians, about the three axes in turn."""
    matrix: Field = np.eye(3)
    for axis, angle in enumerate(turn.tolist()):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = step @ matrix
    return matrix


def _split_by_brightness(label: Labels, scan: Labels, parts: int = 4) -> Labels:
    """Split label 1, which holds all that an atlas has no name for, at the quantiles of its brightness."""
    edges = np.quantile(scan[label == 1], np.linspace(0, 1, parts + 1)[1:-1])
    finer = label.max() + np.searchsorted(edges, scan).astype(np.uint8)
    return np.where((label == 1) & (finer > label.max()), finer, label).astype(np.uint8)


def _as_uint8(image: Field) -> Labels:
    scaled = np.empty(image.shape, np.uint8)
    for i, plane in enumerate(image):
        scaled[i] = np.rint(plane * np.float32(255))
    return scaled
