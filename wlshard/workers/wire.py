"""Messages between the parent and a worker: whole or not at all, with descriptors where there are any."""

from __future__ import annotations

import os
import pickle
import socket
from array import array
from collections.abc import Sequence
from typing import Any

from wlshard.workers.memory import shared_file

MESSAGE_BYTES = 1 << 15  # a larger one travels as shared memory: a packet may hold about 200 KiB
_RIGHTS_BYTES = socket.CMSG_SPACE(2 * array("i").itemsize)
_IN_MEMORY = b"+"
# As plain numbers: `|` of socket's flags takes as long as to send a small message.
_NO_WAIT, _CLOSE_ON_EXEC = int(socket.MSG_DONTWAIT), int(socket.MSG_CMSG_CLOEXEC)


class Gone(BaseException):
    """The other end of the wire is closed. No Exception, which user code might raise or catch as well."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Give two ends. What is sent is one packet, so threads may send at the same time."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, message: object, fds: Sequence[int] = (), *, wait: bool = True) -> None:
    """Send a message; descriptors stay open here. Gone; BlockingIOError: no room, and not to `wait`."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    flags = 0 if wait else _NO_WAIT
    if len(data) <= MESSAGE_BYTES:
        _send(end, data, fds, flags)
        return
    fd = shared_file(len(data))
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        _send(end, _IN_MEMORY, (fd, *fds), flags)
    finally:
        os.close(fd)


def _send(end: socket.socket, data: bytes, fds: Sequence[int], flags: int) -> None:
    try:
        if fds:
            rights = socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds)
            end.sendmsg([data], [rights], flags)  # socket.send_fds does not heed flags
        else:
            end.send(data, flags)
    except ConnectionError as error:
        raise Gone from error


def receive(end: socket.socket, *, wait: bool = True) -> tuple[Any, list[int]]:
    """Receive a message and its descriptors. Gone; BlockingIOError: none is there, and not to `wait`."""
    flags = _CLOSE_ON_EXEC if wait else _CLOSE_ON_EXEC | _NO_WAIT
    try:
        data, rights, _, _ = end.recvmsg(MESSAGE_BYTES, _RIGHTS_BYTES, flags)
    except ConnectionError as error:
        raise Gone from error
    if not data:
        raise Gone
    fds = [fd for _, _, found in rights for fd in array("i", found)] if rights else []
    if data == _IN_MEMORY:
        with open(fds.pop(0), "rb") as file:
            file.seek(0)
            data = file.read()
    return pickle.loads(data), fds  # noqa: S301 — from a process of our own
