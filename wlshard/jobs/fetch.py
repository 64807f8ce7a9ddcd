"""Samples from what their fields come from: files, URLs, and values of a plan."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from wlshard.codecs import encode
from wlshard.errors import GroupingError, NotFound, printable
from wlshard.sample import KEY, URL, Sample, fields_of
from wlshard.store.connect import is_local, local_path, locate
from wlshard.store.files import errors_of


def given_samples(given: Sequence[str], settings: Mapping[str, Any]) -> Iterator[Sample]:
    """Yield the samples that lines tell of: instead of each field's bytes, what they come from."""
    split = (line.split("\0") for line in given)
    for key, fields in groupby(split, lambda line: line[0]):
        sample: Sample = {KEY: key, URL: settings["source"]}
        for _, field, source in fields:
            sample[field] = (source or f"<{key}.{field}").encode("utf-8", "surrogateescape")
        yield sample


def fetcher(settings: Mapping[str, Any]) -> Callable[[Sample, int], list[Sample]]:
    """Make the function that fetches the fields of a sample: the work of a shard job."""
    base, allow_empty, classes = settings["base"], settings["allow_empty"], settings.get("classes")
    numbers = {name: n for n, name in enumerate(classes or ())}

    def fetch(sample: Sample, _: int) -> list[Sample]:
        made = dict(sample)
        for name in fields_of(sample):
            text = bytes(sample[name]).decode("utf-8", "surrogateescape")
            made[name] = _bytes(name, text, base, allow_empty)
        if classes is not None:
            made["cls"] = b"%d" % _number(made, numbers, settings["at"])
        return [made]

    return fetch


def _number(sample: Sample, numbers: Mapping[str, int], at: int) -> int:
    if "cls" in sample:
        raise GroupingError("there is a field cls: remove that, or leave out --classes", key=sample[KEY])
    dotted = [name for name in sample if "." in name]
    if dotted:
        what = f"a name ends at its first dot, so this has the field {printable(dotted[0])}"
        raise GroupingError(f"{what}: rename it, or leave out --classes", url=sample[URL], key=sample[KEY])
    name = class_of(sample[KEY], at)
    if name not in numbers:
        raise GroupingError(f"the class {printable(name)} is not in the file of --classes", key=sample[KEY])
    return numbers[name]


def _bytes(field: str, source: str, base: str, allow_empty: bool) -> Any:
    kind, text = source[0], source[1:]
    if kind == "=":
        return text.encode("utf-8", "surrogateescape")
    if kind == ":":
        return bytes(encode(field, json.loads(text)))
    url = url_of(base, text)
    if is_local(url):
        data = _local_bytes(url)
    else:
        store, name = locate(url)
        data = store.read(name)
    if not data and not allow_empty:
        raise GroupingError("an empty file: remove it, or --allow-empty", url=url)
    return data


def _local_bytes(url: str) -> bytes:
    """Read a file of this machine: there are many, and a store would look at each twice."""
    path = local_path(url)
    with errors_of(url):
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait
            raise NotFound("is no file: leave it out", url=url)
        with open(path, "rb", buffering=0) as file:
            return file.readall()


def name_of(key: str, field: str, source: str) -> str:
    """Give the name of the file that a field comes from."""
    return source[1:] if source else f"{key}.{field}"


def url_of(base: str, name: str) -> str:
    """Give what a name in a source means, relative ones being relative to `base`."""
    return name if "://" in name or name.startswith("/") else f"{base}/{name}"


def class_of(key: str, at: int) -> str:
    """Give the class of a sample: its folder of this number. GroupingError: it has none."""
    folders = key.split("/")[:-1]
    if not folders:
        raise GroupingError("a file in no class's folder: move it into one, or leave out --classes", key=key)
    return folders[at]
