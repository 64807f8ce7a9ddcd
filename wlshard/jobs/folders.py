"""Private folders for commands: in memory where there is room; what a killed process left is swept."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from wlshard.store.files import errors_of, open_folder

MEMORY = "/dev/shm"  # noqa: S108 — the folder made in it is private
ROOM_BYTES = 1 << 28  # containers often have 64 MiB there: then the disk it is
_NAME = "wl-xargs-"


def private_folder(parent: str | None) -> str:
    """Make a folder of this process's own; it is deleted when the process ends.

    parent: where; None: in memory if that has 256 MiB free, else where temporary files go. The folder is
    locked while its process lives: those that a killed one left are deleted first.
    """
    parent = os.path.abspath(parent or _default_parent())
    with errors_of(parent):
        os.makedirs(parent, exist_ok=True)
        _sweep(parent)
        folder = tempfile.mkdtemp(prefix=f"{_NAME}{os.getuid()}-", dir=parent)
        fd = open_folder(folder)
    with suppress(OSError):  # a file system without locks: what a killed process leaves stays there
        fcntl.flock(fd, fcntl.LOCK_EX)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _default_parent() -> str:
    with suppress(OSError):
        space = os.statvfs(MEMORY)
        if os.access(MEMORY, os.W_OK | os.X_OK) and space.f_bavail * space.f_frsize >= ROOM_BYTES:
            return MEMORY
    return tempfile.gettempdir()


def _sweep(parent: str) -> None:
    """Delete the folders of this user's processes that were killed."""
    for name in os.listdir(parent):
        if not name.startswith(f"{_NAME}{os.getuid()}-"):
            continue
        with suppress(OSError):
            fd = os.open(f"{parent}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(f"{parent}/{name}", ignore_errors=True)
            finally:
                os.close(fd)


@contextmanager
def emptied(parent: str, home: int) -> Iterator[None]:
    """Make a folder in there the working folder of this process inside the block, then delete it.

    home: the working folder otherwise, as an open descriptor.
    """
    folder = f"{parent}/sample"
    os.mkdir(folder)
    try:
        os.chdir(folder)
        yield
    finally:
        os.chdir(home)
        try:
            for name in os.listdir(folder):
                os.unlink(f"{folder}/{name}")
            os.rmdir(folder)
        except OSError:  # a folder in it, made by the command
            shutil.rmtree(folder)
