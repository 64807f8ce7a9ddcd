"""The user's Python from a command line, run on a sample called `_`."""

from __future__ import annotations

from typing import Any

from wlshard.errors import UserCodeError
from wlshard.jobs.usercode import user_code
from wlshard.sample import KEY, URL
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
