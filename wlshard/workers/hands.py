"""Who makes the steps: this process, or workers."""

from __future__ import annotations

from typing import Any, Protocol

from wlshard.errors import UsageError
from wlshard.stream.data import Data
from wlshard.stream.epoch import Epoch, Plan, Run
from wlshard.stream.recipe import Maker, Recipe


class Hands(Protocol):
    """What makes steps, one epoch at a time."""

    def begin(self, data: Data, plan: Plan) -> Run: ...

    def stats(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


class Here:
    """Makes steps in this process."""

    def __init__(self, recipe: Recipe) -> None:
        self._maker = Maker(recipe)

    def begin(self, data: Data, plan: Plan) -> Epoch:
        return Epoch(data, plan, self._maker)

    def stats(self) -> dict[str, Any]:
        return {"ready": 0, "slots_left": 0, "pickled": 0}

    def close(self) -> None:
        """Do nothing: an epoch closes itself."""


def hands_for(recipe: Recipe, workers: int, start_method: str, timeout_s: float) -> Hands:
    """Give so many workers, not started yet; with 0 this process. UsageError."""
    if start_method not in ("fork", "forkserver", "spawn"):
        raise UsageError(f'start_method={start_method!r}: say "fork", "forkserver" or "spawn"')
    if not workers:
        return Here(recipe)
    from wlshard.workers.crew import Crew  # brings multiprocessing

    return Crew(recipe, workers, start_method, timeout_s)
