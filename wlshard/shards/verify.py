"""Every fault of a shard, not only the first: what strict reading refuses, what its index gets wrong."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from wlshard.errors import AccessDenied, GroupingError, NotFound, StoreUnavailable, TarError, WlshardError
from wlshard.sample import KEY, Sample
from wlshard.shards.beside import IndexBeside, index_beside
from wlshard.shards.expand import STDIN
from wlshard.shards.grouping import Grouper
from wlshard.shards.reader import link_table, open_shard
from wlshard.shards.runs import Run
from wlshard.shards.survey import sizes_of
from wlshard.shards.tally import Tally
from wlshard.store.base import Reader
from wlshard.tar.blocks import blocks_of_this_thread
from wlshard.tar.compression import plain
from wlshard.tar.reader import scan
from wlshard.tar.tape import MAX_MEMBER_BYTES

LISTED = 1000  # faults of one shard; what comes after them is counted
AWAY = NotFound, AccessDenied, StoreUnavailable
NO_INDEX = "shards without an index"
ODD_KEY = "keys that lead out of their folder, or are not printable"
_PIECE_BYTES = 1 << 21  # read, and hashed, at once; behind each the thread that hashes waits for this one

Look = Callable[[Sample], bool]  # False: it has seen enough
Progress = Callable[[int, int | None], object]  # bytes read so far, and of how many if that is known


class Fault(NamedTuple):
    """What is wrong, and where. `kind`: tar, grouping, index, store; of a pool also name and manifest."""

    url: str
    member: str | None
    key: str | None
    offset: int | None  # bytes from the start of the uncompressed shard
    kind: str
    message: str


class Findings(Tally):
    """What was found in one shard: faults are listed, the first thousand, and never stop the reading."""

    def __init__(self, url: str) -> None:
        super().__init__(quiet=True)
        self.url = url
        self._kept: list[tuple[str, WlshardError]] = []

    def fault(self, error: WlshardError, kind: str = "") -> None:
        self.faults += 1
        if len(self._kept) < LISTED:
            error.__traceback__ = error.__context__ = error.__cause__ = None  # whose frames hold blocks
            self._kept.append((kind or _kind(error), error))

    def index_fault(self, error: TarError) -> None:
        self.fault(error, "index")

    def listed(self) -> list[Fault]:
        return [
            Fault(error.url or self.url, error.member, error.key, error.offset, kind, _message(error))
            for kind, error in self._kept
        ]


def _kind(error: WlshardError) -> str:
    return {TarError: "tar", GroupingError: "grouping"}.get(type(error), "store")


def _message(error: WlshardError) -> str:
    """Say, behind the message, how much of the tar could not be read for it."""
    if not isinstance(error, TarError) or error.resumed_at is None or error.offset is None:
        return error.message
    gap = error.resumed_at - error.offset
    passed = f"; {gap} bytes were passed over, reading goes on at byte {error.resumed_at}"
    return error.message + passed if gap > 0 else error.message


@dataclass
class Verification:
    """What verifying shards found. `notes`: how often what strict reading lets pass was met, by what it is.

    `leftovers` and `quarantined` are a pool's: objects that nothing needs, and shards set aside as bad.
    """

    samples: int = 0
    faults: list[Fault] = field(default_factory=list)
    faults_omitted: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    leftovers: list[str] = field(default_factory=list)
    quarantined: list[dict[str, str]] = field(default_factory=list)

    def take(self, found: Findings) -> None:
        """Add what was found in a shard."""
        listed = found.listed()
        self.samples += found.samples
        self.faults += listed
        self.faults_omitted += found.faults - len(listed)
        self.notes.update(found.passed_over)

    def as_json(self) -> dict[str, Any]:
        """Give what `wl-info --verify --json` adds."""
        return {
            "ok": not self.faults,
            "faults": [fault._asdict() for fault in self.faults],
            "faults_omitted": self.faults_omitted,
            "notes": dict(sorted(self.notes.items())),
            "leftovers": self.leftovers,
            "quarantined": self.quarantined,
        }


def verify(
    urls: Sequence[str],
    *,
    look: Look | None = None,
    progress: Progress | None = None,
    max_member_bytes: int = MAX_MEMBER_BYTES,
) -> Verification:
    """Read these shards once, whole, and list what is wrong with them; `-` is stdin.

    A shard that cannot be reached is a fault of kind store; if none can be, the first error is raised.
    look: is given the whole samples until it returns False, fields as `read_samples` gives them. Holds what
    reading holds, and up to 1,000 faults a shard.
    """
    result = Verification()
    away: list[WlshardError] = []
    meter = Meter(progress, sizes_of(urls) if progress else ())
    for url in urls:
        found = Findings(url)
        try:
            verify_shard(url, found, look=look, meter=meter, max_member_bytes=max_member_bytes)
        except AWAY as error:
            away.append(error)
            found.fault(error)
        result.take(found)
    if len(away) == len(urls):
        raise away[0]
    return result


class Meter:
    """Tells how many bytes have been read of all shards."""

    def __init__(self, progress: Progress | None, sizes: Iterable[int | None]) -> None:
        self._progress, self._done = progress, 0
        known = list(sizes)
        self._total = None if None in known else sum(size or 0 for size in known)

    def add(self, count: int) -> None:
        if self._progress is not None:
            self._done += count
            self._progress(self._done, self._total)


class Read(NamedTuple):
    """What was read of a shard as it is stored; `sha256` is "" if not asked for, or not read to its end."""

    bytes: int
    sha256: str


def verify_shard(
    url: str,
    found: Findings,
    *,
    look: Look | None = None,
    meter: Meter,
    sha256: bool = False,
    max_member_bytes: int = MAX_MEMBER_BYTES,
) -> Read:
    """List a shard's faults in `found`, which counts its samples. Raises only where it cannot be opened."""
    with ExitStack() as stack:
        reader = stack.enter_context(open_shard(url))
        hasher = stack.enter_context(ThreadPoolExecutor(1, "wlshard-sha256")) if sha256 else None
        source = _Watched(reader, meter, hasher)
        digest = ""
        try:
            _verify(source, url, found, look, stack, max_member_bytes)
            digest = source.digest()
        except AWAY as error:
            found.fault(error)
        finally:
            blocks_of_this_thread().trim()
        return Read(source.count, digest)


def _verify(
    source: _Watched, url: str, found: Findings, look: Look | None, stack: ExitStack, max_member_bytes: int
) -> None:
    tar, compression = plain(source, url)
    index: IndexBeside | None = None
    if compression is None and url != STDIN:
        try:
            index = stack.enter_context(index_beside(url, found.index_fault))
        except (NotFound, AccessDenied):
            found.passed(NO_INDEX)
    links = None if compression else link_table(url)
    steps = scan(
        tar,
        url,
        bare=lambda: look is None,
        block_bytes=_PIECE_BYTES,
        links=links,
        passed_over=found.passed_over,
        max_member_bytes=max_member_bytes,
    )
    stack.enter_context(closing(steps))
    grouper = Grouper(url, found, skip=True, listing=True)

    def take(run: Run) -> None:
        if index is not None:
            index.compare_run(run)
        whole = "".join(run.keys)
        for key in run.keys if "/" in whole or not whole.isprintable() else ():
            _note_odd(key, found)

    grouper.on_run = None if look else take
    for sample in grouper.samples(steps):
        key = sample[KEY]
        if index is not None:
            index.compare(sample, grouper.entries)
        _note_odd(key, found)
        if look is not None and not look(sample):
            look, grouper.on_run = None, take
    if index is not None:
        index.end()


def _note_odd(key: str, found: Findings) -> None:
    if not key.isalnum() and ("../" in key or key[0] == "/" or not key.isprintable()):
        found.passed(ODD_KEY)


class _Watched:
    """A source whose bytes are counted and, by a thread of its own, hashed as they pass.

    That thread is at most two pieces behind; no piece is written to again while it looks at it.
    """

    def __init__(self, reader: Reader, meter: Meter, hasher: Executor | None) -> None:
        self.bytes = reader.bytes
        self.count = 0
        self._reader, self._meter, self._hasher = reader, meter, hasher
        self._hash = hashlib.sha256()
        self._hashing: deque[Future[None]] = deque()

    def readinto(self, target: bytearray | memoryview, /) -> int:
        view, filled = memoryview(target), 0
        while filled < len(view):
            piece = view[filled : filled + _PIECE_BYTES]
            count = self._reader.readinto(piece)
            if self._hasher is not None:
                self._hashing.append(self._hasher.submit(self._hash.update, piece[:count]))
                if len(self._hashing) > 2:
                    self._hashing.popleft().result()
            filled += count
            self._meter.add(count)
            if count < len(piece):
                break
        self.count += filled
        return filled

    def digest(self) -> str:
        """Read what is left and give the digest of all in hex; "" if it was not asked for."""
        if self._hasher is None:
            return ""
        while self.readinto(bytearray(_PIECE_BYTES)):
            pass
        while self._hashing:
            self._hashing.popleft().result()
        return self._hash.hexdigest()
