"""A pool: write buffer and read pool under one URL, with no server in between."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from wlshard import clock
from wlshard.errors import NotFound, UsageError
from wlshard.pool.accounting import PIN, Accounting, Note
from wlshard.pool.buffer import SealedShard, sealed_shards, waiting
from wlshard.pool.generations import Generations
from wlshard.pool.lease import Lease
from wlshard.pool.manifest import FORMAT, NO_GENERATION, Manifest, Stub, parse_object
from wlshard.pool.names import GENERATION, SETTINGS, SHARDS
from wlshard.pool.rotate import Policy, Rotation, rotate
from wlshard.store.base import Store, object_url
from wlshard.store.connect import connect
from wlshard.store.options import use_options

if TYPE_CHECKING:
    from wlshard.pool.retire import Retirement
    from wlshard.pool.status import PoolStatus

log = logging.getLogger(__name__)

PIN_DAYS = 7.0


class Pool:
    """Sealed shards wait in the write buffer until `rotate` promotes them; readers see whole generations.

    Any number of processes may write, rotate and read one pool at once. Holds nothing open; every method
    raises NotFound where there is no pool (`newest`, made to be polled, until it has seen a generation),
    AccessDenied and StoreUnavailable where the store does.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        store: Store | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        use_options(storage_options)
        self.url = os.fspath(url)
        self.store = store or connect(self.url)
        self._generations = Generations(self.store)
        self._accounting = Accounting(self.store)

    @property
    def settings(self) -> dict[str, Any]:
        """Read wlshard.json: format, pool id, keep. NotFound: there is no pool here, or no more."""
        try:
            return parse_object(self.store.read(SETTINGS), object_url(self.store.url, SETTINGS))
        except NotFound as error:
            advice = "there is no pool here: wl-gen makes one, or wlshard.Pool(url).create()"
            raise NotFound(advice, url=self.url) from error

    def create(self, keep: int = 2) -> Pool:
        """Make the pool unless it is there, with the empty generation 0.

        keep: how many generations stay readable, the newest included; set once, here.
        """
        Policy(keep=keep)
        of = GENERATION.fullmatch(self.url)
        if of and not self.exists() and Pool(of[1]).exists():
            raise UsageError("names a generation, and those never change: name the pool", url=self.url)
        new = {"format": FORMAT, "pool": os.urandom(16).hex(), "keep": keep}
        data = json.dumps(new, indent=1).encode() + b"\n"
        # The second create of one name must fail, or two rotations at once could both commit.
        if self.store.create(SETTINGS, data) and (
            self.store.create(SETTINGS, data) or not self.store.can.create
        ):
            log.warning("%s has no atomic create-if-absent: run one wl-rotate at a time", self.url)
        self.store.sync("")  # though another has made it: that one may have died before this
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
        manifest = self._generations.newest(listed=True)
        if manifest is None:
            self.require()
        return manifest if manifest and (after is None or manifest.generation > after) else None

    def manifest(self, generation: int) -> Manifest:
        """Read the manifest of one generation. NotFound: it is not there yet, or retired."""
        self.require()
        try:
            found = self._generations.slot(generation)
        except NotFound as error:
            newest = self._generations.newest()
            there = "none is yet" if newest is None else f"the newest is {newest.generation}"
            raise NotFound(f"there is no generation {generation}: {there}", url=self.url) from error
        if isinstance(found, Stub):
            raise retired(generation, self.url)
        return found

    def generations(self) -> list[int]:
        """List the generations that can be read, ascending."""
        newest = self.newest()
        if newest is None:
            return []
        there = range(newest.floor, newest.generation)
        return [*(one for one in there if self._generations.stub(one) is None), newest.generation]

    def shards(self, generation: int | None = None) -> list[str]:
        """List the URLs of a generation's shards, oldest first; of the newest by default."""
        manifest = self.newest() if generation is None else self.manifest(generation)
        return [self.shard_url(shard.name) for shard in manifest.shards] if manifest else []

    def shard_url(self, name: str) -> str:
        """Give the URL of a shard named in a manifest; absolute if local: the current folder may change."""
        return self.store.path(f"{SHARDS}/{name}") or object_url(self.store.url, f"{SHARDS}/{name}")

    def buffer(self) -> list[SealedShard]:
        """List the write buffer: sealed shards that the newest generation does not cover, by name.

        Lists the store: 10 ms for 1,000 local shards.
        """
        self.require()
        newest = self.newest() or NO_GENERATION
        return sorted(waiting(sealed_shards(self.store, newest.names), newest))

    def rotate(
        self,
        at: int = 0,
        pool_samples: int = 0,
        dry_run: bool = False,
        *,
        max_age_s: float | None = None,
    ) -> Rotation:
        """Promote the write buffer into the next generation, if it holds at least `at` samples.

        The new generation holds all that is promoted and, if that is less than `pool_samples`, the newest
        of the old one's shards until so many are held, none of them sealed more than `max_age_s` ago. Shards
        that cannot be read now wait for the next rotation; those proven bad are set aside and reported.
        Whole samples of writers that died are sealed first. Durable on return.
        """
        if not dry_run:
            self.salvage()
        self._open()
        policy = Policy(at, pool_samples, max_age_s)
        return rotate(self.store, self._generations, self.url, policy, dry_run=dry_run)

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

    def lease(self, generation: int, pin: str | None = None, ttl_s: float | None = None) -> Lease:
        """Make a reader's lease on a generation, to be taken; its pin opens a condemned one, is renewed."""

        def is_open() -> bool:
            opened = self._generations.is_open(generation)
            return opened or (pin is not None and self._put_pin(pin, generation, PIN_DAYS))

        own = None if pin is None else (pin, PIN_DAYS)
        return Lease(self._accounting, generation, is_open, ttl_s, own)

    def pin(
        self,
        name: str,
        generation: int | None = None,
        days: float = PIN_DAYS,
        *,
        but: Collection[int] = (),
    ) -> int:
        """Keep a generation readable for so many days, by default the newest; give its number.

        A pin is a lease with a name that outlives its process. Pinning again begins its time anew; other
        generations lose a pin of that name, `but` for these. NotFound: it is retired, or about to be.
        """
        while True:
            manifest = self.newest() if generation is None else self.manifest(generation)
            if manifest is None:
                raise NotFound("there is no generation yet: run wl-rotate", url=self.url)
            if self._put_pin(name, manifest.generation, days):
                self.unpin(name, but=[manifest.generation, *but])
                return manifest.generation
            if generation is not None:
                raise retired(generation, self.url)

    def unpin(self, name: str, but: Collection[int] = ()) -> list[int]:
        """Release the pins of this name, `but` for these generations; give the generations that had one."""
        held = [note.generation for note in self._accounting.notes() if note.pin == name]
        for generation in held:
            if generation not in but:
                self._accounting.drop(generation, f"{PIN}{name}")
        return held

    def _put_pin(self, name: str, generation: int, days: float) -> bool:
        """Put a pin, then look; one that is live is renewed although the generation is condemned."""
        began, now = clock.elapsed(), self.store.now()
        pins = [note for note in self._accounting.notes(generation) if note.pin == name]
        self._accounting.pin(generation, name, days * 86_400)
        if self._generations.is_open(generation):
            return True
        if pins and clock.elapsed() - began < pins[0].left_s(now):
            return True
        self._accounting.drop(generation, f"{PIN}{name}")
        return False

    def leases(self) -> list[Note]:
        """List the live leases and pins, by generation."""
        self.require()
        now = self.store.now()
        live = (note for note in self._accounting.notes() if note.ttl_s and note.left_s(now) > 0)
        return sorted(live, key=lambda note: (note.generation, note.holder))

    def retire(self, keep: int | None = None) -> Retirement:
        """Retire all but the newest generations, those held by leases and pins excepted; delete their shards.

        keep: how many stay, the newest included; by default what the pool was made with. A generation that
        is held now goes at a later call. Whatever a call leaves undone the next one does, in any process.
        """
        from wlshard.pool.retire import retire

        Policy(keep=keep)
        self._open()
        keep = self.settings["keep"] if keep is None else keep
        return retire(self.store, self._generations, self._accounting, keep)

    def status(self) -> PoolStatus:
        """Give the state of the pool: read pool, write buffer, rates, reuse, age. Lists the store."""
        from wlshard.pool.status import pool_status

        self.require()
        return pool_status(self)

    def served_since(self, newest: Manifest) -> dict[int, int]:
        """Count what all readers were served of each generation from the newest's `floor` on."""
        noted = Counter[int]()
        for note in self._accounting.notes():
            noted[note.generation] += note.served
        served = {}
        for generation in range(newest.floor, newest.generation + 1):
            stub = self._generations.stub(generation)
            served[generation] = noted[generation] if stub is None else stub.served
        return served

    def served(self, generation: int) -> list[Note]:
        """List what the readers of a generation noted."""
        return [note for note in self._accounting.notes(generation) if note.pin is None]

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


def retired(generation: int, url: str) -> NotFound:
    """Say that a generation is no more."""
    advice = "read the newest; to keep one, pin it (wl-rotate --pin NAME) or keep more (wl-rotate --keep K)"
    return NotFound(f"generation {generation} is retired: {advice}", url=url)
