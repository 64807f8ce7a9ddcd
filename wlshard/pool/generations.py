"""The row of manifests: numbered without gaps, each committed once by create-if-absent, never changed."""

from __future__ import annotations

import json
import logging

from wlshard import clock
from wlshard.errors import NotFound, StoreUnavailable
from wlshard.pool.manifest import Manifest, parse_manifest
from wlshard.pool.names import GENERATIONS, SHARDS, manifest_name
from wlshard.store.base import Store, object_url

log = logging.getLogger(__name__)

TRIES = 5  # of one commit whose reply does not come
PAUSE_S = 0.1  # before the second, doubled before each further one


class Generations:
    """The manifests of a pool. Remembers the newest it has seen."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._newest: Manifest | None = None

    def read(self, generation: int) -> Manifest:
        name = manifest_name(generation)
        manifest = parse_manifest(self._store.read(name), object_url(self._store.url, name))
        if manifest.generation != generation:
            advice = f"holds generation {manifest.generation}: restore this file from a backup of the pool"
            raise StoreUnavailable(advice, url=object_url(self._store.url, name))
        return manifest

    def newest(self) -> Manifest | None:
        """Read the newest manifest, None before generation 0. One failed open where nothing is new.

        Slots are tried in ascending order until one is absent: a listing may be older than what it lists.
        """
        if self._newest is None:
            first = self._gallop()
            if first < 0:
                return None
            self._newest = self.read(first)
        while True:
            try:
                self._newest = self.read(self._newest.generation + 1)
            except NotFound:
                return self._newest

    def _gallop(self) -> int:
        """Find a slot that was the last one a moment ago, by stat: slots have no gaps and never go."""
        if not self._exists(0):
            return -1
        last, step = 0, 1
        while self._exists(last + step):
            last, step = last + step, step * 2
        while step := step // 2:
            if self._exists(last + step):
                last += step
        return last

    def _exists(self, generation: int) -> bool:
        try:
            self._store.stat(manifest_name(generation))
        except NotFound:
            return False
        return True

    def commit(self, manifest: Manifest) -> Manifest | None:
        """Commit a manifest in its slot. None: another came first, begin again from the newest.

        Its shards are durable under their names before the manifest can be, and it is when this returns.
        StoreUnavailable: the store did not answer; whether it is committed shows at the next try.
        """
        data = manifest.encode()
        name = manifest_name(manifest.generation)
        if manifest.generation:
            self._store.sync(SHARDS)
            self._store.sync(GENERATIONS)
        txn = self._create(name, data)
        self._store.sync(GENERATIONS)
        if txn != manifest.txn:
            return None
        self._newest = parse_manifest(data, object_url(self._store.url, name))
        return self._newest

    def _create(self, name: str, data: bytes) -> str:
        """Send the same bytes until the slot is known to be taken; give the txn id of who has it."""
        ours = _txn(data, name)
        for attempt in range(TRIES):
            if attempt:
                clock.sleep(PAUSE_S * 2 ** (attempt - 1))
            failure: StoreUnavailable | None = None
            try:
                if self._store.create(name, data):
                    return ours
            except StoreUnavailable as error:
                failure = error
                log.warning("no reply to a commit, looking whether it happened: %s", error)
            try:
                return _txn(self._store.read(name), object_url(self._store.url, name))
            except NotFound:
                continue  # it did not: the same bytes again
            except StoreUnavailable as error:
                failure = error
        raise failure or StoreUnavailable(
            "the store refuses this manifest and yet has none: see whether its create-if-absent works",
            url=object_url(self._store.url, name),
        )


def _txn(data: bytes, url: str) -> str:
    """Read the txn id of a manifest, or of the stub that is left of one."""
    try:
        return str(json.loads(data)["txn"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreUnavailable(f"damaged ({error}): restore it from a backup of the pool", url=url) from error
