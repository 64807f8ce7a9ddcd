"""Objects in the memory of this process, for tests and notebooks: gone when it ends, unseen by others."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from wlshard import clock
from wlshard.errors import NotFound, StoreUnavailable, UsageError
from wlshard.store.base import Buffer, Capabilities, Entry, check_name, object_url

Object = tuple[bytes, float]  # data, mtime


@dataclass(slots=True)
class _Scratch:
    """What a draft wrote; `lock` is held while it is being written, or taken over."""

    mtime: float
    data: bytearray = field(default_factory=bytearray)
    lock: threading.Lock = field(default_factory=threading.Lock)


# All memory:// objects, by URL without the scheme. Threads share them: each step is one operation of a dict.
_objects: dict[str, Object] = {}
_scratch: dict[str, _Scratch] = {}
_pid = os.getpid()  # the one process that can see them


class MemoryReader:
    """One object as it was when it was opened."""

    def __init__(self, data: bytes, start: int, scratch: _Scratch | None = None) -> None:
        self.bytes = len(data)
        self._stream = io.BytesIO(data)
        self._stream.seek(start)
        self._scratch = scratch

    def readinto(self, target: bytearray | memoryview, /) -> int:
        return self._stream.readinto(target)

    def close(self) -> None:
        self._stream.close()
        if self._scratch is not None:
            self._scratch.lock.release()
            self._scratch = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MemoryStore:
    """Objects below one memory:// URL. All stores of this process see the same ones; threads may share it."""

    can = Capabilities(write=True, list=True, create=True, shared=False, local=False)

    def __init__(self, url: str) -> None:
        self.url = url
        self._root = url.partition("://")[2].strip("/") + "/"

    def open(self, name: str, start: int = 0, end: int | None = None) -> MemoryReader:
        return MemoryReader(self.read(name), start)

    def read(self, name: str) -> bytes:
        return self._find(name)[0]

    def put(self, name: str, data: Buffer) -> None:
        _objects[self._key(name)] = bytes(data), clock.now()

    def create(self, name: str, data: Buffer) -> bool:
        ours = bytes(data), clock.now()
        return _objects.setdefault(self._key(name), ours) is ours

    def draft(self, name: str) -> MemoryDraft:
        ours = _Scratch(clock.now())
        ours.lock.acquire()
        if _scratch.setdefault(self._key(name), ours) is not ours:
            advice = "its scratch is there already: choose a new name"
            raise StoreUnavailable(advice, url=object_url(self.url, name))
        return MemoryDraft(self, name, ours)

    def drafts(self, prefix: str = "") -> Iterator[Entry]:
        full = self._below(prefix)
        for key, scratch in list(_scratch.items()):
            if key.startswith(full) and not scratch.lock.locked():
                yield Entry(key.removeprefix(self._root), len(scratch.data), scratch.mtime)

    def reopen(self, name: str) -> MemoryReader | None:
        scratch = _scratch.get(self._key(name))
        if scratch is None or not scratch.lock.acquire(blocking=False):
            return None
        return MemoryReader(bytes(scratch.data), 0, scratch)

    def drop(self, name: str) -> None:
        _scratch.pop(self._key(name), None)

    def list(self, prefix: str = "", suffix: str = "", but: Container[str] = ()) -> Iterator[Entry]:
        full = self._below(prefix)
        for key, (data, mtime) in list(_objects.items()):
            if key.startswith(full) and key.endswith(suffix) and key[len(full) :] not in but:
                yield Entry(key.removeprefix(self._root), len(data), mtime)

    def stat(self, name: str) -> Entry:
        data, mtime = self._find(name)
        return Entry(name, len(data), mtime)

    def delete(self, name: str) -> None:
        _objects.pop(self._key(name), None)

    def sync(self, folder: str) -> None:
        pass

    def now(self) -> float:
        return clock.now()

    def path(self, name: str) -> None:
        return None

    def _find(self, name: str) -> Object:
        try:
            return _objects[self._key(name)]
        except KeyError:
            raise NotFound("does not exist: check the name", url=object_url(self.url, name)) from None

    def _key(self, name: str) -> str:
        check_name(name, self.url)
        return self._below(name)

    def _below(self, prefix: str) -> str:
        if _pid != os.getpid():
            advice = (
                "memory:// lives in one process and this is another: use a folder (on /dev/shm, for speed)"
            )
            raise UsageError(advice, url=self.url)
        return self._root + prefix


class MemoryDraft:
    """An object being written."""

    def __init__(self, store: MemoryStore, name: str, scratch: _Scratch) -> None:
        self._store = store
        self._name = name
        self._scratch: _Scratch | None = scratch

    @property
    def bytes(self) -> int:
        return len(self._scratch.data) if self._scratch is not None else 0

    def write(self, parts: Sequence[Buffer], at: int | None = None) -> None:
        data = self._open()
        if at is not None:
            del data[at:]
        for part in parts:
            data += memoryview(part).cast("B")

    def sync(self) -> None:
        self._open()

    def publish(self, name: str, *, replace: bool = False) -> bool:
        data = self._open()
        if replace:
            self._store.put(name, data)
        elif not self._store.create(name, data):
            return False
        self.discard()
        return True

    def discard(self) -> None:
        if self._scratch is not None:
            self._store.drop(self._name)
            self.abandon()

    def abandon(self) -> None:
        if self._scratch is not None:
            self._scratch.lock.release()
            self._scratch = None

    def _open(self) -> bytearray:
        if self._scratch is None:
            raise UsageError("this draft is closed", url=object_url(self._store.url, self._name))
        return self._scratch.data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()
