"""The user's Python from a command line, run on a sample called `_`; what samples are sorted by."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from wlshard.errors import UserCodeError
from wlshard.jobs.usercode import user_code
from wlshard.sample import KEY, URL, Sample, choose
from wlshard.stream.expression import compiled, names_for
from wlshard.stream.lazy import LazySample


class Expression:
    """Code given to an option, compiled once: an expression, or statements, whose value is None.

    It sees the sample as `_`, keeps names of its own from sample to sample, and `np` is numpy if it is named.
    UsageError: no Python.
    """

    def __init__(self, code: str, option: str, *, statements: bool = False) -> None:
        self._option = option
        self._code = compiled(code, option, statements=statements)
        self._names = names_for(self._code)

    def value(self, sample: LazySample) -> Any:
        """Run the code on a sample. UserCodeError with the sample's key and url."""
        self._names["_"] = sample
        try:
            with user_code(f"the code of {self._option}"):
                return eval(self._code, self._names)  # noqa: S307  # it is what the option is for
        except UserCodeError as error:
            error.key, error.url = sample.get(KEY), sample.get(URL)
            raise

    def holds(self, sample: LazySample) -> bool:
        """Tell whether the expression is true of the sample."""
        value = self.value(sample)
        try:
            return bool(value)
        except ValueError as error:  # an array of several truth values
            raise UserCodeError(
                f"the code of {self._option} gave {type(value).__name__}, neither true nor false: {error}",
                key=sample.get(KEY),
                url=sample.get(URL),
            ) from None


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
