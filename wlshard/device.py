"""Values as torch's tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wlshard.errors import UsageError


def converter(converters: str) -> Callable[[Any], Any] | None:
    """Give the function that makes tensors of arrays, for "torch"; None for "numpy". UsageError."""
    if converters not in ("numpy", "torch"):
        raise UsageError(f'converters={converters!r}: say "numpy" or "torch"')
    if converters == "numpy":
        return None
    try:
        import torch  # noqa: F401  # here, so that workers that are forked need not
    except ImportError:
        raise UsageError(
            'converters="torch" needs torch, which is not installed: pip install torch'
        ) from None
    return to_tensor


def to_tensor(value: Any) -> Any:
    """Give an array as a tensor that shares its memory; a copy if that is read-only.

    What torch has no dtype for (strings, records, another byte order) stays an array: nothing is cast.
    """
    import numpy as np  # samples() can do without
    import torch

    if not isinstance(value, np.ndarray):
        return value

    if value.dtype.hasobject or not value.dtype.isnative:
        return value
    try:
        return torch.from_numpy(value if value.flags.writeable else value.copy(order="K"))
    except (TypeError, ValueError):  # a dtype, or negative strides
        return value
