"""What a report shows of the values that pass by: histograms, counts of classes, a sheet of pictures.

All of it is bounded, whatever passes: 64 bins, 200 classes and 40 charts, 48 samples of 3 pictures.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from wlshard import seeds
from wlshard.codecs import encode
from wlshard.codecs.picture import Image, picture
from wlshard.report.terminal import averaged
from wlshard.sample import KEY, Sample, fields_of

BINS = 64
CLASSES = 200  # distinct values; a field that has more of them has no classes
CLASS_CHARS = 40
CHARTS = 40  # fields that get one
SAMPLES = 48  # on the sheet
PICTURES = 3  # of one sample
PIXELS = 144  # of a picture's longer side
VALUES = 1 << 16  # of one array, evenly spaced


class Histogram:
    """Counts in at most 64 bins. Their width is a power of two and doubles as the range grows: every value is
    counted in one pass."""

    def __init__(self) -> None:
        self.least, self.most = math.inf, -math.inf
        self.low, self.step = 0, 0.0  # bin i holds step · (low + i) up to the next
        self.counts = np.zeros(0, np.int64)

    def add(self, values: np.ndarray[Any, Any]) -> None:
        """Take in finite numbers."""
        if not values.size:
            return
        least, most = float(values.min()), float(values.max())
        self.least, self.most = min(self.least, least), max(self.most, most)
        whole = values.dtype.kind in "iub"
        if not self.step:
            span = max(min(most - least, 2.0**1020), abs(least) * 2**-20, 2.0**-1000)
            self.step = max(1.0 if whole else 0.0, 2.0 ** math.ceil(math.log2(span / (BINS / 2))))
        while self.step < max(abs(least), abs(most)) * 2**-40:
            self._double()
        while True:
            low, high = math.floor(least / self.step), math.floor(most / self.step)
            if self.counts.size:
                low, high = min(low, self.low), max(high, self.low + self.counts.size - 1)
            if high - low < BINS:
                break
            self._double()
        wider = np.zeros(high - low + 1, np.int64)
        if self.counts.size:
            wider[self.low - low :][: self.counts.size] = self.counts
        places = np.floor(values.astype(np.float64) / self.step).astype(np.int64) - low
        self.counts, self.low = wider + np.bincount(places, minlength=wider.size), low

    def _double(self) -> None:
        low = self.low // 2
        places = (self.low + np.arange(self.counts.size)) // 2 - low
        doubled = np.zeros(places[-1] + 1 if places.size else 0, np.int64)
        np.add.at(doubled, places, self.counts)
        self.counts, self.low, self.step = doubled, low, self.step * 2

    def bins(self) -> Iterator[tuple[float, float, int]]:
        """Give each bin's begin, end and count."""
        for place, count in enumerate(self.counts.tolist(), self.low):
            yield place * self.step, (place + 1) * self.step, count


class FieldCharts:
    """One field: the sizes it is stored in, its numbers, and its values where they are few."""

    def __init__(self) -> None:
        self.sizes, self.values = Histogram(), Histogram()
        self.classes: Counter[str] | None = Counter()

    def add(self, value: Any, size: int) -> None:
        self.sizes.add(np.array([size]))
        for array in _numbers(value):
            flat = array.reshape(-1)[
                :: -(-array.size // VALUES) | 1
            ]  # an odd step sees every column of an image
            self.values.add(flat[np.isfinite(flat)] if flat.dtype.kind == "f" else flat)
        if isinstance(value, str):
            value = value.strip()
        short = isinstance(value, int) or (isinstance(value, str) and len(value) <= CLASS_CHARS)
        if self.classes is not None and short:
            self.classes[str(value)] += 1
        if not short or (self.classes is not None and len(self.classes) > CLASSES):
            self.classes = None

    @property
    def labels(self) -> dict[int, int]:
        """Count an array's classes, which are coloured on the sheet; empty if it holds other numbers."""
        values = self.values
        if values.step != 1 or values.least < 0 or values.most >= len(PALETTE):
            return {}
        return {int(begin): count for begin, _, count in values.bins() if count}


class Shown(NamedTuple):
    """A sample on the sheet: its short values, and its pictures as image files of a type."""

    key: str
    values: list[tuple[str, str]]
    pictures: list[tuple[str, str, bool, bytes]]  # field, type, whether it was made no smaller, file


class Gathered:
    """Everything that was gathered; `watch` is what a Survey calls."""

    def __init__(self) -> None:
        self.charts: dict[str, FieldCharts] = {}
        self._sheet: dict[int, tuple[int, Shown]] = {}
        self._seen, self._random = 0, seeds.rng(0, "report")

    def watch(self, sample: Sample, sizes: dict[str, int]) -> None:
        """Take in a decoded sample."""
        for name in fields_of(sample):
            if name in self.charts or len(self.charts) < CHARTS:
                self.charts.setdefault(name, FieldCharts()).add(sample[name], sizes[name])
        # A reservoir: whatever number came so far, each sample of it has the same chance to be on the sheet.
        self._seen += 1
        place = len(self._sheet) if len(self._sheet) < SAMPLES else int(self._random.random() * self._seen)
        if place < SAMPLES:
            self._sheet[place] = self._seen, _shown(sample)

    @property
    def sheet(self) -> list[Shown]:
        """Give the samples on the sheet, in their order."""
        return [shown for _, shown in sorted(self._sheet.values(), key=lambda each: each[0])]


def _numbers(value: Any) -> Iterator[np.ndarray[Any, Any]]:
    if isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            if hasattr(one, "dtype"):
                yield from _numbers(one)
    elif (
        hasattr(value, "dtype") or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
    ):
        array = np.asarray(value)
        if array.dtype.kind in "biuf" and array.size:
            yield array


def _shown(sample: Sample) -> Shown:
    values, pictures = list[tuple[str, str]](), list[tuple[str, str, bool, bytes]]()
    for name in fields_of(sample):
        value = sample[name]
        if isinstance(value, int | float | str) and len(values) < PICTURES:
            values.append((name, str(value).strip()))
        drawn = picture(value, PALETTE) if len(pictures) < PICTURES else None
        if drawn is not None and min(drawn.shape[:2]) >= 8:
            pictures.append((name, *_file(drawn)))
    return Shown(sample[KEY], values, pictures)


def _file(pixels: Image) -> tuple[str, bool, bytes]:
    """Make a small file of a picture: JPEG or PNG, whichever is smaller."""
    height, width = pixels.shape[:2]
    scale = min(1.0, PIXELS / max(height, width))
    if scale < 1:
        mean = averaged(pixels.astype(np.float32), max(1, round(height * scale)), 0)
        pixels = np.rint(averaged(mean, max(1, round(width * scale)), 1)).astype(np.uint8)
    made = {kind: bytes(encode(kind, np.ascontiguousarray(pixels))) for kind in ("jpeg", "png")}
    kind = min(made, key=lambda kind: len(made[kind]))
    return kind, scale == 1, made[kind]


def _palette(classes: int) -> Image:
    """Give colours far apart for classes: hues by the golden angle, 0 nearly black."""
    hue = (np.arange(classes) * 0.618034 + 0.40) % 1 * 6
    channels = np.clip(np.abs((hue[:, None] + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    bright = np.where(np.arange(classes) % 2, 235, 190)[:, None]
    colours: Image = np.rint((0.4 + 0.6 * channels) * bright).astype(np.uint8)
    colours[0] = 18
    return colours


PALETTE = _palette(32)
