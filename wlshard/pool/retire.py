"""Retire old generations, then sweep: delete what no generation that can be read names any more.

Any number of processes may do so at once, and die at any step: each finishes what others left.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

from wlshard.errors import NotFound
from wlshard.pool.accounting import Accounting
from wlshard.pool.generations import Generations
from wlshard.pool.manifest import Manifest, Stub
from wlshard.pool.names import (
    CHOICES,
    CONDEMNED,
    SHARDS,
    ShardName,
    condemned_name,
    lease_name,
    manifest_name,
)
from wlshard.pool.salvage import STALE_S
from wlshard.store.base import Entry, Store
from wlshard.tar.index import index_name

log = logging.getLogger(__name__)


class Retirement(NamedTuple):
    """What was retired, what is `held` by whom, what was deleted; orphans: all but shards."""

    retired: list[int]
    held: dict[int, list[str]]
    shards: int
    bytes: int
    orphans: int

    def as_json(self) -> dict[str, Any]:
        """Give what `wl-rotate --json` prints as `retired`."""
        return {**self._asdict(), "held": {str(number): names for number, names in self.held.items()}}


def retire(store: Store, generations: Generations, accounts: Accounting, keep: int) -> Retirement:
    """Retire all but the newest `keep` generations, those that are held excepted; then sweep."""
    newest = generations.newest()
    assert newest is not None, "the pool is opened before"
    retired, held = list[int](), dict[int, list[str]]()
    floor = newest.floor + len(generations.stubs(newest))
    for generation in range(floor, newest.generation - keep + 1):
        if generations.stub(generation) is None:
            holders = _retire(store, generations, accounts, generation)
            if holders:
                held[generation] = holders
            else:
                retired.append(generation)
    return Retirement(retired, held, *_sweep(store, generations.slots(floor)))


def _retire(store: Store, generations: Generations, accounts: Accounting, generation: int) -> list[str]:
    """Turn a generation into a stub; else give who holds it."""
    if held := accounts.holds(generation):
        return [note.holder for note in held]
    # From here on nobody takes it up. Who did so before has a lease, and had it before this.
    store.create(condemned_name(generation), b"{}\n")
    store.sync(CONDEMNED)
    if held := accounts.holds(generation):
        return [note.holder for note in held]
    served = sum(note.served for note in accounts.notes(generation))
    manifest = generations.slot(generation)
    if isinstance(manifest, Manifest):  # or another was faster, and may have deleted notes
        stub = Stub(generation, manifest.digest, manifest.txn, served)
        store.put(manifest_name(generation), stub.encode())
    for entry in list(store.list(lease_name(generation))):
        store.delete(entry.name)
    return []


def _sweep(store: Store, slots: Iterable[Manifest | Stub]) -> tuple[int, int, int]:
    """Delete the shards that the newest manifest covers and none names; first all manifests are read.

    The write buffer is not covered, so it stays; bad shards stay where they are, too, for their owner to see.
    """
    named, newest = set[str](), None
    for slot in slots:
        if isinstance(slot, Manifest):
            newest = slot
            named |= slot.names
            named.update(bad.shard for bad in slot.quarantined)
    if newest is None:
        raise NotFound("this pool was deleted meanwhile", url=store.url)
    left = list(store.list(f"{CHOICES}/"))  # and indexes without a shard
    skip = len(SHARDS) + 1
    named.update([index_name(tar) for tar in named])
    listed = {entry.name[skip:]: entry for entry in store.list(f"{SHARDS}/", but=named)}
    shards = size = 0
    for name, entry in listed.items():
        tar = f"{name[:-4]}.tar" if name.endswith(".idx") else name
        parsed = ShardName.parse(tar)
        if parsed is None or (tar != name and tar in listed):
            continue
        if not newest.covers(parsed):
            left += [entry] if tar != name else []
            continue
        store.delete(entry.name)
        if tar == name:
            store.delete(index_name(entry.name))
            shards, size = shards + 1, size + entry.bytes
    return shards, size, _clean(store, left)


def _clean(store: Store, entries: list[Entry]) -> int:
    """Delete entries, indexes whose shard never came and choices, and drafts of puts that died, if old."""
    drafts = [entry for entry in store.drafts() if "/." in f"/{entry.name}"]
    if not entries and not drafts:
        return 0
    old = store.now() - STALE_S
    orphans = [(store.delete, entry.name) for entry in entries if entry.mtime < old]
    orphans += [(store.drop, entry.name) for entry in drafts if entry.mtime < old]
    for delete, name in orphans:
        delete(name)
    return len(orphans)
