"""What plain files add to os: errors of ours, a lock that dies with its process, folders that are durable."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from wlshard.errors import AccessDenied, NotFound, StoreUnavailable, UsageError, WlshardError
from wlshard.store.base import Buffer

_IOV_MAX = os.sysconf("SC_IOV_MAX")
# At a time. For more, Linux takes pages for a file that are as large as those a virtual machine gives back to
# its host (often 128 KiB, `page_reporting_order`): to touch one costs ten times as much as one used just now.
_WRITE_BYTES = 124 << 10
_ADVICE: dict[int, tuple[type[WlshardError], str]] = {
    errno.ENOENT: (NotFound, "does not exist: check the name"),
    errno.ENOTDIR: (NotFound, "does not exist: a part of its path is a file, not a folder"),
    errno.EISDIR: (NotFound, "is a folder, not an object: name a file in it"),
    errno.ELOOP: (NotFound, "its path is a circle of symbolic links: check the links"),
    errno.EACCES: (AccessDenied, "permission denied: check owner and mode of the file and its folder"),
    errno.EPERM: (AccessDenied, "the system does not permit this: check owner and attributes of the file"),
    errno.EROFS: (AccessDenied, "the file system is read-only: name a folder that can be written"),
    errno.ENOSPC: (StoreUnavailable, "the disk is full: free some space, then start again"),
    errno.EDQUOT: (StoreUnavailable, "your disk quota is used up: free some space, then start again"),
    errno.EFBIG: (
        StoreUnavailable,
        "the file would pass the size limit: see `ulimit -f`, make smaller shards",
    ),
    errno.EMFILE: (StoreUnavailable, "too many open files in this process: raise `ulimit -n`"),
    errno.EIO: (StoreUnavailable, "the disk reports an I/O error: see the system's log, then try again"),
    errno.ENAMETOOLONG: (UsageError, "the name is too long for this file system: choose a shorter one"),
}


def refused(error: OSError, url: str) -> WlshardError:
    """Give the error of ours that says what the system said about this object."""
    kind, advice = _ADVICE.get(
        error.errno or 0, (StoreUnavailable, f"{error.strerror or error}: check the disk, then try again")
    )
    return kind(advice, url=url)


@contextmanager
def errors_of(url: str) -> Iterator[None]:
    """Raise what the system refuses inside the block as an error of ours about this object."""
    try:
        yield
    except OSError as error:
        raise refused(error, url) from error


def write_all(fd: int, parts: Sequence[Buffer], at: int) -> int:
    """Write all parts from byte `at`, going on after short writes; give the end."""
    todo = [memoryview(part).cast("B") for part in parts]
    first = 0
    while first < len(todo):
        last, size = first, 0
        while (
            last < len(todo) and last - first < _IOV_MAX and (size := size + len(todo[last])) <= _WRITE_BYTES
        ):
            last += 1
        count = os.pwritev(fd, todo[first:last] or [todo[first][:_WRITE_BYTES]], at)
        at += count
        while first < len(todo) and count >= len(todo[first]):
            count -= len(todo[first])
            first += 1
        if count:
            todo[first] = todo[first][count:]
    return at


def open_folder(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def sync_folder(path: str) -> None:
    """Make the names in a folder durable. Blocks for the disk."""
    fd = open_folder(path)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some file systems know no fsync of a folder and say one of these (as in PostgreSQL's fsync_fname).
        if error.errno not in (errno.EBADF, errno.EINVAL):
            raise
    finally:
        os.close(fd)


def make_folders(path: str) -> None:
    """Make a folder and its parents as far as missing, each durable in its own parent."""
    missing = []
    while not _is_folder(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        try:
            os.mkdir(folder)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from None
        else:
            sync_folder(os.path.dirname(folder))


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


class FileLock:
    """An open file that may be locked; the lock ends with this process, whatever children it forked.

    A forked child would share the lock and keep it alive after our death: `fd` is closed there at once and
    reads as -1.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        _open.add(self)

    def acquire(self, *, wait: bool = False) -> bool | None:
        """Take the lock. False: another process has it. None: this file system has no locks."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return None
        return True

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        _open.discard(self)
        if fd >= 0:
            os.close(fd)


_open: set[FileLock] = set()


def _leave_to_parent() -> None:
    for lock in list(_open):
        lock.close()


os.register_at_fork(after_in_child=_leave_to_parent)
