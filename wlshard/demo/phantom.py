"""A procedural head: labels of skull, CSF, grey and white matter and ventricles, from formulas alone."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

Labels = np.ndarray[Any, np.dtype[np.uint8]]
Field = np.ndarray[Any, np.dtype[np.floating[Any]]]

CLASSES = ("background", "skull", "CSF", "grey matter", "white matter", "ventricles")
_SLAB_VOXELS = 2**19  # painted at a time
_SKULL, _CSF, _GREY, _WHITE, _VENTRICLES = range(1, 6)


@lru_cache(maxsize=4)
def head(size: int) -> Labels:
    """Give the label map (size, size, size) of a head that fills the cube; axes: up, front, right.

    Deterministic; slab by slab, so that memory stays at the result and a few slabs. About 20 ns a voxel.
    """
    line = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    front, right = line[None, :, None], line[None, None, :]
    detail = min(1.0, 0.3 + size / 180)  # narrower folds than the voxels show would only be noise
    slab = max(1, _SLAB_VOXELS // size**2)
    labels = np.concatenate(
        [_paint(line[i : i + slab, None, None], front, right, detail) for i in range(0, size, slab)]
    )
    labels.flags.writeable = False
    return labels


def _paint(up: Field, front: Field, right: Field, detail: float) -> Labels:
    """Paint one slab; coordinates in -1..1; detail: how narrow the folds are, 1 for those of an adult."""
    side = np.abs(right)
    folds = _folds(up, front, right, detail)
    skull = _ball(up, front, side, (0.0, 0.0, 0.0), (0.95, 0.98, 0.84))
    cerebrum = _ball(up, front, side, (0.17, 0.0, 0.0), (0.60, 0.80, 0.655))
    temporal = _ball(up, front, side, (-0.27, 0.12, 0.38), (0.25, 0.46, 0.23))
    depth = np.minimum(cerebrum, 0.30 + 0.70 * temporal)  # the ribbon is as thick on the smaller lobe
    cleft = np.where(up > 0.33 - 0.5 * front**2, side, 1)  # between the halves, down to the corpus callosum
    cerebellum = _ball(up, front, side, (-0.50, -0.40, 0.0), (0.24, 0.32, 0.44))
    leaves = 0.78 + 0.17 * np.sin(34 * detail * (up + 0.4 * front) + 4 * side)
    stem = _ball(up, front, side, (-0.55, -0.10, 0.0), (0.50, 0.13, 0.14))
    labels = np.where(skull < 1, np.uint8(_SKULL), np.uint8(0))
    for inside, label in (
        (skull < 0.85, _CSF),
        (cerebellum < 1, _GREY),
        (cerebellum < leaves, _WHITE),
        ((stem < 1) & (skull < 0.85), _WHITE),
        ((depth < 0.95 + 0.06 * folds) & (cleft > 0.02), _GREY),
        ((depth < 0.74 + 0.12 * folds) & (cleft > 0.11 + 0.05 * folds), _WHITE),
        (_ball(up, front, side, (0.02, -0.04, 0.13), (0.13, 0.17, 0.10)) < 1, _GREY),  # thalamus
        (_ball(up, front, side, (0.17, 0.26, 0.17), (0.13, 0.16, 0.07)) < 1, _GREY),  # caudate
        (_ball(up, front, side, (0.02, 0.12, 0.33), (0.15, 0.24, 0.08)) < 1, _GREY),  # putamen
        (_horns(up, front, side) < 1, _VENTRICLES),
        (_ball(up, front, side, (-0.03, 0.0, 0.0), (0.18, 0.20, 0.05)) < 1, _VENTRICLES),  # the third
    ):
        labels[inside] = label
    return labels


def _ball(
    up: Field, front: Field, right: Field, centre: tuple[float, ...], radii: tuple[float, ...]
) -> Field:
    """Give the distance from the centre in units of the radii: 1 on the ellipsoid."""
    parts = zip((up, front, right), centre, radii, strict=True)
    squares = [((axis - np.float32(c)) / np.float32(r)) ** 2 for axis, c, r in parts]
    distance: Field = np.sqrt(squares[0] + squares[1] + squares[2])
    return distance


def _folds(up: Field, front: Field, right: Field, detail: float) -> Field:
    """Give the folds of the cortex, about -1..1: a gyroid, bent so that it does not look like a lattice."""
    u = 13 * detail * up + 1.5 * np.sin(4 * front)
    f = 12 * detail * front + 1.5 * np.sin(5 * right)
    r = 14 * detail * right + 1.5 * np.sin(4 * up)
    folds: Field = (np.sin(u) * np.cos(f) + np.sin(f) * np.cos(r) + np.sin(r) * np.cos(u)) / np.float32(1.3)
    return folds


def _horns(up: Field, front: Field, side: Field) -> Field:
    """Give the lateral ventricles: horns that rise, bend and spread to the back."""
    bend = 0.10 + 0.35 * np.maximum(0, -front) ** 1.5 + 0.10 * np.maximum(0, front - 0.1)
    height = 0.20 - 0.35 * front**2
    distance: Field = np.sqrt(((up - height) / 0.14) ** 2 + (front / 0.50) ** 2 + ((side - bend) / 0.10) ** 2)
    return distance
