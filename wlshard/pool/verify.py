"""Every fault of a pool: shards against name, manifest and index, the chain of manifests; leftovers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from wlshard.errors import NotFound, UsageError, WlshardError
from wlshard.pool.manifest import NO_GENERATION, Manifest, PoolShard, parse_slot
from wlshard.pool.names import GENERATIONS, SHARDS, ShardName, manifest_name
from wlshard.pool.pool import Pool
from wlshard.shards.verify import AWAY, Findings, Look, Meter, Progress, Verification, verify_shard
from wlshard.store.base import object_url
from wlshard.tar.index import index_name
from wlshard.tar.tape import MAX_MEMBER_BYTES

_SLOT = re.compile(rf"{GENERATIONS}/([0-9]{{10}})\.json")


@dataclass
class _Chain:
    """What the manifests say: the shards that any of them names, or sets aside with a reason.

    `newest`: None if the last is damaged.
    """

    shards: dict[str, PoolShard] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)
    newest: Manifest | None = None


def verify_pool(
    pool: Pool,
    generation: int | None = None,
    *,
    look: Look | None = None,
    progress: Progress | None = None,
    max_member_bytes: int = MAX_MEMBER_BYTES,
) -> Verification:
    """Read once all shards that a manifest names and those of the write buffer; list all that is wrong.

    With a generation: its shards alone, its manifest and the one before it. The pool may be in use meanwhile.
    look: as for `verify`, of the newest generation; of the write buffer before there is one. Lists the store;
    holds some 300 bytes a shard.
    """
    pool.require()
    found, result = Findings(pool.url), Verification()
    chain = _chain(pool, found, generation)
    result.take(found)
    newest = chain.newest or NO_GENERATION
    listed = {each.name[len(SHARDS) + 1 :]: each.bytes for each in pool.store.list(f"{SHARDS}/")}
    waiting = dict[str, PoolShard]()
    for name in sorted(listed) if generation is None else ():
        parsed = ShardName.parse(name)
        if parsed is not None and name not in chain.quarantined and not newest.covers(parsed):
            waiting[name] = PoolShard(name, listed[name], parsed.samples, 0)
    shown = {shard.name for shard in newest.shards} or set(waiting)
    wanted = sorted((chain.shards | waiting).values(), key=lambda shard: shard.name not in shown)
    meter = Meter(progress, [shard.bytes for shard in wanted])
    for shard in wanted:
        found = Findings(pool.shard_url(shard.name))
        try:
            _verify_shard(found, shard, look if shard.name in shown else None, meter, max_member_bytes)
        except NotFound as error:
            if generation is None and shard.name not in _chain(pool, Findings(pool.url), None).shards:
                continue  # retired since
            found.fault(error)
        result.take(found)
    if generation is None:
        result.quarantined = [{"shard": name, "reason": why} for name, why in chain.quarantined.items()]
        result.leftovers = _leftovers(pool, set(listed), {*chain.shards, *waiting, *chain.quarantined})
    return result


def _verify_shard(
    found: Findings, shard: PoolShard, look: Look | None, meter: Meter, max_member_bytes: int
) -> None:
    try:
        read = verify_shard(
            found.url, found, look=look, meter=meter, sha256=True, max_member_bytes=max_member_bytes
        )
    except NotFound:
        raise
    except AWAY as error:
        found.fault(error)
        return
    name = ShardName.parse(shard.name)
    assert name is not None, "manifests and listings hold no others"
    if read.sha256 and not read.sha256.startswith(name.sha256):
        _tell(found, "name", f"its sha256 begins with {read.sha256[:32]}: other bytes than were sealed")
    if found.samples != shard.samples:
        _tell(found, "name", f"{found.samples} whole samples were found, {shard.samples} by its name")
    if read.sha256 and read.bytes != shard.bytes:
        _tell(
            found, "manifest", f"{read.bytes} bytes were read, {shard.bytes} by its manifest or the listing"
        )


def _chain(pool: Pool, found: Findings, generation: int | None) -> _Chain:
    """Read the manifests, each of which must follow the one before it."""
    chain, before = _Chain(), None
    slots = (_SLOT.fullmatch(entry.name) for entry in pool.store.list(f"{GENERATIONS}/"))
    numbers = sorted(int(slot[1]) for slot in slots if slot)
    if generation is not None:
        numbers = [number for number in numbers if generation - 1 <= number <= generation]
    for place, number in enumerate(numbers):
        url = object_url(pool.store.url, manifest_name(number))
        if number != (numbers[place - 1] + 1 if place else number if generation else 0):
            _tell(found, "manifest", "the generation before it is missing: restore it from a backup", url)
            before = None
        try:
            slot = parse_slot(pool.store.read(manifest_name(number)), url)
        except (*AWAY, UsageError) as error:
            found.fault(error, "manifest")
            before = chain.newest = None
            continue
        chain.newest = slot if isinstance(slot, Manifest) else None
        if slot.generation != number:
            _tell(found, "manifest", f"it is of generation {slot.generation}", url)
        if isinstance(slot, Manifest):
            if before is not None and slot.parent != before:
                _tell(found, "manifest", "it does not follow the manifest before it", url)
            if generation in (None, number):
                _name(chain, found, slot, url)
        before = slot.digest
    return chain


def _name(chain: _Chain, found: Findings, manifest: Manifest, url: str) -> None:
    chain.quarantined |= dict(manifest.quarantined)
    for shard in manifest.shards:
        if chain.shards.setdefault(shard.name, shard) != shard:
            _tell(found, "manifest", f"it says of {shard.name} what an earlier manifest does not", url)


def _leftovers(pool: Pool, names: set[str], needed: set[str]) -> list[str]:
    """List what nothing needs: scratch of dead writers, indexes without a shard, shards that no generation
    names any more, names that are none of ours."""
    store, left = pool.store, list[str]()
    indexes = {index_name(shard) for shard in names if ShardName.parse(shard)}
    for name in names - needed - indexes:
        if not (name.endswith(".idx") and _is_there(pool, f"{SHARDS}/{name[:-4]}.tar")):  # sealed since
            left.append(f"{SHARDS}/{name}")
    left += [entry.name for entry in store.list(f"{GENERATIONS}/") if not _SLOT.fullmatch(entry.name)]
    return sorted([*left, *(f"{entry.name}.partial" for entry in store.drafts())])


def _is_there(pool: Pool, name: str) -> bool:
    try:
        pool.store.stat(name)
    except NotFound:
        return False
    return True


def _tell(found: Findings, kind: str, what: str, url: str | None = None) -> None:
    found.fault(WlshardError(what, url=url), kind)
