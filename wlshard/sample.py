"""A sample: a dict of fields plus `__key__` and `__url__`; how a member's name becomes key and field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from wlshard.errors import NotFound

Sample: TypeAlias = dict[str, Any]

KEY = "__key__"
URL = "__url__"


def split_name(name: str) -> tuple[str, str] | None:
    """Split a member's name into key and field at the first dot of its basename.

    `train/00042.left.PNG` gives `("train/00042", "left.png")`: fields are lower-cased, keys are not.
    None: the name belongs to no sample (no dot, or a dotfile such as `.DS_Store` and `._x.jpg`).
    """
    start = name.rfind("/") + 1
    dot = name.find(".", start)
    if dot <= start or dot == len(name) - 1:
        return None
    return name[:dot], name[dot + 1 :].lower()


def fields_of(sample: Sample) -> list[str]:
    """List a sample's fields, sorted: everything but the `__names__` that describe it."""
    return sorted(name for name in sample if not name.startswith("__"))


def extension(field: str) -> str:
    """Give the last dotted part of a field, which picks its codec: `left.png` gives `png`."""
    return field.rpartition(".")[2]


def choose(sample: Sample, names: Sequence[str]) -> str:
    """Give the first of these names that the sample has. NotFound: it has none of them."""
    for name in names:
        if name in sample:
            return name
    there = ", ".join(fields_of(sample)) or "none"
    what = f"the sample has no field {' or '.join(names)}; it has {there}"
    raise NotFound(what, key=sample.get(KEY), url=sample.get(URL))
