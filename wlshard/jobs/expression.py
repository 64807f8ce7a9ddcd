"""The user's Python from a command line, run on a sample called `_`."""

from __future__ import annotations

import linecache
from types import CodeType
from typing import Any

from wlshard.errors import UsageError, UserCodeError
from wlshard.jobs.usercode import user_code
from wlshard.sample import KEY, URL
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


def compiled(code: str, option: str, *, statements: bool) -> CodeType:
    """Compile the code given to an option. UsageError: it is no Python."""
    name = f"<{option}>"
    linecache.cache[name] = len(code), None, code.splitlines(keepends=True), name  # for tracebacks
    try:
        return compile(code.strip(), name, "exec" if statements else "eval")
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{option} {code!r} is no Python: {error}") from None


def names_for(*codes: CodeType) -> dict[str, Any]:
    """Give the names that some codes start with: `np` if one of them mentions it."""
    names: dict[str, Any] = {"__name__": "__wlshard__"}
    if any(_mentions(code, "np") for code in codes):
        import numpy as np

        names["np"] = np
    return names


def _mentions(code: CodeType, name: str) -> bool:
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return name in code.co_names or any(_mentions(each, name) for each in inner)
