"""Shared memory without a name: the kernel frees it with the last process that maps it, however that ends."""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import threading
import weakref
from typing import Any

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PROT_NONE, _MAP_FIXED = 0, 0x10  # linux/mman.h
_MADV_COLLAPSE = 25
_HUGE_BYTES = 1 << 21
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 1 << 24


def shared_file(size: int) -> int:
    """Make memory of so many bytes, zeros that take up room as they are written; give its descriptor."""
    fd = os.memfd_create("wlshard", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd


class Memory:
    """A mapping of shared memory; it goes with the last array that looks into it.

    Python's mmap would hold a descriptor for each (before 3.13): `list(loader)` would run out of them.
    """

    def __init__(self, fd: int, size: int) -> None:
        address = _room(size)
        _map(address, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED, fd)
        self.size = size
        self._area = (ctypes.c_ubyte * size).from_address(address)
        ending = weakref.finalize(self._area, _libc.munmap, address, size)
        ending.atexit = False  # arrays may live longer

    def fill(self) -> None:
        """Take up all of it at once, in huge pages: a third of what it costs page by page, on both sides.

        Where the kernel has none to give, or is older than 6.1, it takes up room as it is written.
        """
        for at in range(0, self.size, _HUGE_BYTES):
            self._area[at] = 0  # where nothing is, nothing is made huge
        _libc.madvise(ctypes.addressof(self._area), self.size, _MADV_COLLAPSE)

    def whole(self) -> Bytes:
        """Give all of it as an array of its own: once that is gone, so are all views of it."""
        return np.frombuffer(memoryview(self._area), np.uint8)


def _map(address: int | None, size: int, access: int, flags: int, fd: int) -> int:
    found: int = _libc.mmap(address, size, access, flags, fd, 0)
    if found == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), f"{size} bytes of memory cannot be mapped")
    return found


def _room(size: int) -> int:
    """Reserve addresses that begin where a huge page does."""
    start = _map(None, size + _HUGE_BYTES, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
    before = -start % _HUGE_BYTES
    end = start + before + -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    if before:
        _libc.munmap(start, before)
    _libc.munmap(end, start + size + _HUGE_BYTES - end)
    return start + before


def keep_freed_memory() -> None:
    """Let malloc keep for the next batch what one frees: to fault it in anew costs as much as to fill it."""
    if hasattr(_libc, "mallopt"):  # glibc
        _libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES // 2)
        _libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def die_with_parent(parent: int, number: int) -> None:
    """Ask for a signal when the thread that started this process ends; end now if its process has."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def die_with_process(parent: int) -> None:
    """End, by a thread that waits for it, when a process ends that this one is no child of, or a thread's."""
    try:
        ends = os.pidfd_open(parent)
    except ProcessLookupError:
        os._exit(1)
    poll = select.poll()
    poll.register(ends, select.POLLIN)

    def wait() -> None:
        poll.poll()
        os._exit(1)  # whatever user code is at

    threading.Thread(target=wait, name="wlshard parent", daemon=True).start()
