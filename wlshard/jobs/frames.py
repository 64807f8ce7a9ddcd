"""Tasks and answers on a pipe: a line of JSON that ends in the size of the bytes behind it, and these."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from wlshard.store.base import Buffer

_READ_BYTES = 1 << 20
_IOV_MAX = os.sysconf("SC_IOV_MAX")


def send(fd: int, head: Mapping[str, Any], body: Sequence[Buffer] = ()) -> None:
    """Write one frame. Blocks until it is taken; BrokenPipeError: nobody is there to take it."""
    size = sum(map(len, body))
    parts: list[Buffer] = [json.dumps([head, size]).encode() + b"\n", *body]
    at = 0
    while at < len(parts):
        count = os.writev(fd, parts[at : at + _IOV_MAX])
        while at < len(parts) and count >= len(parts[at]):
            count -= len(parts[at])
            at += 1
        if count:
            parts[at] = memoryview(parts[at])[count:]


class Frames:
    """Reads frames from a pipe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._unread = b""

    def next(self) -> tuple[dict[str, Any], memoryview] | None:
        """Wait for the next frame; None at the end of the pipe, also inside a frame."""
        parts = [self._unread]
        while b"\n" not in parts[-1]:
            data = os.read(self._fd, _READ_BYTES)
            if not data:
                return None
            parts.append(data)
        line, _, rest = b"".join(parts).partition(b"\n")
        head, size = json.loads(line)
        body = bytearray(max(size, len(rest)))
        body[: len(rest)] = rest
        self._unread = bytes(body[size:])
        view, filled = memoryview(body)[:size], min(len(rest), size)
        while filled < size:
            count = os.readv(self._fd, [view[filled:]])
            if not count:
                return None
            filled += count
        return head, view.toreadonly()
