"""What must be true of a pool at any moment, whoever died; by tarfile and hashlib, not with our readers."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from wlshard.errors import WlshardError
from wlshard.pool.manifest import Manifest, Stub, parse_slot
from wlshard.pool.names import ShardName

parse = lru_cache(maxsize=1000)(parse_slot)
SLOT = re.compile(r"generations/[0-9]{10}\.json")
_keys: dict[str, list[str]] = {}  # of tars looked at before, by their sha256


@dataclass
class Seen:
    """A pool as it lies on the disk, and what is wrong with it."""

    slots: list = field(default_factory=list)  # a Manifest or a Stub each, by generation
    shards: dict[str, list[str]] = field(default_factory=dict)  # visible shard → keys in it
    indexed: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    @property
    def manifests(self) -> list[Manifest]:
        return [slot for slot in self.slots if isinstance(slot, Manifest)]

    @property
    def stubs(self) -> list[Stub]:
        return [slot for slot in self.slots if isinstance(slot, Stub)]

    @property
    def waiting(self) -> list[str]:
        """The write buffer."""
        return [name for name in self.shards if not self.covers(name)]

    @property
    def unswept(self) -> list[str]:
        """Shards that the newest generation covers and none names."""
        named = {shard.name for manifest in self.manifests for shard in manifest.shards}
        return [name for name in self.shards if name not in named and self.covers(name)]

    def covers(self, name: str) -> bool:
        return bool(self.manifests) and self.manifests[-1].covers(ShardName.parse(name))

    @property
    def promoted(self) -> list[str]:
        """Shards by the manifests that promoted them, as far as these can be read."""
        return [name for name, _ in self.promotions]

    @property
    def promotions(self) -> list[tuple[str, int]]:
        return [(s.name, s.promoted) for m in self.manifests for s in m.shards if s.promoted == m.generation]

    def keys(self, names: Iterable[str]) -> list[str]:
        return [key for name in names for key in self.shards.get(name, ())]


def look(objects: Mapping[str, bytes], acknowledged: Iterable[str] = ()) -> Seen:
    """Look at a pool's objects, by name, and at what its users were told.

    That is `created`, `sealed SHARD`, `schema` (it is fixed), `rotated N DIGEST`, `retired N`, `pinned N`,
    `unpinning N`; and, noted before generation N was retired, `promoted SHARD N`.
    """
    seen = Seen()
    told = [what.split(" ") for what in acknowledged]
    if "wlshard.json" not in objects:
        if told:
            seen.faults.append("I8: the pool is gone")
        return seen
    _look_at_shards(seen, objects)
    _look_at_slots(seen, objects)
    for manifest in seen.manifests:
        _look_at_manifest(seen, manifest)
    _look_at_promotions(seen)
    before = {words[0]: int(words[1]) for what, *words in told if what == "promoted"}
    for manifest in seen.manifests:
        again = [s.name for s in manifest.shards if before.get(s.name, s.promoted) != s.promoted]
        seen.faults += [f"I2: {name} was promoted twice" for name in again]
    for what, *words in told:
        if what == "rotated":
            number, digest = int(words[0]), words[1]
            if number >= len(seen.slots) or seen.slots[number].digest != digest:
                seen.faults.append(f"I3: generation {number} was acknowledged and is not what it was")
        elif what == "sealed" and words[0] not in before:
            _look_at_sealed(seen, words[0])
        elif what == "schema" and not objects.get("schema.json", b"").endswith(b"}\n"):
            seen.faults.append("what samples are like was fixed and is forgotten")
        elif what == "retired" and seen.slots[int(words[0])] not in seen.stubs:
            seen.faults.append(f"I11: generation {words[0]} came back")
        elif what == "pinned" and ["unpinning", *words] not in told:
            held = seen.slots[int(words[0])] not in seen.stubs
            seen.faults += [] if held else [f"I4: generation {words[0]} is pinned and was retired"]
    return seen


def _look_at_shards(seen: Seen, objects: Mapping[str, bytes]) -> None:
    for path in objects:
        name = path.removeprefix("shards/")
        parsed = ShardName.parse(name) if name != path else None
        if parsed is None:
            continue
        digest, keys = keys_of(objects[path])
        if digest[:32] != parsed.sha256:
            seen.faults.append(f"I1: {name} is visible and not whole")
            continue
        if len(keys) != parsed.samples:
            seen.faults.append(f"I1: {name} holds {len(keys)} samples")
        seen.shards[name] = keys
        index = objects.get(f"shards/{name.removesuffix('.tar')}.idx")
        if index is not None:
            lines = index.decode().splitlines()
            if lines[:1] != [f"v1.2 {parsed.samples}"] or len(lines) != parsed.samples + 1:
                seen.faults.append(f"I1: the index of {name} is not whole")
            seen.indexed.add(name)


def keys_of(data: bytes) -> tuple[str, list[str]]:
    """Give the sha256 of a tar, in hex, and its keys."""
    digest = hashlib.sha256(data).hexdigest()
    if digest not in _keys:
        if len(_keys) >= 1000:
            _keys.clear()
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                _keys[digest] = list(dict.fromkeys(member.name.split(".")[0] for member in tar))
        except tarfile.TarError:
            _keys[digest] = []
    return digest, _keys[digest]


def _look_at_slots(seen: Seen, objects: Mapping[str, bytes]) -> None:
    for number, name in enumerate(sorted(filter(SLOT.fullmatch, objects))):
        if int(name[-15:-5]) != number:
            seen.faults.append(f"I3: generation {number} is missing")
            return
        try:
            slot = parse(objects[name], name)
        except WlshardError as error:
            seen.faults.append(f"I3: slot {number} is not whole: {error}")
            return
        parent = seen.slots[-1].digest if seen.slots else None
        if isinstance(slot, Manifest) and slot.parent != parent:
            seen.faults.append(f"I3: generation {number} does not follow the one before it")
        seen.slots.append(slot)


def _look_at_manifest(seen: Seen, manifest: Manifest) -> None:
    for shard in manifest.shards:
        if shard.name not in seen.shards:
            seen.faults.append(f"I1: generation {manifest.generation} names {shard.name}, which is not there")


def _look_at_promotions(seen: Seen) -> None:
    twice = [name for name, count in Counter(seen.promoted).items() if count > 1]
    again = [key for key, count in Counter(seen.keys(set(seen.promoted))).items() if count > 1]
    seen.faults += [f"I2: {name} was promoted twice" for name in twice]
    seen.faults += [f"I2: sample {key} was promoted twice" for key in again]


def _look_at_sealed(seen: Seen, name: str) -> None:
    if seen.covers(name):
        if not seen.stubs and name not in seen.promoted:  # else what is a stub now may have promoted it
            seen.faults.append(f"I2: {name} is covered and was never promoted")
    elif name not in seen.shards:
        seen.faults.append(f"I2: {name} was acknowledged and is lost")
    if name in seen.shards and name not in {*seen.indexed, *seen.unswept}:
        # Before that a loss of power may take it, where a folder's names reach the disk in any order.
        seen.faults.append(f"I1: {name} was acknowledged and has no index")
