"""Objects as files of this machine (or a mounted file system), by plain os calls."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from typing import Self

from wlshard import clock
from wlshard.errors import StoreUnavailable, UsageError, WlshardError
from wlshard.store.base import Buffer, Capabilities, Entry, object_url
from wlshard.store.draft import SCRATCH, LocalDraft
from wlshard.store.files import FileLock, cannot_lock, make_folders, refused, sync_folder

# A writer opens its scratch, then locks it. Scratch this young and still empty may be between the two.
NEWBORN_S = 60.0


class LocalReader:
    """One open file, unbuffered; `fileno()` lets readers of many blocks at once go to the system directly."""

    def __init__(self, fd: int, url: str, size: int | None, lock: FileLock | None = None) -> None:
        self.fd = fd
        self.url = url
        self.bytes = size
        self._lock = lock

    def fileno(self) -> int:
        return self.fd

    def readinto(self, target: bytearray | memoryview, /) -> int:
        view, filled = memoryview(target), 0
        try:
            while filled < len(view):
                count = os.readv(self.fd, [view[filled:]])
                if not count:
                    break
                filled += count
        except OSError as error:
            raise refused(error, self.url) from error
        return filled

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LocalStore:
    """Objects under one folder. Folders are made as they are needed; the umask holds.

    `can.create` turns False at the first publication if the file system has no hard links: then a
    locked claim beside the name keeps processes of one machine apart, and no more than those.
    """

    def __init__(self, url: str, root: str) -> None:
        self.url = url
        self.root = os.path.abspath(root)
        self.can = Capabilities(write=True, list=True, create=True, shared=True, local=True)

    def open(self, name: str, start: int = 0) -> LocalReader:
        return self._open(self.path(name), name, start)

    def _open(self, path: str, name: str, start: int, lock: FileLock | None = None) -> LocalReader:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                found = os.fstat(fd)
                if stat.S_ISDIR(found.st_mode):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                if start:
                    os.lseek(fd, start, os.SEEK_SET)
            except OSError:
                os.close(fd)
                raise
        except OSError as error:
            raise self._refused(error, name) from error
        size = found.st_size if stat.S_ISREG(found.st_mode) else None
        return LocalReader(fd, object_url(self.url, name), size, lock)

    def read(self, name: str) -> bytes:
        with self.open(name) as reader:
            parts, block = [], bytearray(max(reader.bytes or 0, 1 << 16) + 1)
            while count := reader.readinto(block):
                parts.append(bytes(memoryview(block)[:count]))
            return b"".join(parts)

    def put(self, name: str, data: Buffer) -> None:
        self._write(name, data, replace=True)
        self.sync(os.path.dirname(name))

    def create(self, name: str, data: Buffer) -> bool:
        if os.path.lexists(self.path(name)):
            return False  # spares the disk a write; the link below decides when it is not there
        return self._write(name, data, replace=False)

    def _write(self, name: str, data: Buffer, *, replace: bool) -> bool:
        folder, _, base = name.rpartition("/")
        scratch = f".{base}.{os.urandom(8).hex()}"
        with self.draft(f"{folder}/{scratch}" if folder else scratch) as draft:
            draft.write([data])
            draft.sync()
            return draft.publish(name, replace=replace)

    def draft(self, name: str) -> LocalDraft:
        path = self.path(name) + SCRATCH
        try:
            make_folders(os.path.dirname(path))
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            lock = FileLock(os.open(path, flags, 0o666))
        except OSError as error:
            if error.errno == errno.EEXIST:
                advice = "its scratch is there already: another process writes it, or died; choose a new name"
                raise StoreUnavailable(advice, url=object_url(self.url, name) + SCRATCH) from error
            raise self._refused(error, name) from error
        try:
            ours = lock.acquire() and os.fstat(lock.fd).st_nlink > 0
        except OSError as error:
            if not cannot_lock(error):
                lock.close()
                raise self._refused(error, name) from error
            ours = True  # without locks scratch is never known to be abandoned, no more
        if not ours:
            lock.close()
            advice = "its new scratch was taken for a dead process's, this one slept too long: try again"
            raise StoreUnavailable(advice, url=object_url(self.url, name) + SCRATCH)
        return LocalDraft(self, name, lock)

    def drafts(self, prefix: str = "") -> Iterator[Entry]:
        for path, name, found in self._walk(prefix):
            if not name.endswith(SCRATCH):
                continue
            if not found.st_size and clock.now() - found.st_mtime < NEWBORN_S:
                continue
            lock = self._take(path)
            if lock is not None:
                lock.close()
                yield Entry(name.removesuffix(SCRATCH), found.st_size, found.st_mtime)

    def reopen(self, name: str) -> LocalReader | None:
        path = self.path(name) + SCRATCH
        lock = self._take(path)
        return None if lock is None else self._open(path, name + SCRATCH, 0, lock)

    def _take(self, path: str) -> FileLock | None:
        try:
            lock = FileLock(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return None  # gone, or not ours to read
        try:
            if lock.acquire() and os.fstat(lock.fd).st_nlink:
                return lock
        except OSError:
            pass  # no locks here: nobody can know that its writer is dead
        lock.close()
        return None

    def drop(self, name: str) -> None:
        self._delete(self.path(name) + SCRATCH, name)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        for _, name, found in self._walk(prefix):
            if not name.endswith(SCRATCH):
                yield Entry(name, found.st_size, found.st_mtime)

    def _walk(self, prefix: str) -> Iterator[tuple[str, str, os.stat_result]]:
        folder = prefix.rpartition("/")[0]
        pending = [folder]
        while pending:
            folder = pending.pop()
            before = folder + "/" if folder else ""
            try:
                with os.scandir(self.path(folder) if folder else self.root) as entries:
                    found = list(entries)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise self._refused(error, folder) from error
            for entry in found:
                name = before + entry.name
                if not name.startswith(prefix):
                    continue
                try:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(name)
                    elif not stat.S_ISDIR((status := entry.stat()).st_mode):
                        yield entry.path, name, status
                except OSError:
                    continue  # deleted since, or a link to nowhere

    def stat(self, name: str) -> Entry:
        try:
            found = os.stat(self.path(name))
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        except OSError as error:
            raise self._refused(error, name) from error
        return Entry(name, found.st_size, found.st_mtime)

    def delete(self, name: str) -> None:
        self._delete(self.path(name), name)

    def _delete(self, path: str, name: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._refused(error, name) from error

    def sync(self, folder: str) -> None:
        try:
            sync_folder(self.path(folder) if folder else self.root)
        except OSError as error:
            raise self._refused(error, folder) from error

    def now(self) -> float:
        name = f".now.{os.urandom(8).hex()}"
        try:
            with self.draft(name):
                return os.stat(self.path(name) + SCRATCH).st_mtime
        except (OSError, WlshardError):
            return clock.now()  # a folder we may not write: our own clock is the best there is

    def path(self, name: str) -> str:
        parts = name.split("/")
        if ".." in parts or "." in parts or "" in parts or "\0" in name:
            raise UsageError(f"{name!r} is no name of an object: it must lie inside", url=self.url)
        return f"{self.root}/{name}" if self.root != "/" else f"/{name}"

    def without_links(self) -> None:
        """Note that this file system has no hard links."""
        self.can = replace(self.can, create=False)

    def _refused(self, error: OSError, name: str) -> WlshardError:
        return refused(error, object_url(self.url, name))
