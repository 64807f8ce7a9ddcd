"""The row of manifests: numbered without gaps, each committed once by create-if-absent.

None is changed until its generation is retired: then a stub takes its slot for ever.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count

from wlshard import clock
from wlshard.errors import NotFound, StoreUnavailable
from wlshard.pool.manifest import STUB_BYTES, Manifest, Stub, digest_of, parse_slot
from wlshard.pool.names import GENERATIONS, SHARDS, condemned_name, manifest_name
from wlshard.store.base import Store, exists, object_url

log = logging.getLogger(__name__)

TRIES = 5  # of one commit whose reply does not come
PAUSE_S = 0.1  # before the second, doubled before each further one


class Generations:
    """The manifests of a pool. Remembers the newest it has seen: who is to commit begins with a new one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._newest: Manifest | None = None

    def slot(self, generation: int) -> Manifest | Stub:
        """Read a generation's manifest, or the stub that is left of it. NotFound: neither is there yet."""
        return self._parsed(self._store.read(manifest_name(generation)), generation)

    def _parsed(self, data: bytes, generation: int) -> Manifest | Stub:
        found = parse_slot(data, self._url(generation))
        if found.generation != generation:
            advice = f"holds generation {found.generation}: restore this file from a backup of the pool"
            raise StoreUnavailable(advice, url=self._url(generation))
        return found

    def slots(self, first: int) -> Iterator[Manifest | Stub]:
        """Read slots, ascending until one is absent: a listing may be older than what it lists."""
        for generation in count(first):
            try:
                yield self.slot(generation)
            except NotFound:
                return

    def stub(self, generation: int) -> Stub | None:
        """Read the stub of a retired generation; None: it is not. Reads no large manifest. NotFound: it is
        not there yet."""
        end = STUB_BYTES + 1
        with self._store.open(manifest_name(generation), end=end) as reader:
            data = bytearray(end)
            size = reader.readinto(data)
        found = self._parsed(bytes(data[:size]), generation) if size < end else None
        return found if isinstance(found, Stub) else None

    def is_open(self, generation: int) -> bool:
        """Tell whether who has a lease on a generation may read it: neither condemned nor retired.

        Far away both looks, either of which refuses alone, are under way at once.
        """
        if not self._lists:
            return not exists(self._store, condemned_name(generation)) and self.stub(generation) is None
        with ThreadPoolExecutor(1, "wlshard look") as beside:
            condemned = beside.submit(exists, self._store, condemned_name(generation))
            return self.stub(generation) is None and not condemned.result()

    def stubs(self, newest: Manifest) -> list[Stub]:
        """Read the stubs from a manifest's `floor` on, up to the first generation that is none."""
        found = list[Stub]()
        while stub := self.stub(newest.floor + len(found)):
            found.append(stub)
        return found

    def _url(self, generation: int) -> str:
        return object_url(self._store.url, manifest_name(generation))

    def newest(self, *, listed: bool = False) -> Manifest | None:
        """Read the newest manifest, None before generation 0. One failed open where nothing is new.

        listed: for who only reads; the first time, what a bucket's listing shows as the newest will do.
        StoreUnavailable: what follows the one seen last is of another pool.
        """
        while True:
            if self._newest is None:
                last = self._gallop()
                if last < 0:
                    return None
                found = self.slot(last)
                if isinstance(found, Stub):
                    continue  # many have come since
                self._newest = found
                if listed and self._lists and self._store.can.create:  # what fsspec lists, it may remember
                    return found
            try:
                child = self.slot(self._newest.generation + 1)
            except NotFound:
                return self._newest
            known = self._newest
            same = self.slot(known.generation).digest if isinstance(child, Stub) else child.parent
            if same != known.digest:
                advice = "it follows a generation that was not here before: the pool was made anew, reopen it"
                raise StoreUnavailable(advice, url=self._url(child.generation))
            self._newest = None if isinstance(child, Stub) else child  # None: we are far behind

    @property
    def _lists(self) -> bool:
        can = self._store.can
        return can.list and can.shared and not can.local

    def _gallop(self) -> int:
        """Find a slot that was the last one a moment ago: slots have no gaps and never go.

        Far away by one listing, which may be old; else by stat.
        """
        if self._lists:
            names = [entry.name.rpartition("/")[2] for entry in self._store.list(f"{GENERATIONS}/")]
            numbers = [int(name[:-5]) for name in names if name[:-5].isdecimal() and name.endswith(".json")]
            if numbers:
                return max(numbers)
        if not exists(self._store, manifest_name(0)):
            return -1
        last, step = 0, 1
        while exists(self._store, manifest_name(last + step)):
            last, step = last + step, step * 2
        while step := step // 2:
            if exists(self._store, manifest_name(last + step)):
                last += step
        return last

    def commit(self, manifest: Manifest) -> Manifest | None:
        """Commit a manifest in its slot. None: another came first, begin again from the newest.

        Its shards are durable under their names before the manifest can be, and it is when this returns.
        StoreUnavailable: the store did not answer; whether it is committed shows at the next try.
        """
        data, url = manifest.encode(), self._url(manifest.generation)
        if manifest.generation:
            self._store.sync(SHARDS)
            self._store.sync(GENERATIONS)
        txn = self._send(manifest, data, url)
        self._store.sync(GENERATIONS)
        if txn != manifest.txn:
            return None
        self._newest = replace(manifest, digest=digest_of(data))
        return self._newest

    def _send(self, manifest: Manifest, data: bytes, url: str) -> str:
        """Send the same bytes until the slot is known to be taken; give the txn id of who has it."""
        name = manifest_name(manifest.generation)
        advice = "the store refuses this manifest and yet has none: see whether its create-if-absent works"
        failure = StoreUnavailable(advice, url=url)
        for attempt in range(TRIES):
            if attempt:
                clock.sleep(PAUSE_S * 2 ** (attempt - 1))
            try:
                if self._store.create(name, data):
                    return manifest.txn
            except StoreUnavailable as error:
                failure = error
                log.warning("no reply to a commit, looking whether it happened: %s", error)
            try:
                return _txn(self._store.read(name), url)
            except NotFound:
                continue  # it did not: the same bytes again
            except StoreUnavailable as error:
                failure = error
        raise failure


def _txn(data: bytes, url: str) -> str:
    """Read the txn id of a manifest, or of the stub that is left of one."""
    try:
        return str(json.loads(data)["txn"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreUnavailable(f"damaged ({error}): restore it from a backup of the pool", url=url) from error
