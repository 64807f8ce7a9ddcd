"""What a worker is started with, on its way to a process that is no copy of this one."""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import fields

import cloudpickle

from wlshard.errors import UsageError
from wlshard.workers.main import Start

UNFIT = pickle.PicklingError, AttributeError, TypeError, RuntimeError  # what pickle raises, and locks


def by_value(start: Start, start_method: str) -> bytes:
    """Pickle it with those functions and classes that no module has: lambdas, those of a notebook.

    UsageError names the argument that cannot be sent at all.
    """
    try:
        return bytes(cloudpickle.dumps(start))
    except UNFIT:
        given = [(field.name, getattr(start.recipe, field.name)) for field in fields(start.recipe)]
        for name, value in [*given, ("source", start.data)]:
            try:
                cloudpickle.dumps(value)
            except UNFIT as error:
                raise UsageError(
                    f"{name}= cannot be sent to workers by start_method={start_method!r} ({error}): make "
                    'what it holds when it is first called, there, or use start_method="fork"'
                ) from error
        raise


def program_is_found() -> bool:
    """Tell whether another process can import what this one runs; of a notebook or `python -c` it cannot."""
    program = sys.modules["__main__"]
    return getattr(program, "__spec__", None) is not None or os.path.isfile(
        getattr(program, "__file__", None) or ""
    )
