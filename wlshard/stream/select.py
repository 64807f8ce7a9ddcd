"""Which samples are wanted: a function of the user's, or an expression, of a sample as stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wlshard.errors import UsageError
from wlshard.sample import KEY, URL, Sample
from wlshard.stream.expression import compiled, names_for
from wlshard.stream.lazy import LazySample


def selector(select: Callable[..., Any] | str, decode: bool | str) -> Callable[[Sample], bool]:
    """Give the function that tells whether a sample is wanted. UsageError: no function, no Python.

    It is asked before anything else is done; a field is decoded when it is touched, as `decode` says.
    """
    if isinstance(select, str):
        code = compiled(select, "select=", statements=False)
        names: dict[str, Any] = {}

        def ask(sample: LazySample) -> Any:
            if not names:
                names.update(names_for(code))
            names["_"] = sample
            return eval(code, names)  # noqa: S307  # it is what the option is for
    elif callable(select):
        ask = select
    else:
        raise UsageError(
            f'select={select!r}: give a function of a sample, or an expression such as "_.cls < 5"'
        )

    def wanted(sample: Sample) -> bool:
        try:
            return bool(ask(LazySample(sample, decode if isinstance(decode, str) else True)))
        except BaseException as error:
            error.add_note(f"in select, of sample {sample.get(KEY)!r} of {sample.get(URL)!r}")
            raise

    return wanted
