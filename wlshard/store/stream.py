"""The bytes of one object that is far away: an answer that breaks off is gone on with, from its byte.

Every further request is guarded by what the first answer said of the object (ETag, time, size): bytes of two
objects are never put together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self, TypeAlias

from wlshard import clock
from wlshard.errors import StoreUnavailable, WlshardError
from wlshard.store.patience import Passing, Patience, unavailable
from wlshard.store.wire import TIMEOUT_S, Answer

# From byte, up to byte (None: the end), ETag that must still hold. The answer's status is 200, 206, 412 or
# 416; anything else has been raised.
Get: TypeAlias = Callable[[int, "int | None", "str | None"], Answer]

_EXTENT = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_SKIP_BYTES = 1 << 16
SLOW_BYTES_PER_S = 1 << 10  # while waiting for them: less is no progress
PROGRESS_BYTES = 1 << 12  # of one answer: fewer are none


class Version(NamedTuple):
    """What tells an object from the one that replaces it. None: not known."""

    tag: str | None
    modified: str | None
    size: int | None

    @classmethod
    def of(cls, headers: Mapping[str, str], size: int | None) -> Self:
        tag = headers.get("x-goog-generation") or headers.get("etag")
        return cls(tag, headers.get("last-modified"), size)

    def differs(self, other: Version) -> bool:
        pairs = zip(self, other, strict=True)
        tag, modified, size = (None not in pair and pair[0] != pair[1] for pair in pairs)
        same_tag = not tag and self.tag is not None and other.tag is not None
        return tag or size or (modified and not same_tag)

    @property
    def guard(self) -> str | None:
        """The ETag where a server can be asked for just this version (a weak one does not do)."""
        return self.tag if self.tag and not self.tag.startswith("W/") else None


class Stream:
    """Bytes from `at` up to `end` (None: the object's end). `open` may be called to meet errors early.

    `version`: of the object, known after the first answer. `ranged`: the server gives parts of objects.
    """

    def __init__(
        self,
        get: Get,
        at: int,
        end: int | None,
        patience: Patience,
        version: Version | None = None,
    ) -> None:
        self.at, self.end = at, end
        self.version = version
        self.ranged = True
        self._get, self._patience = get, patience
        self._answer: Answer | None = None
        self._over = False
        self._took_s, self._came = 0.0, 0  # of this answer: seconds waited for bytes, and they

    def open(self) -> None:
        """Send the first request."""
        if self._answer is None and not self._over:
            self._patience.patiently(self._ask)

    def readinto(self, target: memoryview, /) -> int:
        """Fill target from the front; fewer bytes than asked only at the end."""
        filled = 0
        while filled < len(target) and not self._over:
            try:
                filled += self._step(target[filled:])
            except Passing as failure:
                self._drop()
                failure.error.offset = self.at
                self._patience.again(failure)
        return filled

    def _step(self, target: memoryview) -> int:
        if self._answer is None:
            if self.end is not None and self.at >= self.end:
                self._over = True
                return 0
            self._ask()
        if self._answer is None:
            return 0
        self._check_pace()
        if self.end is not None:
            target = target[: self.end - self.at]
        began = clock.monotonic()
        count = self._answer.readinto(target) if len(target) else 0
        self._took_s += clock.monotonic() - began
        self.at += count
        self._came += count
        if not count:
            size = self.version.size if self.version else None
            end = size if self.end is None else self.end if size is None else min(self.end, size)
            if end is not None and self.at < end:
                what = f"the stream broke off (only {self.at} of {end} bytes came): try again"
                raise unavailable(what, self._patience.url)
            self._over = True
            self._drop()
        return count

    def _check_pace(self) -> None:
        """Take note of progress. A server that only drips is as good as none."""
        if self._came >= SLOW_BYTES_PER_S * self._took_s:
            if self._came >= PROGRESS_BYTES:
                self._patience.progressed()
        elif self._took_s > TIMEOUT_S:
            what = f"only {self._came} bytes in {self._took_s:.0f} s: try again"
            raise unavailable(what, self._patience.url)

    def _ask(self) -> None:
        self._took_s, self._came = 0.0, 0
        answer = self._get(self.at, self.end, self.version.guard if self.version else None)
        try:
            begin = self._begin(answer)
        except BaseException:
            answer.close()
            raise
        if begin is None:
            answer.close()
            self._over = True
            return
        self._answer = answer
        self._skip(begin)

    def _begin(self, answer: Answer) -> int | None:
        """Find at which byte an answer begins (None: the object ends before); see that it is the same."""
        headers = answer.headers
        extent = _EXTENT.match(headers.get("content-range", ""))
        size: int | None
        if answer.status == 412:
            raise self._changed()
        if answer.status == 200:
            begin, size = 0, _length(headers)
            self.ranged = self.at == 0 and self.end is None
        else:
            begin = int(extent[1]) if extent and extent[1] else self.at
            size = int(extent[2]) if extent and extent[2] != "*" else None
        if self.version is not None and self.version.differs(Version.of(headers, size)):
            raise self._changed()
        if answer.status == 416:
            if size is None and self.at == 0:
                size = 0
            self.version = self.version or Version.of({}, size)
            if self.version.size is not None and self.at < self.version.size:
                raise self._error("the server refuses a range inside the object: check the server")
            return None
        self.version = self.version or Version.of(headers, size)
        if begin > self.at:
            raise self._error("the server sent another range than was asked for: check the server")
        return begin

    def _skip(self, begin: int) -> None:
        """Read up to `at`, where the server sent the whole object though asked for a part."""
        block = memoryview(bytearray(_SKIP_BYTES))
        while begin < self.at and self._answer is not None:
            count = self._answer.readinto(block[: self.at - begin])
            if not count:
                break
            begin += count
        if begin < self.at:
            size = self.version.size if self.version else None
            if size is not None and begin < size:
                raise unavailable(f"the stream broke off (at byte {begin}): try again", self._patience.url)
            self._over = True
            self._drop()

    def _changed(self) -> WlshardError:
        return self._error("the object changed while it was read: begin again")

    def _error(self, what: str) -> WlshardError:
        return StoreUnavailable(what, url=self._patience.url, offset=self.at)

    def stop(self) -> None:
        """End another thread's read."""
        if (answer := self._answer) is not None:
            answer.stop()

    def close(self) -> None:
        self._over = True
        self._drop()

    def _drop(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.close()


def _length(headers: Mapping[str, str]) -> int | None:
    length = headers.get("content-length", "")
    encoded = headers.get("content-encoding", "identity") != "identity"
    return int(length) if length.isdigit() and not encoded else None
