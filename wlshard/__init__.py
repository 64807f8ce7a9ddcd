"""Training data on plain tar shards, live and safe.

    samples       iterate over any shards, a pool, a folder, a list of URLs
    ShardWriter   write shards, or seal them into a pool
    Pool          a write buffer and a read pool at one URL
    Loader        batches for a training loop, resumable, following rotations
    Mix           sources for a Loader, each with a weight

Importing this module loads none of it: each name is fetched at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wlshard.errors import (
        AccessDenied,
        CodecError,
        CursorMismatch,
        GroupingError,
        LostLease,
        NotFound,
        PerformanceWarning,
        PoolStarved,
        StoreUnavailable,
        TarError,
        TooManyBadSamples,
        UsageError,
        UserCodeError,
        WlshardError,
        WorkerDied,
    )
    from wlshard.loader import Loader, samples
    from wlshard.pool.pool import Pool
    from wlshard.pool.writer import ShardWriter
    from wlshard.stream.mix import Mix

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "CodecError",
    "CursorMismatch",
    "GroupingError",
    "Loader",
    "LostLease",
    "Mix",
    "NotFound",
    "PerformanceWarning",
    "Pool",
    "PoolStarved",
    "ShardWriter",
    "StoreUnavailable",
    "TarError",
    "TooManyBadSamples",
    "UsageError",
    "UserCodeError",
    "WlshardError",
    "WorkerDied",
    "samples",
]

_ROOMS = {
    "Loader": "wlshard.loader",
    "Mix": "wlshard.stream.mix",
    "Pool": "wlshard.pool.pool",
    "ShardWriter": "wlshard.pool.writer",
    "samples": "wlshard.loader",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'wlshard' has no attribute {name!r}")
    value = getattr(import_module(_ROOMS.get(name, "wlshard.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
