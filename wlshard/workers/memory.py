"""Shared memory without a name: the kernel frees it with the last process that maps it, however that ends."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from typing import Any

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


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
        address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
        if address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), f"{size} bytes of shared memory cannot be mapped")
        self.size = size
        self._area = (ctypes.c_ubyte * size).from_address(address)
        ending = weakref.finalize(self._area, _libc.munmap, address, size)
        ending.atexit = False  # arrays may live longer

    def whole(self) -> Bytes:
        """Give all of it as an array of its own: once that is gone, so are all views of it."""
        return np.frombuffer(memoryview(self._area), np.uint8)


def die_with_parent(parent: int, number: int) -> None:
    """Ask for a signal when the thread that started this process ends; end now if its process has."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
