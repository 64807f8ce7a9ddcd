"""Objects as files of this machine (or a mounted file system), by plain os calls."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Container, Iterator
from contextlib import suppress
from typing import Self

from wlshard import clock
from wlshard.errors import NotFound, StoreUnavailable, WlshardError
from wlshard.store.base import Buffer, Capabilities, Entry, check_name, object_url, read_whole
from wlshard.store.draft import SCRATCH, LocalDraft
from wlshard.store.files import FileLock, errors_of, make_folders, refused, sync_folder

# A writer opens its scratch, then locks it. Scratch this young and still empty may be between the two.
NEWBORN_S = 60.0


class LocalReader:
    """One open file, unbuffered; `fileno()` lets readers of many blocks at once go to the system directly.

    `lock`: holds `fd` open, and its scratch locked, until the reader is closed.
    """

    def __init__(self, fd: int, url: str, lock: FileLock | None = None) -> None:
        found = os.fstat(fd)
        self.fd = fd
        self.url = url
        self.bytes = found.st_size if stat.S_ISREG(found.st_mode) else None
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
        except OSError as error:  # not `errors_of`: headers are read by the thousand
            raise refused(error, self.url) from error
        return filled

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if self._lock is not None:
            self._lock.close()
        elif fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LocalStore:
    """Objects under one folder. Folders are made as they are needed; the umask holds.

    `can.create` turns False at the first publication if the file system has no hard links: then a lock
    keeps processes of one machine apart, and no more than those.
    """

    def __init__(self, url: str, root: str) -> None:
        self.url = url
        self.root = os.path.abspath(root)
        self.can = Capabilities(write=True, list=True, create=True, shared=True, local=True)

    def open(self, name: str, start: int = 0, end: int | None = None) -> LocalReader:
        path, url = self.path(name), object_url(self.url, name)
        with errors_of(url):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _refuse_folder(os.fstat(fd))
                if start:
                    os.lseek(fd, start, os.SEEK_SET)
                return LocalReader(fd, url)
            except OSError:
                os.close(fd)
                raise

    def read(self, name: str) -> bytes:
        with self.open(name) as reader:
            return read_whole(reader, reader.bytes)

    def put(self, name: str, data: Buffer) -> None:
        self._write(name, data, replace=True)
        self.sync(os.path.dirname(name))

    def create(self, name: str, data: Buffer) -> bool:
        if os.path.lexists(self.path(name)):
            return False  # spares the disk a write; the link below decides when it is not there
        return self._write(name, data, replace=False)

    def _write(self, name: str, data: Buffer, *, replace: bool) -> bool:
        folder, slash, base = name.rpartition("/")
        with self.draft(f"{folder}{slash}.{base}.{os.urandom(8).hex()}") as draft:
            draft.write([data])
            draft.sync()
            return draft.publish(name, replace=replace)

    def draft(self, name: str) -> LocalDraft:
        path, url = self.path(name) + SCRATCH, object_url(self.url, name)
        with errors_of(url):
            make_folders(os.path.dirname(path))
            try:
                lock = FileLock(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
            except FileExistsError as error:
                advice = "its scratch is there already: another process writes it, or died; choose a new name"
                raise StoreUnavailable(advice, url=url + SCRATCH) from error
        if lock.acquire() is False or not os.fstat(lock.fd).st_nlink:
            lock.close()
            advice = "its new scratch was taken for a dead process's, this one slept too long: try again"
            raise StoreUnavailable(advice, url=url + SCRATCH)
        return LocalDraft(self, name, lock)  # without locks it is never known to be abandoned, no more

    def drafts(self, prefix: str = "") -> Iterator[Entry]:
        for entry in self._walk(prefix, SCRATCH, scratch=True):
            if entry.bytes or clock.now() - entry.mtime >= NEWBORN_S:
                name = entry.name.removesuffix(SCRATCH)
                lock = self._take(name)
                if lock is not None:
                    lock.close()
                    yield Entry(name, entry.bytes, entry.mtime)

    def reopen(self, name: str) -> LocalReader | None:
        lock = self._take(name)
        return None if lock is None else LocalReader(lock.fd, object_url(self.url, name) + SCRATCH, lock)

    def _take(self, name: str) -> FileLock | None:
        """Lock scratch. None: it is held, gone, not ours to write, or there are no locks to tell."""
        try:  # for writing, though it is only read: NFS locks no other file (flock(2))
            lock = FileLock(os.open(self.path(name) + SCRATCH, os.O_RDWR | os.O_CLOEXEC))
        except OSError:
            return None
        if lock.acquire() and os.fstat(lock.fd).st_nlink:
            return lock
        lock.close()
        return None

    def drop(self, name: str) -> None:
        self.delete(name + SCRATCH)

    def list(self, prefix: str = "", suffix: str = "", but: Container[str] = ()) -> Iterator[Entry]:
        return self._walk(prefix, suffix, but, scratch=False)

    def _walk(self, prefix: str, suffix: str, but: Container[str] = (), *, scratch: bool) -> Iterator[Entry]:
        pending, skip = [prefix.rpartition("/")[0]], len(prefix)
        while pending:
            folder = pending.pop()
            before = folder and folder + "/"
            for found in self._scan(folder):
                name = before + found.name
                if name[skip:] in but or not name.startswith(prefix):
                    continue
                try:
                    if found.is_dir(follow_symlinks=False):
                        pending.append(name)
                    elif name.endswith(suffix) and name.endswith(SCRATCH) == scratch:
                        status = found.stat()
                        if not stat.S_ISDIR(status.st_mode):
                            yield Entry(name, status.st_size, status.st_mtime)
                except OSError as error:
                    refusal = refused(error, object_url(self.url, name))
                    if not isinstance(refusal, NotFound):  # deleted since, or a link to nowhere
                        raise refusal from error

    def _scan(self, folder: str) -> Iterator[os.DirEntry[str]]:
        with (
            suppress(NotFound),
            errors_of(object_url(self.url, folder)),
            os.scandir(f"{self.root}/{folder}") as entries,
        ):
            yield from entries

    def stat(self, name: str) -> Entry:
        with errors_of(object_url(self.url, name)):
            found = os.stat(self.path(name))
            _refuse_folder(found)
        return Entry(name, found.st_size, found.st_mtime)

    def delete(self, name: str) -> None:
        with errors_of(object_url(self.url, name)), suppress(FileNotFoundError):
            os.unlink(self.path(name))

    def sync(self, folder: str) -> None:
        with errors_of(object_url(self.url, folder)):
            sync_folder(os.path.join(self.root, folder))

    def now(self) -> float:
        name = f".now.{os.urandom(8).hex()}"
        try:
            with self.draft(name):
                return self.stat(name + SCRATCH).mtime
        except WlshardError:
            return clock.now()  # a folder we may not write: our own clock is the best there is

    def path(self, name: str) -> str:
        check_name(name, self.url)
        return os.path.join(self.root, name)


def _refuse_folder(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
