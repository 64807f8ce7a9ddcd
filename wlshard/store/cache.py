"""What was read of shards that are far away, or in slow shared folders, kept on a disk of this machine.

CACHE/<of URL and version, 40 hex>/<number>         a block of the object, 1 MiB, whole or absent
CACHE/<of URL and version, 40 hex>/<number>.<8 hex>     one that is being written
CACHE/<of URL and version, 40 hex>/<number>.lock        one that is being fetched; others wait for its lock
CACHE/bytes                                             what all of them take; its lock is held to make room

All processes of a machine may share one. A block is renamed to its place when it is whole, and never changed:
a process that is killed leaves at most one that nobody reads. Those used longest ago make room.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from wlshard import clock
from wlshard.store.files import FileLock, write_all
from wlshard.store.options import option, size_of

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20
_ROOM = 8  # one part of so many is emptied at a time
_DEAD_S = 600.0  # nobody writes at one block for so long
_LOOK_S = 0.002  # how often who waits for another's block looks


class Cache:
    """Blocks of objects in a folder, `limit_bytes` of them at most. Threads and processes may share it.

    Where it cannot be written, or read, it says so once and is off from then on.
    """

    def __init__(self, folder: str, limit_bytes: int) -> None:
        self.folder = folder
        self._limit_bytes = limit_bytes
        self._off = False
        self._claims: dict[tuple[str, int], FileLock] = {}  # by lock file and thread

    def on_device(self, device: int) -> bool:
        """Tell whether this is the file system that it lies on, or it is off."""
        found = device
        with self._turned_off_by_errors():
            os.makedirs(self.folder, exist_ok=True)
            found = os.stat(self.folder).st_dev
        return self._off or found == device

    def place(self, url: str, tag: str) -> str:
        """Give the folder of one version of an object."""
        text = f"{url}\0{tag}".encode("utf-8", "surrogateescape")
        return os.path.join(self.folder, hashlib.sha256(text).hexdigest()[:40])

    def has(self, place: str, number: int) -> bool:
        return not self._off and os.path.exists(_path(place, number))

    def load(self, place: str, number: int, target: memoryview) -> bool:
        """Fill target with a block, which takes note of its use; False: it is not here."""
        if self._off:
            return False
        count = -1
        with self._turned_off_by_errors(), suppress(FileNotFoundError):
            fd = os.open(_path(place, number), os.O_RDONLY | os.O_CLOEXEC)
            try:
                count = os.readv(fd, [target])  # after a power cut it may be shorter
                _note_use(fd)
            finally:
                os.close(fd)
        return count == len(target)

    def claim(self, place: str, number: int, wait_s: float) -> bool:
        """Be the one who fetches a block, waiting for who does: another thread or process, alive.

        False: it took longer than `wait_s`. A thread does not wait for itself.
        """
        name, until = f"{_path(place, number)}.lock", clock.monotonic() + wait_s
        key = name, threading.get_ident()
        if self._off or key in self._claims:
            return True
        with suppress(OSError):  # what cannot be locked is fetched
            lock = FileLock(_open_new(name))
            while lock.acquire() is False:
                if clock.monotonic() >= until:
                    lock.close()
                    return False
                clock.sleep(_LOOK_S)
            self._claims[key] = lock
        return True

    def release(self, place: str, number: int, thread: int) -> None:
        """Let others fetch a block that this thread has claimed, if it is not here now."""
        name = f"{_path(place, number)}.lock"
        if (lock := self._claims.pop((name, thread), None)) is not None:
            with suppress(OSError):
                os.unlink(name)
            lock.close()

    def keep(self, place: str, number: int, data: memoryview) -> None:
        """Put a block into the cache, having made room for it."""
        if self._off or len(data) > self._limit_bytes or self.has(place, number):
            return
        scratch = f"{_path(place, number)}.{os.urandom(4).hex()}"
        with self._turned_off_by_errors():
            try:
                fd = self._reserve(scratch, len(data))  # its size grows with its bytes: a power cut shows
                try:
                    write_all(fd, [data], 0)
                    _note_use(fd)
                finally:
                    os.close(fd)
                with suppress(FileNotFoundError):  # taken for a dead process's, this one slept too long
                    os.rename(scratch, _path(place, number))
            except OSError:
                with suppress(OSError):
                    os.unlink(scratch)
                raise

    def _reserve(self, scratch: str, size: int) -> int:
        """Make room and open a file that is to have this size: from now on it counts."""
        lock = FileLock(_open_new(os.path.join(self.folder, "bytes")))
        try:
            lock.acquire(wait=True)
            told = os.pread(lock.fd, 20, 0)
            used = int(told) if told.isdigit() else self._make_room(self._limit_bytes - size)
            if used + size > self._limit_bytes:
                used = self._make_room(max(0, self._limit_bytes - self._limit_bytes // _ROOM - size))
            os.pwrite(lock.fd, b"%020d" % (used + size), 0)
            return _open_new(scratch, os.O_EXCL)
        finally:
            lock.close()

    def _make_room(self, wanted_bytes: int) -> int:
        """Delete what was used longest ago, down to so many bytes; give how many are left."""
        held, dead = [], clock.now() - _DEAD_S
        for place in self._folders():
            with os.scandir(place) as files:
                for file in files:
                    found, block = file.stat(), "." not in file.name
                    forgotten = not block and found.st_mtime < dead
                    if forgotten or not file.name.endswith(".lock"):
                        size = found.st_size if block else BLOCK_BYTES  # that is what it will have
                        held.append((0 if forgotten else found.st_mtime_ns, size, file.path))
        held.sort()
        used = sum(size for _, size, _ in held)
        for used_at, size, path in held:
            if used <= wanted_bytes and used_at:
                break
            with suppress(FileNotFoundError):
                os.unlink(path)
            used -= size
        for place in self._folders():
            with suppress(OSError):  # not empty
                os.rmdir(place)
        return used

    def _folders(self) -> list[str]:
        with os.scandir(self.folder) as entries:
            return [
                entry.path
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and len(entry.name) == 40
            ]

    @contextmanager
    def _turned_off_by_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._off:
                self._off = True
                log.warning(
                    "the cache in %s is off from now on (%s): reading goes on without it",
                    self.folder,
                    error.strerror,
                )


def _path(place: str, number: int) -> str:
    return f"{place}/{number:08d}"


def _open_new(path: str, flags: int = 0) -> int:
    """Open a file to be written, made with its folder if they are not there."""
    flags |= os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    with suppress(FileNotFoundError):
        return os.open(path, flags, 0o666)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return os.open(path, flags, 0o666)


def _note_use(fd: int) -> None:
    """Set a block's time. The system's own stamps are of its last tick: blocks used within one look alike."""
    now_ns = int(clock.now() * 1e9)
    with suppress(PermissionError):  # another user's
        os.utime(fd, ns=(now_ns, now_ns))


_caches: dict[tuple[str, int], Cache] = {}


def cache_for(url: str) -> Cache | None:
    """Give the cache that this process was told to keep, by `cache_bytes` and `cache_dir`."""
    if not (limit := option(url, "cache_bytes")):
        return None
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.abspath(option(url, "cache_dir") or os.path.join(home, "wlshard"))
    key = os.path.join(folder, "shards"), size_of(limit)
    return _caches.setdefault(key, Cache(*key))


def _leave_to_parent() -> None:
    for cache in _caches.values():
        cache._claims.clear()


os.register_at_fork(after_in_child=_leave_to_parent)
