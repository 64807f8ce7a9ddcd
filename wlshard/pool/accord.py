"""What rank 0 decides for all ranks: said where they all look, so that none goes another way."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from wlshard import clock, errors
from wlshard.errors import NotFound, PoolStarved, UsageError, WlshardError
from wlshard.place import Place, group_store, launch_id
from wlshard.pool.names import CHOICES
from wlshard.store.base import Store

log = logging.getLogger(__name__)

FIRST_POLL_S, POLL_S = 0.001, 0.05
TELL_S = 10.0
SLACK_S = 30.0

_accords: Counter[tuple[str, int]] = Counter()  # made so far in this process, by topic and rank


class Board(Protocol):
    """Where rank 0 posts and the others look."""

    def post(self, name: str, data: bytes) -> bool: ...

    def look(self, name: str) -> bytes | None: ...


class PoolBoard:
    """Objects of the pool; a sweep takes them away after some days."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def post(self, name: str, data: bytes) -> bool:
        return self._store.create(f"{CHOICES}/{name}.json", data)

    def look(self, name: str) -> bytes | None:
        try:
            return self._store.read(f"{CHOICES}/{name}.json")
        except NotFound:
            return None


class GroupBoard:
    """The key-value store by which torch.distributed's processes found each other: no collective call."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def post(self, name: str, data: bytes) -> bool:
        self._store.set(f"wlshard/{name}", data.decode())
        return True

    def look(self, name: str) -> bytes | None:
        key = f"wlshard/{name}"
        return bytes(self._store.get(key)) if self._store.check([key]) else None


class Accord:
    """One decision after the other, made by rank 0 and taken over by the others.

    The ranks of one start must ask the same questions in the same order. They know each other by
    torch.distributed's process group, else by `job` or what their launcher calls this start. UsageError: by
    nothing.
    """

    def __init__(self, store: Store, place: Place, job: str | None, timeout_s: float) -> None:
        group = group_store(place)
        job = job or launch_id()
        if group is None and job is None:
            raise UsageError(
                f"{place.world} ranks must read the same generation, and have no way to agree on one: "
                "initialise torch.distributed, start them by torchrun, srun or mpirun, give all the same "
                "job= (a new one at each start), or name one generation (POOL@n)",
                url=store.url,
            )
        self._board: Board = PoolBoard(store) if group is None else GroupBoard(group)
        self._place = place
        self._timeout_s = timeout_s
        about = f"{job if group is None else ''}/{place.world}/{store.url if group is not None else ''}"
        self._topic = hashlib.sha256(about.encode()).hexdigest()[:16]
        self._number = _accords[self._topic, place.rank]
        _accords[self._topic, place.rank] += 1
        self._asked = 0

    def settle(self, epoch: int, choose: Callable[[], int]) -> int:
        """Give what rank 0 chooses for an epoch; an error of its choosing is raised everywhere.

        Blocks until rank 0 has chosen, saying so. PoolStarved: it did not in time.
        """
        name = f"{self._topic}-{self._number}-{epoch}-{self._asked}"
        self._asked += 1
        if self._place.rank:
            return self._wait(name)
        try:
            choice = choose()
        except WlshardError as error:
            self._post(name, {"error": type(error).__name__, "message": error.message, "url": error.url})
            raise
        self._post(name, {"choice": choice})
        return choice

    def _post(self, name: str, said: dict[str, Any]) -> None:
        if not self._board.post(name, json.dumps(said).encode()):
            raise UsageError("another start had the same job= (or launcher's id): give each start its own")

    def _wait(self, name: str) -> int:
        began, tell, pause = clock.monotonic(), TELL_S, FIRST_POLL_S
        while (data := self._board.look(name)) is None:
            waited = clock.monotonic() - began
            if waited >= self._timeout_s + SLACK_S:  # rank 0 may have begun to wait later
                raise PoolStarved(f"rank 0 chose no generation in {waited:.0f} s: see what it is doing")
            if waited >= tell:
                log.warning("rank %d waits for %.0f s for rank 0 to choose", self._place.rank, waited)
                tell *= 2
            clock.sleep(pause)
            pause = min(POLL_S, 2 * pause)
        said = json.loads(data)
        if "error" in said:
            raise getattr(errors, said["error"])(f"on rank 0: {said['message']}", url=said["url"])
        choice: int = said["choice"]
        return choice
