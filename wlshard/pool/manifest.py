"""A manifest: the immutable list of a generation's shards, and what it covers of the write buffer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from wlshard.errors import StoreUnavailable, UsageError
from wlshard.pool.names import ShardName, samples_in, writer_of

FORMAT = 1
STUB_BYTES = 1024  # what is larger is no stub


class PoolShard(NamedTuple):
    """A shard of the read pool; `promoted` is the generation that promoted it."""

    name: str
    bytes: int
    samples: int
    promoted: int

    @property
    def writer(self) -> str:
        return writer_of(self.name)


class Watermark(NamedTuple):
    """What was taken of a writer: all up to `last` but the numbers in `missing`.

    gone: since when, by the store's clock, none of its shards is there. None: one was, at the last rotation.
    """

    last: int
    missing: frozenset[int] = frozenset()
    gone: float | None = None

    def covers(self, seq: int) -> bool:
        return seq <= self.last and seq not in self.missing


Watermarks: TypeAlias = Mapping[str, Watermark]
NOTHING = Watermark(0)


class Quarantined(NamedTuple):
    """A shard whose content is proven bad: covered, never promoted, never moved."""

    shard: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """A generation. `parent`: digest of the manifest before it; `txn`: the one commit that made it.

    `shards`: oldest first, by the generation that promoted them and by name.
    """

    generation: int
    parent: str | None
    txn: str
    shards: tuple[PoolShard, ...] = ()
    watermarks: Watermarks = field(default_factory=dict)
    quarantined: tuple[Quarantined, ...] = ()
    stats: Mapping[str, Any] = field(default_factory=dict)
    floor: int = 0  # all generations below it are stubs
    created: float = 0.0  # seconds since the epoch, by the clock of who committed it
    digest: str = ""  # sha256 of the manifest's bytes, hex; known once it is encoded

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def names(self) -> set[str]:
        """Of its shards; made anew at each call."""
        return {shard.name for shard in self.shards}

    def covers(self, name: ShardName) -> bool:
        """Tell whether a sealed shard has left the write buffer."""
        return self.watermarks.get(name.writer, NOTHING).covers(name.seq)

    def encode(self) -> bytes:
        """Give the bytes of the manifest's slot."""
        content = {
            "format": FORMAT,
            "generation": self.generation,
            "parent": self.parent,
            "txn": self.txn,
            "created": self.created,
            "floor": self.floor,
            "shards": self.shards,
            "watermarks": {
                writer: [mark.last, sorted(mark.missing), *([] if mark.gone is None else [mark.gone])]
                for writer, mark in sorted(self.watermarks.items())
            },
            "quarantined": self.quarantined,
            "stats": self.stats,
        }
        return json.dumps(content, separators=(",", ":")).encode() + b"\n"


NO_GENERATION = Manifest(-1, None, "")  # what there is before generation 0


@dataclass(frozen=True)
class Stub:
    """What is left in the slot of a retired generation, for ever: no slot is vacated."""

    generation: int
    digest: str  # of the manifest that was there
    txn: str
    served: int = 0  # samples that its readers were given in all

    def encode(self) -> bytes:
        """Give the bytes of the slot, the same whoever retires the generation."""
        return json.dumps({"format": FORMAT, **vars(self)}, separators=(",", ":")).encode() + b"\n"


def parse_slot(data: bytes, url: str) -> Manifest | Stub:
    """Read what a slot holds, as strictly as `parse_manifest`."""
    if len(data) <= STUB_BYTES and "digest" in (content := parse_object(data, url)):
        try:
            generation, served = _count(content["generation"]), _count(content["served"])
            return Stub(generation, _text(content["digest"]), _text(content["txn"]), served)
        except (KeyError, ValueError) as error:
            raise _damaged(url, f"{type(error).__name__}: {error}") from error
    return parse_manifest(data, url)


def parse_manifest(data: bytes, url: str) -> Manifest:
    """Read a manifest strictly. StoreUnavailable: damaged; UsageError: of a later format than ours."""
    content = parse_object(data, url)
    try:
        generation, parent, txn = _count(content["generation"]), content["parent"], _text(content["txn"])
        shards = tuple(_shard(entry, generation) for entry in content["shards"])
        marks = {
            writer: Watermark(_count(last), frozenset(map(_count, missing)), *map(float, gone))
            for writer, (last, missing, *gone) in content["watermarks"].items()
        }
        quarantined = tuple(Quarantined(_text(name), _text(why)) for name, why in content["quarantined"])
        stats, created = dict(content["stats"]), float(content["created"])
        floor = _count(content["floor"])
        if (parent is None) != (generation == 0):
            raise ValueError("only generation 0 has no parent")
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(url, f"{type(error).__name__}: {error}") from error
    digest = digest_of(data)
    return Manifest(generation, parent, txn, shards, marks, quarantined, stats, floor, created, digest)


def digest_of(data: bytes) -> str:
    """Give the digest of a manifest's bytes."""
    return hashlib.sha256(data).hexdigest()


def parse_object(data: bytes, url: str) -> dict[str, Any]:
    """Read one JSON object with a `format` that we know."""
    try:
        content = json.loads(data)
        known = _count(content["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(url, f"{type(error).__name__}: {error}") from error
    if known > FORMAT:
        raise UsageError(f"format {known} is of a later wlshard than this one: update it", url=url)
    return dict(content)


def _shard(entry: Any, generation: int) -> PoolShard:
    name, size, samples, promoted = entry
    if samples_in(name) != samples or not 0 < _count(promoted) <= generation:
        raise ValueError(f"{entry!r} is no shard of generation {generation}")
    return PoolShard(name, _count(size), samples, promoted)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r} is no text")
    return value


def _damaged(url: str, why: str) -> StoreUnavailable:
    return StoreUnavailable(f"damaged ({why}): restore this file from a backup of the pool", url=url)
