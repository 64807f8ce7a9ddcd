"""Python given as text, and the names that it starts with."""

from __future__ import annotations

import linecache
from types import CodeType
from typing import Any

from wlshard.errors import UsageError


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
