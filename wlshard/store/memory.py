"""Objects in the memory of this process, for tests and notebooks: gone when it ends, unseen by others."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from wlshard import clock
from wlshard.errors import NotFound, StoreUnavailable, UsageError
from wlshard.store.base import Buffer, Capabilities, Entry, check_name, object_url


@dataclass(slots=True)
class _Scratch:
    data: bytearray
    mtime: float
    held: bool = True


@dataclass(slots=True)
class _Space:
    """All memory:// objects; `pid` is the one process that can see them."""

    pid: int
    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    scratch: dict[str, _Scratch] = field(default_factory=dict)


_lock = threading.Lock()
_space = _Space(os.getpid())
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


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
            self._scratch.held = False

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

    def open(self, name: str, start: int = 0) -> MemoryReader:
        return MemoryReader(self.read(name), start)

    def read(self, name: str) -> bytes:
        return self._find(name)[0]

    def put(self, name: str, data: Buffer) -> None:
        self._store(name, bytes(data), replace=True)

    def create(self, name: str, data: Buffer) -> bool:
        return self._store(name, bytes(data), replace=False)

    def draft(self, name: str) -> MemoryDraft:
        key = self._key(name)
        scratch = _Scratch(bytearray(), clock.now())
        with _lock:
            if key in _mine().scratch:
                advice = "its scratch is there already: choose a new name"
                raise StoreUnavailable(advice, url=object_url(self.url, name))
            _space.scratch[key] = scratch
        return MemoryDraft(self, key, scratch)

    def drafts(self, prefix: str = "") -> Iterator[Entry]:
        full = self._root + prefix
        with _lock:
            found = [(key, each) for key, each in _mine().scratch.items() if key.startswith(full)]
        for key, scratch in found:
            if not scratch.held:
                yield Entry(key.removeprefix(self._root), len(scratch.data), scratch.mtime)

    def reopen(self, name: str) -> MemoryReader | None:
        with _lock:
            scratch = _mine().scratch.get(self._key(name))
            if scratch is None or scratch.held:
                return None
            scratch.held = True
        return MemoryReader(bytes(scratch.data), 0, scratch)

    def drop(self, name: str) -> None:
        self._end(self._key(name))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        full = self._root + prefix
        with _lock:
            found = [(key, *value) for key, value in _mine().objects.items() if key.startswith(full)]
        for key, data, mtime in found:
            yield Entry(key.removeprefix(self._root), len(data), mtime)

    def stat(self, name: str) -> Entry:
        data, mtime = self._find(name)
        return Entry(name, len(data), mtime)

    def delete(self, name: str) -> None:
        with _lock:
            _mine().objects.pop(self._key(name), None)

    def sync(self, folder: str) -> None:
        pass

    def now(self) -> float:
        return clock.now()

    def path(self, name: str) -> None:
        return None

    def _store(self, name: str, data: bytes, *, replace: bool) -> bool:
        key = self._key(name)
        with _lock:
            if not replace and key in _mine().objects:
                return False
            _mine().objects[key] = data, clock.now()
        return True

    def _end(self, key: str) -> None:
        with _lock:
            _mine().scratch.pop(key, None)

    def _find(self, name: str) -> tuple[bytes, float]:
        key = self._key(name)
        with _lock:
            found = _mine().objects.get(key)
        if found is None:
            raise NotFound("does not exist: check the name", url=object_url(self.url, name))
        return found

    def _key(self, name: str) -> str:
        check_name(name, self.url)
        return self._root + name


class MemoryDraft:
    """An object being written."""

    def __init__(self, store: MemoryStore, key: str, scratch: _Scratch) -> None:
        self._store = store
        self._key = key
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
        if not self._store._store(name, bytes(self._open()), replace=replace):
            return False
        self.discard()
        return True

    def discard(self) -> None:
        if self._scratch is not None:
            self._scratch = None
            self._store._end(self._key)

    def abandon(self) -> None:
        if self._scratch is not None:
            self._scratch.held = False
            self._scratch = None

    def _open(self) -> bytearray:
        if self._scratch is None:
            raise UsageError("this draft is closed", url=object_url(self._store.url, self._key))
        return self._scratch.data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def _mine() -> _Space:
    if _space.pid != os.getpid():
        raise UsageError(
            "memory:// lives in one process and this is another: use a folder (on /dev/shm, for speed)"
        )
    return _space
