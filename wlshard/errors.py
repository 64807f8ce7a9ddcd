"""The error tree. Every error says what happened, where, and what to do next; its code is the exit code.

WlshardError                1
├── UsageError              2   a flag, an argument or a URL that makes no sense
├── NotFound               10   an object, a pool, a sample or a field that is not there
├── AccessDenied           11   the store refused, or the folder is read-only
├── StoreUnavailable       12   the store does not answer, broke off, or is full
├── TarError               20   bytes that are not a whole, strict tar
├── GroupingError          21   members that do not form samples
├── CodecError             22   a field that does not encode or decode
├── UserCodeError          23   a generator, transform or command of the user's failed
├── LostLease              31   the generation being read went away
├── PoolStarved            32   no samples came within timeout_s
├── TooManyBadSamples      40   on_error="skip" met 100 failures in a row
├── WorkerDied             41   a worker process ended without being asked to
└── CursorMismatch         42   a saved cursor does not fit this data set or order
"""

from __future__ import annotations

import re
from typing import Any


class WlshardError(Exception):
    """Base of all errors raised on purpose.

    The message says what is wrong and what to do; `url`, `member`, `key` and `offset` (bytes from the
    start of the uncompressed shard) say where, as far as it is known.
    """

    code = 1

    def __init__(
        self,
        message: str,
        *,
        url: str | None = None,
        member: str | None = None,
        key: str | None = None,
        offset: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.url = url
        self.member = member
        self.key = key
        self.offset = offset

    def __str__(self) -> str:
        where = ("url", self.url), ("member", self.member), ("key", self.key), ("offset", self.offset)
        known = ", ".join(f"{name} {printable(shown(value))}" for name, value in where if value is not None)
        said = "\n".join(map(printable, self.message.split("\n")))  # names and tracebacks are the data's
        return f"{said} [{known}]" if known else said

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own pickling drops keyword arguments: an error must cross a process boundary whole.
        made_of = type(self), self.message, self.url, self.member, self.key, self.offset
        return _rebuild, made_of, self.__dict__  # notes too

    def as_json(self) -> dict[str, Any]:
        """Give the error as the object that `--json` prints as the last line of stderr."""
        return {
            "type": "error",
            "code": self.code,
            "error": type(self).__name__,
            "message": self.message,
            "url": self.url and shown(self.url),
            "member": self.member,
            "key": self.key,
            "offset": self.offset,
        }


def _rebuild(
    kind: type[WlshardError], message: str, url: str, member: str, key: str, offset: int
) -> WlshardError:
    return kind(message, url=url, member=member, key=key, offset=offset)


def shown(value: object) -> str:
    """Show a URL without what is secret in it: a password, the values that sign a query."""
    text = str(value)
    return _SIGNED.sub(r"\1***", _LOGIN.sub("://***@", text)) if "@" in text or "?" in text else text


_LOGIN = re.compile(r"://[^/@\s]*@")
_SIGNED = re.compile(
    r"([?&][^=&]*(?:sig|token|key|secret|credential|passw|auth)[^=&]*=)[^&#\s]*", re.IGNORECASE
)


def counted(count: int | None, what: str) -> str:
    """Give `1 shard`, `1,000 shards`, `unknown shards`."""
    return f"{number(count)} {what}" if count == 1 else f"{number(count)} {what}s"


def number(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"


def printable(value: object) -> str:
    """Show a value that came from a tar: control characters and lone surrogates escaped for the terminal."""
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


class PerformanceWarning(UserWarning):
    """What is asked for works, and takes a slower way than there is. No error; said once by each loader."""


class UsageError(WlshardError):
    """A flag, an argument or a URL that makes no sense."""

    code = 2


class NotFound(WlshardError):
    """An object, a pool, a sample or a field that is not there."""

    code = 10


class AccessDenied(WlshardError):
    """The store refused, or the folder is read-only."""

    code = 11


class StoreUnavailable(WlshardError):
    """The store does not answer, broke off, or is full."""

    code = 12


class TarError(WlshardError):
    """Bytes that are not a whole, strict tar.

    `resumed_at`: the offset at which a pass that goes on behind the damage found something to read again.
    """

    code = 20
    resumed_at: int | None = None


class GroupingError(WlshardError):
    """Members that do not form samples: a key that comes back, a field twice, a name that does not split."""

    code = 21


class CodecError(WlshardError):
    """A field that does not encode or decode."""

    code = 22


class UserCodeError(WlshardError):
    """A generator, a transform or a command of the user's failed; the message carries its traceback."""

    code = 23


class LostLease(WlshardError):
    """The generation being read went away."""

    code = 31

    @classmethod
    def by(cls, error: NotFound, generation: int) -> LostLease:
        """Say what a shard that is missed means to who is reading a pool."""
        return cls(
            f"generation {generation} was retired while it was being read ({error.message}): begin a new "
            "epoch, or keep more generations (wl-rotate --keep)",
            url=error.url,
        )


class PoolStarved(WlshardError):
    """No samples came within timeout_s."""

    code = 32


class TooManyBadSamples(WlshardError):
    """on_error="skip" met 100 failures in a row."""

    code = 40


class WorkerDied(WlshardError):
    """A worker process ended without being asked to."""

    code = 41


class CursorMismatch(WlshardError):
    """A saved cursor does not fit this data set or order."""

    code = 42
