"""What samples are sorted by."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from wlshard.errors import UserCodeError
from wlshard.jobs.expression import Expression
from wlshard.sample import KEY, URL, Sample, choose
from wlshard.stream.lazy import LazySample


def ranker(sort: str) -> Callable[[Sample], Any]:
    """Give what gives each sample its rank: by `key`, by the value of a field, or by an expression of `_`.

    Numbers come before texts, these before bytes, these before lists. UserCodeError: a value that has no
    order; NotFound: a sample lacks the field.
    """
    if sort == "key":
        return lambda sample: sample[KEY]
    field = re.fullmatch(r"[^\W_][\w.-]*", sort)
    expression = None if field else Expression(sort, "--sort")

    def rank(sample: Sample) -> Any:
        try:
            lazy = LazySample(sample)
            value = lazy[choose(sample, [sort])] if expression is None else expression.value(lazy)
            return _comparable(value)
        except TypeError as error:
            raise UserCodeError(f"--sort {sort}: {error}", url=sample[URL], key=sample[KEY]) from None

    return rank


def _comparable(value: Any) -> Any:
    """Give what compares with all else that this gives: numbers before texts before bytes before lists."""
    if getattr(value, "shape", None) == ():  # one of numpy's
        value = value.item()
    if isinstance(value, int | float) and value == value:
        return 0, value
    if isinstance(value, str):
        return 1, value
    if isinstance(value, bytes | memoryview):
        return 2, bytes(value)
    if isinstance(value, list | tuple):
        return 3, tuple(map(_comparable, value))
    raise TypeError(
        f"{type(value).__name__} {str(value)[:40]!r} has no order: give a number, a text or a list"
    )
