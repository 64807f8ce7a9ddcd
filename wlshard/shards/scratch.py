"""The bytes of a growing shard in its draft, which end in an end mark after every write."""

from __future__ import annotations

import hashlib
from contextlib import suppress

from wlshard.errors import WlshardError
from wlshard.store.base import Buffer, Draft
from wlshard.tar.header import END_MARK


class Scratch:
    """Write whole samples one after the other; each write replaces the end mark of the one before.

    So the whole samples of a killed writer can be told from its last torn one: something valid follows them.
    """

    def __init__(self, draft: Draft, *, sha256: bool) -> None:
        self.draft = draft
        self.end = 0  # bytes written, the end mark not counted
        self._hash = hashlib.sha256() if sha256 else None

    def write(self, parts: list[Buffer]) -> None:
        """Write the parts. After an error of the store the scratch ends as it did before."""
        try:
            self.draft.write([*parts, END_MARK], at=self.end)
        except WlshardError:
            self._mark_end()
            raise
        if self._hash is not None:
            for part in parts:
                self._hash.update(part)
        self.end += sum(map(len, parts))

    def write_if_room(self, part: Buffer, room: int) -> bool:
        """Write a part if the store could take `room` more bytes after it; False: nothing was written."""
        try:
            self.draft.write([part, END_MARK, bytes(room)], at=self.end)
            self.write([part])
        except WlshardError:
            self._mark_end()
            return False
        return True

    def sha256(self) -> str:
        """Give the digest in hex of all that was written and the end mark; "" if it was not asked for."""
        if self._hash is None:
            return ""
        whole = self._hash.copy()
        whole.update(END_MARK)
        return whole.hexdigest()

    def _mark_end(self) -> None:
        with suppress(WlshardError):  # the first error is the one to tell
            self.draft.write([END_MARK], at=self.end)
