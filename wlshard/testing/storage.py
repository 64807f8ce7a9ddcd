"""Stores that watch and stores that fail, around any store: for proofs of what happens in which order."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from wlshard.store.base import Buffer, Capabilities, Draft, Entry, Reader, Store


@dataclass(frozen=True, slots=True)
class Operation:
    """One request to a store: its number (from 1), kind (`put`, `draft.write`, …), name and payload bytes."""

    number: int
    kind: str
    name: str
    bytes: int = 0


class Killed(BaseException):
    """The process is dead from here on: nothing may catch this but the test."""


class RecordingStore:
    """A store that notes each operation in `operations` before it happens."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.operations: list[Operation] = []

    def before(self, operation: Operation) -> None:
        """Look at an operation that is about to happen; raise to prevent it."""

    def after(self, operation: Operation) -> None:
        """Look at an operation that has happened; raise to lose its reply."""

    def kinds(self, *kinds: str) -> list[tuple[str, str]]:
        """List (kind, name) of the operations so far, of these kinds only."""
        return [(op.kind, op.name) for op in self.operations if op.kind in kinds]

    @contextmanager
    def doing(self, kind: str, name: str, size: int = 0) -> Iterator[Operation]:
        operation = Operation(len(self.operations) + 1, kind, name, size)
        self.operations.append(operation)
        self.before(operation)
        yield operation
        self.after(operation)

    @property
    def url(self) -> str:
        return self.store.url

    @property
    def can(self) -> Capabilities:
        return self.store.can

    def open(self, name: str, start: int = 0, end: int | None = None) -> Reader:
        with self.doing("open", name):
            return self.store.open(name, start, end)

    def read(self, name: str) -> bytes:
        with self.doing("read", name):
            return self.store.read(name)

    def put(self, name: str, data: Buffer) -> None:
        with self.doing("put", name, len(data)):
            self.store.put(name, data)

    def create(self, name: str, data: Buffer) -> bool:
        with self.doing("create", name, len(data)):
            return self.store.create(name, data)

    def draft(self, name: str) -> Draft:
        with self.doing("draft", name):
            return RecordedDraft(self, name, self.store.draft(name))

    def drafts(self, prefix: str = "") -> Iterator[Entry]:
        with self.doing("drafts", prefix):
            return iter(list(self.store.drafts(prefix)))

    def reopen(self, name: str) -> Reader | None:
        with self.doing("reopen", name):
            return self.store.reopen(name)

    def drop(self, name: str) -> None:
        with self.doing("drop", name):
            self.store.drop(name)

    def list(self, prefix: str = "", suffix: str = "", but: Container[str] = ()) -> Iterator[Entry]:
        with self.doing("list", prefix):
            return iter(list(self.store.list(prefix, suffix, but)))

    def stat(self, name: str) -> Entry:
        with self.doing("stat", name):
            return self.store.stat(name)

    def delete(self, name: str) -> None:
        with self.doing("delete", name):
            self.store.delete(name)

    def sync(self, folder: str) -> None:
        with self.doing("sync", folder):
            self.store.sync(folder)

    def now(self) -> float:
        return self.store.now()

    def path(self, name: str) -> str | None:
        return self.store.path(name)


class RecordedDraft:
    """A draft whose steps are operations of its store."""

    def __init__(self, store: RecordingStore, name: str, draft: Draft) -> None:
        self.store = store
        self.name = name
        self.draft = draft

    @property
    def bytes(self) -> int:
        return self.draft.bytes

    def write(self, parts: Sequence[Buffer], at: int | None = None) -> None:
        with self.store.doing("draft.write", self.name, sum(len(part) for part in parts)):
            self.draft.write(parts, at)

    def sync(self) -> None:
        with self.store.doing("draft.sync", self.name):
            self.draft.sync()

    def publish(self, name: str, *, replace: bool = False) -> bool:
        with self.store.doing("draft.publish", name):
            return self.draft.publish(name, replace=replace)

    def discard(self) -> None:
        try:
            with self.store.doing("draft.discard", self.name):
                self.draft.discard()
        except Killed:
            self.draft.abandon()  # what the system does for a dead process: its locks end, its files stay
            raise

    def abandon(self) -> None:
        self.draft.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


class FaultyStore(RecordingStore):
    """A store in which chosen operations fail.

    `fails(operation)` gives the error to raise instead of it, or None; `loses(operation)` gives one to
    raise after it has happened. A `Killed` is final: from then on every operation raises it.
    """

    def __init__(
        self,
        store: Store,
        fails: Callable[[Operation], BaseException | None] = lambda _: None,
        loses: Callable[[Operation], BaseException | None] = lambda _: None,
    ) -> None:
        super().__init__(store)
        self.fails = fails
        self.loses = loses
        self.dead: Killed | None = None

    def before(self, operation: Operation) -> None:
        self._raise(self.dead or self.fails(operation))

    def after(self, operation: Operation) -> None:
        self._raise(self.loses(operation))

    def _raise(self, error: BaseException | None) -> None:
        if isinstance(error, Killed):
            self.dead = error
        if error is not None:
            raise error


def killed_at(number: int) -> Callable[[Operation], BaseException | None]:
    """Give a plan for FaultyStore: the process dies at its operation of this number."""
    return lambda operation: Killed(str(operation)) if operation.number >= number else None
