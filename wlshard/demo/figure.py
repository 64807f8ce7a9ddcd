"""The demo's picture: the course of loss and Dice, and one slice of image, label and prediction."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from wlshard.demo.summary import Course

Volume = np.ndarray[Any, Any]
# Of a class: none, skull, CSF, grey matter, white matter, ventricles; more classes begin again.
COLOURS = "#000000", "#c9b18f", "#3f8fc4", "#8f8f98", "#f4f1e8", "#d1495b"


def why_no_picture() -> str | None:
    """Say why no picture can be drawn, or None."""
    if importlib.util.find_spec("matplotlib"):
        return None
    return "no picture will be drawn: matplotlib is not installed; pip install 'wlshard[report]'"


def draw(
    folder: str, course: Course, names: Sequence[str], image: Volume, label: Volume, found: Volume
) -> str:
    """Write demo.png into the folder, made if absent; gives its path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.2), layout="constrained", facecolor="white")
    rows: Any = figure.subfigures(2, 1, height_ratios=[1, 1.15])
    left, right = rows[0].subplots(1, 2)
    _draw_loss(left, course)
    _draw_dice(right, course, names)
    slices = {"image": image, "label": label, "prediction": found}
    for axes, (title, volume) in zip(rows[1].subplots(1, 3), slices.items(), strict=True):
        _draw_slice(axes, volume, title, len(names) + 1)
    _add_legend(rows[1], names)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "demo.png")
    figure.savefig(path, dpi=110)
    return path


def _draw_loss(axes: Any, course: Course) -> None:
    axes.set(title="Loss", xlabel="seconds of training")
    if course.losses:
        seconds, losses = np.array(course.losses).T
        axes.plot(seconds, losses, color="#b8c4d6", linewidth=0.8, label="each step")
        width = min(25, len(losses))
        smooth = np.convolve(losses, np.full(width, 1 / width), "valid")
        axes.plot(seconds[width - 1 :], smooth, color="#20639b", linewidth=2, label=f"mean of {width}")
        axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_dice(axes: Any, course: Course, names: Sequence[str]) -> None:
    axes.set(title="Dice on volumes never trained on", xlabel="seconds of training", ylim=(0, 1))
    seconds = [at for at, _ in course.scores]
    scores = np.array([each for _, each in course.scores])
    for column, name in enumerate(names):
        axes.plot(seconds, scores[:, column], color=_colour(column + 1, dark=True), linewidth=1.2, label=name)
    axes.plot(seconds, scores.mean(1), color="black", linewidth=2.4, label="mean")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, ncols=2, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_slice(axes: Any, volume: Volume, title: str, classes: int) -> None:
    """Show the plane with the most to see near the middle, as if looking from above, the front up."""
    from matplotlib.colors import ListedColormap

    plane = volume[round(len(volume) * 0.56)][::-1]
    if title == "image":
        axes.imshow(plane, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        colours = ListedColormap([_colour(label) for label in range(classes)])
        axes.imshow(plane, cmap=colours, vmin=-0.5, vmax=classes - 0.5, interpolation="nearest")
    axes.set_title(title)
    axes.set_axis_off()


def _add_legend(figure: Any, names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor=_colour(label), edgecolor="#555555", label=name)
        for label, name in enumerate(names, 1)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)


def _colour(label: int, dark: bool = False) -> str:
    """Give a class its colour; dark: white matter as an outline that shows on white paper."""
    colour = COLOURS[label] if label < len(COLOURS) else f"C{label % 10}"
    return "#d9a406" if dark and colour == COLOURS[4] else colour
