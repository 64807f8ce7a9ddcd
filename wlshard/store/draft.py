"""A file being written, and the moment it gets its name."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from wlshard.errors import UsageError
from wlshard.store.base import Buffer, object_url
from wlshard.store.files import FileLock, errors_of, open_folder, refused, write_all

if TYPE_CHECKING:
    from wlshard.store.local import LocalStore

SCRATCH = ".partial"  # ends every name that is no object (yet)
WRITE_BEHIND_BYTES = 1 << 23  # what a disk takes in at once while the next is made
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


class LocalDraft:
    """`<name>.partial`, locked while it is open: an unlocked one was left by a process that died."""

    def __init__(self, store: LocalStore, name: str, lock: FileLock) -> None:
        self.bytes = 0
        self._unsynced: OSError | None = None  # an fsync that failed
        self._behind = 0  # up to where the disk has been told to take it
        self._store = store
        self._scratch = store.path(name) + SCRATCH
        self._url = object_url(store.url, name)
        self._lock = lock

    def write(self, parts: Sequence[Buffer], at: int | None = None) -> None:
        fd = self.fileno()
        try:
            end = write_all(fd, parts, self.bytes if at is None else at)
            if end < self.bytes:
                os.ftruncate(fd, end)
            self.bytes = end
            if end - self._behind >= WRITE_BEHIND_BYTES:
                self._write_behind(fd)
        except OSError as error:
            self.bytes = max(self.bytes, os.fstat(fd).st_size)
            raise refused(error, self._url) from error

    def _write_behind(self, fd: int) -> None:
        """Have the system begin to write what is there, so that `sync` finds little left to wait for."""
        if hasattr(os, "posix_fadvise"):
            # Linux: dirty pages are sent to the disk and, as they are dirty, stay in the cache.
            os.posix_fadvise(fd, self._behind, self.bytes - self._behind, os.POSIX_FADV_DONTNEED)
        self._behind = self.bytes

    def sync(self) -> None:
        with errors_of(self._url):
            if self._unsynced is not None:
                raise self._unsynced  # Linux may call the next fsync good, though the bytes are lost
            try:
                os.fsync(self.fileno())
            except OSError as error:
                self._unsynced = error
                raise

    def publish(self, name: str, *, replace: bool = False) -> bool:
        path, fd = self._store.path(name), self.fileno()
        try:
            if replace:
                os.replace(self._scratch, path)
            else:
                self._link(path)
        except OSError as error:
            # A network file system may repeat a request whose reply was lost, and so lose to itself.
            if not _is_at(path, fd):
                if isinstance(error, FileExistsError):
                    return False
                raise refused(error, object_url(self._store.url, name)) from error
            with suppress(OSError):  # it has its name: scratch that stays harms nobody
                os.unlink(self._scratch)
        self._lock.close()
        return True

    def _link(self, path: str) -> None:
        try:
            os.link(self._scratch, path, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._store.can = replace(self._store.can, create=False)
            _rename_alone(self._scratch, path)
        else:
            os.unlink(self._scratch)

    def discard(self) -> None:
        if self._lock.fd >= 0:
            try:
                with errors_of(self._url), suppress(FileNotFoundError):
                    os.unlink(self._scratch)
            finally:
                self._lock.close()

    def abandon(self) -> None:
        self._lock.close()

    def fileno(self) -> int:
        if self._lock.fd < 0:
            raise UsageError(
                "this draft is closed, or was opened by the parent of this process", url=self._url
            )
        return self._lock.fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def _is_at(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except OSError:
        return False


def _rename_alone(scratch: str, path: str) -> None:
    """Name a file without hard links: who holds its folder's lock, on this machine, looks and renames."""
    lock = FileLock(open_folder(os.path.dirname(path)))
    try:
        lock.acquire(wait=True)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        os.rename(scratch, path)
    finally:
        lock.close()
