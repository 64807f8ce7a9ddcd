"""What runs shard jobs: one call, whatever engine stands behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from wlshard import errors
from wlshard.errors import UsageError, WlshardError
from wlshard.store.base import Buffer


@dataclass(frozen=True)
class Task:
    """One call, in some process, of a function of ours: `function(args, body)`.

    function: MODULE:FUNCTION inside this package. args go through JSON; body: bytes that go with them.
    """

    function: str
    args: Mapping[str, Any]
    body: Sequence[Buffer] = ()


@dataclass(frozen=True)
class Answer:
    """What a task's function gave: a JSON object, and bytes that go with it."""

    value: dict[str, Any]
    body: Sequence[Buffer] = field(default=())


class Engine(Protocol):
    """Runs tasks in `parallel` processes. Enter to have them, leave to have none; what runs then is ended."""

    parallel: int

    def run(self, tasks: Iterable[Task], *, ahead: int | None = None) -> Iterator[Answer]:
        """Yield the answers in the order of the tasks, each as soon as those before it are there.

        At most `ahead` tasks are taken from `tasks` beyond the one waited for (None: all). A task's error of
        ours is raised in its turn; WorkerDied: its process ended. Leaving the iterator early ends what runs.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def open_engine(name: str, parallel: int) -> Engine:
    """Give the engine of this name with so many processes. UsageError: there is none."""
    if name != "local":
        raise UsageError(f"no engine {name!r}: there is local")
    from wlshard.jobs.local import LocalEngine

    return LocalEngine(parallel)


def error_of(told: Mapping[str, Any]) -> WlshardError:
    """Make the error again that another process told as JSON."""
    kind = getattr(errors, told["error"], WlshardError)
    made: WlshardError = kind(
        told["message"], url=told["url"], member=told["member"], key=told["key"], offset=told["offset"]
    )
    return made
