"""What is in shards: fields, types, dtypes, shapes, ranges, counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

from wlshard.codecs import decoder
from wlshard.errors import CodecError, WlshardError
from wlshard.sample import KEY, URL, Sample, fields_of
from wlshard.shards.access import ShardAccess
from wlshard.shards.expand import STDIN
from wlshard.shards.reader import read_samples
from wlshard.store.connect import locate
from wlshard.tar.index import ListedShard
from wlshard.tar.tape import MAX_MEMBER_BYTES

SHAPES = 20  # of one field, the most frequent ones

Watch = Callable[[Sample, dict[str, int]], object]  # a decoded sample, and the bytes of its fields


class FieldSurvey:
    """One field over many samples. Arrays are looked at whole, also those in lists and dicts (npz, ten)."""

    def __init__(self) -> None:
        self.count = self.bytes = self.undecodable = 0
        self.types: Counter[str] = Counter()
        self.dtypes: Counter[str] = Counter()
        self.shapes: Counter[tuple[int, ...]] = Counter()
        self.min: float | int | None = None
        self.max: float | int | None = None

    def add(self, value: Any, size: int) -> None:
        self.count += 1
        self.bytes += size
        self.types[type(value).__name__] += 1
        for array in _arrays(value):
            self.dtypes[str(array.dtype)] += 1
            self.shapes[tuple(array.shape)] += 1
            if array.size and array.dtype.kind in "biuf":
                import numpy as np

                # fmin and fmax pass over NaN, unless there is nothing else
                self._widen(np.fmin.reduce(array, None).item(), np.fmax.reduce(array, None).item())
        if isinstance(value, int | float) and not isinstance(value, bool):
            self._widen(value, value)

    def _widen(self, low: float | int, high: float | int) -> None:
        if not math.isnan(low):
            self.min = low if self.min is None else min(self.min, low)
            self.max = high if self.max is None else max(self.max, high)

    def as_json(self) -> dict[str, Any]:
        """Give the field as in `wl-info --json`: names by frequency; a range that ends nowhere is null."""
        return {
            "count": self.count,
            "types": [name for name, _ in self.types.most_common()],
            "dtype": ", ".join(name for name, _ in self.dtypes.most_common()) or None,
            "shapes": [list(shape) for shape, _ in self.shapes.most_common(SHAPES)],
            "shapes_omitted": max(0, len(self.shapes) - SHAPES),
            "min": _finite(self.min),
            "max": _finite(self.max),
            "bytes": self.bytes,
            "undecodable": self.undecodable,
        }


class Survey:
    """Of a list of shards: `samples` and `bytes` in all (None: only reading all of it would tell), the number
    of shards, and `fields` over the first `looked_at` samples.

    limit: look at so many samples, 0: at all. images: as for `codecs.decoder`; None leaves every field
    undecoded. lenient: a field that does not decode is counted, not raised. watch: is given each sample
    looked at, decoded.
    """

    def __init__(
        self,
        *,
        limit: int = 0,
        images: bool | str | None = "stored",
        lenient: bool = False,
        watch: Watch | None = None,
        max_member_bytes: int = MAX_MEMBER_BYTES,
    ) -> None:
        self.shards = 0
        self.samples: int | None = None
        self.bytes: int | None = None
        self.looked_at = 0
        self.fields: dict[str, FieldSurvey] = {}
        self._limit, self._images, self._lenient, self._watch = limit, images, lenient, watch
        self._max_member_bytes = max_member_bytes

    def add(self, sample: Sample) -> bool:
        """Look at a sample as it was read, up to the limit; False: it is reached.

        CodecError names url, key and member.
        """
        if self._limit and self.looked_at >= self._limit:
            return False
        decoded = dict(sample)
        for name in fields_of(sample):
            data = sample[name]
            about = self.fields.setdefault(name, FieldSurvey())
            try:
                value = bytes(data) if self._images is None else decoder(name, self._images)(data)
            except CodecError as error:
                if self._lenient:
                    about.undecodable += 1
                    del decoded[name]
                    continue
                error.url, error.key = sample[URL], sample[KEY]
                error.member = f"{sample[KEY]}.{name}"
                raise
            about.add(value, len(data))
            decoded[name] = value
        self.looked_at += 1
        if self._watch is not None:
            self._watch(decoded, {name: len(sample[name]) for name in fields_of(decoded)})
        return self.looked_at != self._limit

    def measure(self, urls: Sequence[str], samples: int | None = None) -> None:
        """Look into the first samples of these shards and count all; only measure if `samples` is known.

        Counting reads indexes, scans local shards that have none and decompresses compressed ones.
        """
        self.shards, self.samples = len(urls), samples
        if samples is None:
            with closing(_stream(urls, self._max_member_bytes)) as stream:
                more = all(map(self.add, stream))
                if more or STDIN in urls:
                    self.samples = self.looked_at + sum(1 for _ in stream)
                else:
                    self.samples = _total(_counts(urls))
        self.bytes = _total(sizes_of(urls))

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": "shards",
            "shards": self.shards,
            "samples": self.samples,
            "bytes": self.bytes,
            "looked_at": self.looked_at,
            "fields": {name: field.as_json() for name, field in sorted(self.fields.items())},
        }


def _stream(urls: Sequence[str], max_member_bytes: int) -> Generator[Sample, None, None]:
    for url in urls:
        yield from read_samples(url, max_member_bytes=max_member_bytes)


def _counts(urls: Sequence[str]) -> Iterator[int | None]:
    for url in urls:
        with ShardAccess(url) as access:
            yield access.samples


def sizes_of(urls: Sequence[str]) -> Iterator[int | None]:
    """Give the bytes of each shard as it is stored; None where nobody tells."""
    for url in urls:
        if isinstance(url, ListedShard):
            yield url.bytes
            continue
        if url == STDIN:
            yield None
            continue
        store, name = locate(url)
        try:
            yield store.stat(name).bytes
        except WlshardError:  # a server that does not tell
            yield None


def _total(numbers: Iterator[int | None]) -> int | None:
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total


def _arrays(value: Any) -> Iterator[Any]:
    """Find the arrays in a value: itself, or those of a list or a dict."""
    if hasattr(value, "dtype"):
        yield value
    elif isinstance(value, list | tuple):
        yield from (one for one in value if hasattr(one, "dtype"))
    elif isinstance(value, dict):
        yield from (one for one in value.values() if hasattr(one, "dtype"))


def _finite(number: float | int | None) -> float | int | None:
    return number if number is None or math.isfinite(number) else None
