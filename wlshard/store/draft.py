"""A file being written, and the moment it gets its name."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Protocol, Self

from wlshard.errors import UsageError
from wlshard.store.base import Buffer, object_url
from wlshard.store.files import FileLock, cannot_lock, refused

SCRATCH = ".partial"  # ends every name that is no object (yet)
_IOV_MAX = os.sysconf("SC_IOV_MAX")
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


class Folder(Protocol):
    """What a draft needs to know of the store it belongs to."""

    url: str

    def path(self, name: str) -> str: ...

    def without_links(self) -> None: ...


class LocalDraft:
    """`<name>.partial`, locked while it is open: an unlocked one was left by a process that died."""

    def __init__(self, store: Folder, name: str, lock: FileLock) -> None:
        self.bytes = 0
        self._store = store
        self._scratch = store.path(name) + SCRATCH
        self._url = object_url(store.url, name)
        self._lock = lock

    def write(self, parts: Sequence[Buffer], at: int | None = None) -> None:
        start = self.bytes if at is None else at
        end = start
        fd = self._fd()
        try:
            for first in range(0, len(parts), _IOV_MAX):
                end = _write_all(fd, parts[first : first + _IOV_MAX], end)
            if end < self.bytes:
                os.ftruncate(fd, end)
            self.bytes = end
        except OSError as error:
            self.bytes = max(self.bytes, os.fstat(fd).st_size)
            raise refused(error, self._url) from error

    def sync(self) -> None:
        try:
            os.fsync(self._fd())
        except OSError as error:
            raise refused(error, self._url) from error

    def publish(self, name: str, *, replace: bool = False) -> bool:
        path = self._store.path(name)
        fd = self._fd()
        try:
            if replace:
                os.replace(self._scratch, path)
            elif not self._link(fd, path):
                return False
        except OSError as error:
            raise refused(error, object_url(self._store.url, name)) from error
        self._lock.close()
        return True

    def _link(self, fd: int, path: str) -> bool:
        try:
            os.link(self._scratch, path, follow_symlinks=False)
        except FileExistsError:
            # A network file system may repeat a request whose reply was lost, and so lose to itself.
            if not os.path.samestat(os.fstat(fd), os.lstat(path)):
                return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._store.without_links()
            return _rename_claimed(self._scratch, path)
        os.unlink(self._scratch)
        return True

    def discard(self) -> None:
        if self._lock.fd >= 0:
            try:
                os.unlink(self._scratch)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise refused(error, self._url) from error
            finally:
                self._lock.close()

    def abandon(self) -> None:
        self._lock.close()

    def _fd(self) -> int:
        if self._lock.fd < 0:
            raise UsageError(
                "this draft is closed, or was opened by the parent of this process", url=self._url
            )
        return self._lock.fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def _write_all(fd: int, parts: Sequence[Buffer], at: int) -> int:
    """Write all parts from byte `at`, going on after short writes; give the end."""
    todo: list[Buffer] = list(parts)
    while todo:
        count = os.pwritev(fd, todo, at)
        at += count
        done = 0
        while done < len(todo) and count >= (size := memoryview(todo[done]).nbytes):
            count -= size
            done += 1
        del todo[:done]
        if count:
            todo[0] = memoryview(todo[0]).cast("B")[count:]
    return at


def _rename_claimed(scratch: str, path: str) -> bool:
    """Name a file without hard links: only who holds the claim beside the name looks and renames.

    A claim left by a process that died is free at once.
    """
    folder, base = os.path.split(path)
    claim = f"{folder}/.{base}.claim{SCRATCH}"
    while True:
        lock = FileLock(os.open(claim, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
        try:
            try:
                lock.acquire(wait=True)
            except OSError as error:
                if not cannot_lock(error):
                    raise
            if not os.fstat(lock.fd).st_nlink:
                continue  # the holder before us took the claim away with it
            if os.path.lexists(path):
                os.unlink(claim)
                return False
            os.rename(scratch, path)
            os.unlink(claim)
            return True
        finally:
            lock.close()
