"""A pool: write buffer and read pool under one URL, with no server in between."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any

from wlshard import clock
from wlshard.errors import NotFound, UsageError
from wlshard.pool.accounting import Accounting, Served
from wlshard.pool.buffer import SealedShard, sealed_shards
from wlshard.pool.generations import Generations
from wlshard.pool.manifest import FORMAT, Manifest, parse_object
from wlshard.pool.names import GENERATION, SETTINGS, SHARDS
from wlshard.pool.rotate import Rotation, rotate
from wlshard.store.base import Store, object_url
from wlshard.store.connect import connect

if TYPE_CHECKING:
    from wlshard.pool.status import PoolStatus

log = logging.getLogger(__name__)


class Pool:
    """Sealed shards wait in the write buffer until `rotate` promotes them; readers see whole generations.

    Any number of processes may write, rotate and read one pool at once. Holds nothing open; every method
    raises NotFound where there is no pool (`newest`, made to be polled, until it has seen a generation),
    AccessDenied and StoreUnavailable where the store does.
    """

    def __init__(self, url: str | os.PathLike[str], *, store: Store | None = None) -> None:
        self.url = os.fspath(url)
        self.store = store or connect(self.url)
        self._generations = Generations(self.store)
        self._accounting = Accounting(self.store)

    @property
    def settings(self) -> dict[str, Any]:
        """Read wlshard.json: format, pool id, keep, schema. NotFound: there is no pool here, or no more."""
        try:
            return parse_object(self.store.read(SETTINGS), object_url(self.store.url, SETTINGS))
        except NotFound as error:
            advice = "there is no pool here: wl-gen makes one, or wlshard.Pool(url).create()"
            raise NotFound(advice, url=self.url) from error

    def create(self, keep: int = 2) -> Pool:
        """Make the pool unless it is there, with the empty generation 0.

        keep: how many generations stay readable, the newest included; set once, here.
        """
        if keep < 2:
            raise UsageError(
                f"keep={keep}: readers need the generation before the newest, so 2 or more", url=self.url
            )
        of = GENERATION.fullmatch(self.url)
        if of and not self.exists() and Pool(of[1]).exists():
            raise UsageError("names a generation, and those never change: name the pool", url=self.url)
        new = {"format": FORMAT, "pool": os.urandom(16).hex(), "keep": keep, "schema": None}
        data = json.dumps(new, indent=1).encode() + b"\n"
        if self.store.create(SETTINGS, data):
            # The second create of one name must fail, or two rotations at once could both commit.
            if self.store.create(SETTINGS, data) or not self.store.can.create:
                log.warning("%s has no atomic create-if-absent: run one wl-rotate at a time", self.url)
            self.store.sync("")
        self._open()
        return self

    def exists(self) -> bool:
        """Tell whether a pool is here."""
        try:
            self.store.stat(SETTINGS)
        except NotFound:
            return False
        return True

    def require(self) -> None:
        """Look whether a pool is here now; raise NotFound if not."""
        _ = self.settings

    def newest(self, after: int | None = None) -> Manifest | None:
        """Read the newest generation's manifest. None: there is none yet, or none newer than `after`.

        Costs one failed open where nothing is new: cheap enough to ask every few milliseconds.
        """
        if not self._generations.known:
            self.require()
        manifest = self._generations.newest()
        return manifest if manifest and (after is None or manifest.generation > after) else None

    def manifest(self, generation: int) -> Manifest:
        """Read the manifest of one generation."""
        self.require()
        try:
            return self._generations.read(generation)
        except NotFound as error:
            newest = self._generations.newest()
            there = "none is yet" if newest is None else f"the newest is {newest.generation}"
            raise NotFound(f"there is no generation {generation}: {there}", url=self.url) from error

    def generations(self) -> list[int]:
        """List the generations that can be read, ascending."""
        newest = self.newest()
        return list(range(newest.generation + 1)) if newest else []

    def shards(self, generation: int | None = None) -> list[str]:
        """List the URLs of a generation's shards, oldest first; of the newest by default."""
        manifest = self.newest() if generation is None else self.manifest(generation)
        return [self.shard_url(shard.name) for shard in manifest.shards] if manifest else []

    def shard_url(self, name: str) -> str:
        """Give the URL of a shard named in a manifest; absolute if local: the current folder may change."""
        return self.store.path(f"{SHARDS}/{name}") or object_url(self.store.url, f"{SHARDS}/{name}")

    def buffer(self) -> list[SealedShard]:
        """List the write buffer: sealed shards that the newest generation does not cover, by name.

        Lists the store: 20 ms for 1,000 local shards.
        """
        self.require()
        newest = self.newest()
        return sorted(
            shard for shard in sealed_shards(self.store) if newest is None or not newest.covers(shard.parsed)
        )

    def rotate(self, at: int = 0, pool_samples: int = 0, dry_run: bool = False) -> Rotation:
        """Promote the write buffer into the next generation, if it holds at least `at` samples.

        The new generation holds all that is promoted and, if that is less than `pool_samples`, the newest
        of the old one's shards until so many are held. Shards that cannot be read now wait for the next
        rotation; those proven bad are set aside and reported. Whole samples of writers that died are sealed
        first. Durable on return.
        """
        if not dry_run:
            self.salvage()
        self._open()
        return rotate(
            self.store, self._generations, self.url, at=at, pool_samples=pool_samples, dry_run=dry_run
        )

    def salvage(self) -> list[str]:
        """Seal the whole samples in the scratch of this machine's dead writers; give the shards' URLs."""
        from wlshard.pool.salvage import salvage

        self.require()
        return [self.shard_url(name) for name in salvage(self.store)]

    def record_served(self, reader: str, generation: int, served: int, waited_s: float) -> bool:
        """Note how many samples of a generation a reader was given so far, and how long it waited for data.

        False, and said once: this pool cannot be written by us, or is gone.
        """
        return self._accounting.record(reader, generation, served, waited_s)

    def status(self) -> PoolStatus:
        """Give the state of the pool: read pool, write buffer, rates, reuse, age. Lists the store."""
        from wlshard.pool.status import pool_status

        self.require()
        return pool_status(self)

    def served(self, generation: int) -> list[Served]:
        """List what the readers of a generation noted."""
        return self._accounting.served(generation)

    def _open(self) -> None:
        """Look afresh, for who commits: what was remembered may be of a pool deleted, or made anew, since.

        Commits generation 0 if the pool's creator died before that.
        """
        self.require()
        self._generations = Generations(self.store)
        if self._generations.newest() is None:
            self._generations.commit(Manifest(0, None, os.urandom(16).hex(), created=clock.now()))

    def __repr__(self) -> str:
        return f"Pool({self.url!r})"
