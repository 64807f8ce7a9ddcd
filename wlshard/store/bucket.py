"""What buckets have in common: names below a prefix, scratch on this machine, objects created only once."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Self

from wlshard import clock
from wlshard.errors import AccessDenied, UsageError
from wlshard.store.base import Buffer, Capabilities, Entry, Reader, check_name
from wlshard.store.draft import LocalDraft
from wlshard.store.far import FarStore
from wlshard.store.local import LocalStore
from wlshard.store.patience import Passing, Patience

log = logging.getLogger("wlshard.store.uploads")

PART_BYTES = 1 << 24  # sent at a time; smaller objects are sent whole
TXN = "wlshard-txn"  # an object's metadata: which of our tries made it
_CLOCK_S = 60.0  # after so long the server's clock is asked again


class BucketStore(FarStore):
    """Objects below a prefix of one bucket: what is the same for every kind of them.

    A draft is a file in a folder of this user's own where temporary files go ($TMPDIR), sent when it is
    published: so a killed writer's whole samples can be sealed by another process of this machine.
    """

    can = Capabilities(write=True, list=True, create=True, shared=True, local=False)

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.bucket, _, prefix = url.partition("://")[2].partition("/")
        self._prefix = prefix and prefix.rstrip("/") + "/"
        self._clock: tuple[float, float] | None = None  # the server's, ours

    # What each kind of bucket does in its own way.

    def upload(self, key: str, source: Source, txn: str | None) -> bool:
        """Write an object whole, or leave nothing. txn: only if there is none (False), marked with this."""
        raise NotImplementedError

    def txn_of(self, key: str) -> str | None:
        """Read an object's mark. NotFound."""
        raise NotImplementedError

    def entries(self, prefix: str) -> Iterator[Entry]:
        """List objects by their keys."""
        raise NotImplementedError

    def look(self, name: str) -> Entry:
        raise NotImplementedError

    def remove(self, key: str) -> None:
        raise NotImplementedError

    def ask_date(self) -> None:
        """Make any request whose answer `heard` is told of."""
        raise NotImplementedError

    def key(self, name: str) -> str:
        check_name(name, self.url)
        return self._prefix + name

    def put(self, name: str, data: Buffer) -> None:
        self.upload(self.key(name), Source(data, self.url_of(name)), None)

    def create(self, name: str, data: Buffer) -> bool:
        return self.send_once(name, Source(data, self.url_of(name)))

    def send_once(self, name: str, source: Source) -> bool:
        return self.upload(self.key(name), source, os.urandom(16).hex())

    def settled(self, key: str, source: Source, txn: str | None, attempt: Callable[[], bool]) -> bool:
        """Repeat an attempt until it is answered. Made twice, it may have lost to itself: then it won."""
        unclear = False

        def step() -> bool:
            nonlocal unclear
            try:
                return attempt()
            except Passing:
                unclear = True
                raise

        if Patience(source.url).patiently(step):
            return True
        return unclear and txn is not None and self.txn_of(key) == txn

    def draft(self, name: str) -> BucketDraft:
        check_name(name, self.url)
        _own_folder()
        return BucketDraft(self, name, self._scratch.draft(name))

    def drafts(self, prefix: str = "") -> Iterator[Entry]:
        return self._scratch.drafts(prefix)

    def reopen(self, name: str) -> Reader | None:
        return self._scratch.reopen(name)

    def drop(self, name: str) -> None:
        self._scratch.drop(name)

    @property
    def _scratch(self) -> LocalStore:
        folder = f"{_scratch_root()}/{hashlib.sha256(self.url.encode()).hexdigest()[:32]}"
        return LocalStore(folder, folder)

    def list(self, prefix: str = "", suffix: str = "", but: Container[str] = ()) -> Iterator[Entry]:
        skip = len(self._prefix)
        for entry in self.entries(self._prefix + prefix):
            name = entry.name[skip:]
            # Consoles make names with a slash at their end to stand for folders.
            if name and name.endswith(suffix) and not name.endswith("/") and name[len(prefix) :] not in but:
                yield Entry(name, entry.bytes, entry.mtime)

    def stat(self, name: str) -> Entry:
        self.key(name)
        return self.look(name)

    def delete(self, name: str) -> None:
        self.remove(self.key(name))

    def sync(self, folder: str) -> None:
        """Do nothing: what a bucket has acknowledged is durable."""

    def heard(self, headers: Mapping[str, str]) -> None:
        """Take the server's time from an answer."""
        try:
            self._clock = parsedate_to_datetime(headers.get("date", "")).timestamp(), clock.monotonic()
        except ValueError:
            return

    def now(self) -> float:
        if self._clock is None or clock.monotonic() - self._clock[1] > _CLOCK_S:
            self.ask_date()
        if self._clock is None:
            return clock.now()
        return self._clock[0] + clock.monotonic() - self._clock[1]


class Source:
    """Bytes to be sent: in memory, or in a file, read a part at a time. Parts that were sent are logged."""

    def __init__(self, data: Buffer | int, url: str) -> None:
        self.url = url
        self._sent, self._lock = 0, threading.Lock()
        self._data = data
        self.bytes = os.fstat(data).st_size if isinstance(data, int) else len(data)

    def part(self, begin: int, size: int) -> bytes:
        if isinstance(self._data, int):
            return os.pread(self._data, size, begin)
        return bytes(memoryview(self._data)[begin : begin + size])

    def sent(self, size: int) -> None:
        """Take note that so much more has arrived."""
        with self._lock:
            self._sent += size
            log.info("%s: %d of %d bytes sent", self.url, self._sent, self.bytes)


class BucketDraft:
    """A file of this machine that becomes an object when it is published."""

    def __init__(self, store: BucketStore, name: str, scratch: LocalDraft) -> None:
        self._store, self._name, self._file = store, name, scratch

    @property
    def bytes(self) -> int:
        return self._file.bytes

    def write(self, parts: Sequence[Buffer], at: int | None = None) -> None:
        self._file.write(parts, at)

    def sync(self) -> None:
        """Do nothing: publishing makes it durable, and scratch outlives its process, not its machine."""
        self._file.fileno()

    def publish(self, name: str, *, replace: bool = False) -> bool:
        source = Source(self._file.fileno(), self._store.url_of(name))
        if replace:
            self._store.upload(self._store.key(name), source, None)
        elif not self._store.send_once(name, source):
            return False
        self._file.discard()
        return True

    def discard(self) -> None:
        self._file.discard()

    def abandon(self) -> None:
        self._file.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def _scratch_root() -> str:
    return os.path.join(tempfile.gettempdir(), f"wlshard-{os.getuid()}")


def _own_folder() -> None:
    """Make the folder for scratch, which nobody else may look into. AccessDenied: it is somebody else's."""
    root = _scratch_root()
    try:
        os.mkdir(root, 0o700)
    except FileExistsError:
        found = os.lstat(root)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise AccessDenied("is not ours: set TMPDIR to a folder of your own", url=root) from None
    except OSError as error:
        raise UsageError(f"no folder for scratch ({error.strerror}): set TMPDIR", url=root) from error
