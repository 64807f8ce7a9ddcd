"""What every store can do: a dozen operations on objects under one root, and its capabilities as data."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, NoReturn, Protocol, TypeAlias, runtime_checkable

from wlshard.errors import AccessDenied, NotFound, UsageError

Buffer: TypeAlias = bytes | bytearray | memoryview
# What a UsageError says where nothing may be replaced unasked.
EXISTS = "exists already: choose another name, or have it replaced (--force, or force=True)"


class Entry(NamedTuple):
    """What listing and stat know of an object. `mtime`: seconds since the epoch by the store's own clock."""

    name: str
    bytes: int
    mtime: float


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can be relied on for."""

    write: bool  # put, create, draft, delete
    list: bool
    create: bool  # create is atomic: of two creators of one name exactly one hears True
    shared: bool  # other processes see what is written here
    local: bool  # objects are files of this machine: `path` answers


def object_url(root: str, name: str) -> str:
    """Give the URL of an object from its store's URL and its name; an empty root is the current folder."""
    return f"{root.rstrip('/')}/{name}" if root else name


def check_name(name: str, url: str) -> None:
    """Raise UsageError unless this can be an object's name below the store's URL."""
    if "\0" in name or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise UsageError(f"{name!r} is no name of an object: it must lie inside", url=url)


class Reader(AbstractContextManager["Reader", None], Protocol):
    """The bytes of one open object, from `start` on. Reads block for data, end or error; closes twice."""

    @property
    def bytes(self) -> int | None:
        """Of the whole object, where the store says so."""
        ...

    def readinto(self, target: bytearray | memoryview, /) -> int:
        """Fill target from the front; fewer bytes than asked only at the end; 0 at the end."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class BeginsAhead(Reader, Protocol):
    """A reader that can ask for its first bytes before anybody reads them."""

    def read_ahead(self) -> None: ...


class Readable(Protocol):
    """What fills memory from the front, as `Reader.readinto` does."""

    def readinto(self, target: memoryview, /) -> int: ...


def read_whole(source: Readable, size: int | None) -> bytes:
    """Read a small object, of this size where it is known, to its end."""
    data, block = bytearray(), memoryview(bytearray((size or 1 << 16) + 1))
    while count := source.readinto(block):
        data += block[:count]
    return bytes(data)


class Draft(AbstractContextManager["Draft", None], Protocol):
    """An object being written, invisible under its name until `publish`. Leaving the block discards it."""

    @property
    def bytes(self) -> int:
        """Written so far."""
        ...

    def write(self, parts: Sequence[Buffer], at: int | None = None) -> None:
        """Write the parts one after the other, at the end or at byte `at` (which truncates what follows)."""
        ...

    def sync(self) -> None:
        """Make what was written durable. Blocks for the disk."""
        ...

    def publish(self, name: str, *, replace: bool = False) -> bool:
        """Give the whole object its name. False, and nothing changed: the name exists and replace is off."""
        ...

    def discard(self) -> None:
        """Drop the draft. Does nothing after publish."""
        ...

    def abandon(self) -> None:
        """Let go of the scratch and leave it lying, as a process that dies does, for `drafts` to list."""
        ...


class ReadOnly:
    """What a store that is for reading answers to all else. `advice`: where to write instead."""

    url: str
    advice: ClassVar[str]

    def drafts(self, prefix: str = "") -> Iterator[Entry]:
        return iter(())

    def reopen(self, name: str) -> None:
        return None

    def _refuse(self, name: str, *_: object) -> NoReturn:
        raise AccessDenied(self.advice, url=object_url(self.url, name))

    put = create = draft = drop = delete = sync = _refuse


class Store(Protocol):
    """Objects under one root URL. Names are relative to it, `/` between their parts, never leaving it.

    Errors: NotFound, AccessDenied, StoreUnavailable (also: full), each with the object's url.
    """

    url: str

    @property
    def can(self) -> Capabilities: ...

    def open(self, name: str, start: int = 0, end: int | None = None) -> Reader:
        """Open an object for one sequential read from byte `start`.

        end: where the caller means to stop; a store far away then asks for no more at first.
        """
        ...

    def read(self, name: str) -> bytes:
        """Read a small object whole."""
        ...

    def put(self, name: str, data: Buffer) -> None:
        """Write a small object whole, replacing what was there; durable on return."""
        ...

    def create(self, name: str, data: Buffer) -> bool:
        """Write a small object whole unless the name exists (False). Its bytes are durable on return; its
        name is after `sync` of the folder."""
        ...

    def draft(self, name: str) -> Draft:
        """Start writing a large object. `name` is where its scratch lies if the process dies (`drafts` lists
        it, with the suffix `.partial`); the same folder as the name it will be published under."""
        ...

    def drafts(self, prefix: str = "") -> Iterable[Entry]:
        """List scratch that no live process holds any more (names as given to `draft`)."""
        ...

    def reopen(self, name: str) -> Reader | None:
        """Take over abandoned scratch for reading. None: its writer lives, or another taker was first."""
        ...

    def drop(self, name: str) -> None:
        """Delete abandoned scratch."""
        ...

    def list(self, prefix: str = "", suffix: str = "", but: Container[str] = ()) -> Iterator[Entry]:
        """List visible objects, by how their names begin and end, in no particular order; never scratch.

        but: what follows the prefix in names to leave out, which spares files a look at each.
        """
        ...

    def stat(self, name: str) -> Entry: ...

    def delete(self, name: str) -> None:
        """Delete an object; one that is absent already is fine."""
        ...

    def sync(self, folder: str) -> None:
        """Make the names created and deleted in this folder durable."""
        ...

    def now(self) -> float:
        """Give the store's own clock, the one that mtimes come from."""
        ...

    def path(self, name: str) -> str | None:
        """Give the file an object is, or None where it is none."""
        ...


def exists(store: Store, name: str) -> bool:
    """Tell whether there is an object of this name. Costs a `stat`; its other errors are raised."""
    try:
        store.stat(name)
    except NotFound:
        return False
    return True
