"""What the samples of a pool are like: fields, types, shapes. Its first shard decides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from wlshard.errors import GroupingError, NotFound
from wlshard.pool.manifest import FORMAT, parse_object
from wlshard.sample import KEY, Sample
from wlshard.store.base import Store, object_url

SCHEMA = "schema.json"
BYTES = "bytes"
PLAIN = frozenset((bytes, str, int, float))  # types whose values all are one kind
SEEN = 1000  # kinds of values remembered, so that each is looked at once


class Field(NamedTuple):
    """A field's values. type: a dtype, or Python's word, None for any; shape: None in it is any size."""

    type: str | None
    shape: tuple[int | None, ...] | None = None
    optional: bool = False

    def takes(self, other: Field) -> bool:
        """Tell whether such values may stand here. Bytes may hold anything, and so may stand for all."""
        if self.type in (None, BYTES) or other.type == BYTES:
            return True
        mine, theirs = self.shape or (), other.shape or ()
        same = self.type == other.type and len(mine) == len(theirs)
        return same and all(size in (None, there) for size, there in zip(mine, theirs, strict=True))

    def joined(self, other: Field) -> Field:
        """Give what takes both."""
        mine, theirs = self.shape or (), other.shape or ()
        if self.type != other.type or len(mine) != len(theirs):
            return Field(None, None, self.optional)
        sizes = tuple(size if size == there else None for size, there in zip(mine, theirs, strict=True))
        return self._replace(shape=self.shape and sizes)

    def __str__(self) -> str:
        shape = "" if self.shape is None else "×".join("?" if n is None else str(n) for n in self.shape)
        return f"{self.type or 'any'}{' ' * bool(shape)}{shape}{'?' * self.optional}"


def field_of(value: Any) -> Field:
    """Say what a value is. Scalars of libraries are Python's, all that holds bytes is bytes."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is not None and shape is not None:
        if len(shape):
            return Field(str(dtype), tuple(shape))
        value = value.item()
    return Field(BYTES if isinstance(value, bytes | bytearray | memoryview) else type(value).__name__)


class Schema:
    """The fields of a pool's samples: of its schema.json if `fixed`, else of the samples taken so far."""

    def __init__(self, fields: Mapping[str, Field] | None = None) -> None:
        self.fixed = fields is not None
        self.fields = dict(fields or {})
        self._seen: set[Any] = set()
        self._plain = set[Any]()  # fields and types of whole samples that are taken
        self._empty = True
        self._require()

    def _require(self) -> None:
        self._required = frozenset(name for name, field in self.fields.items() if not field.optional)

    def take(self, sample: Sample) -> None:
        """Take a sample's fields, or compare them. GroupingError: they are not like those of the pool."""
        kinds = (*sample, *map(type, sample.values()))
        if kinds in self._plain:
            return
        for name, value in sample.items():
            mark = name, type(value), getattr(value, "dtype", None), getattr(value, "shape", None)
            if mark not in self._seen and not name.startswith("__"):
                self._take(name, value, sample)
                if len(self._seen) >= SEEN:
                    self._seen.clear()
                self._seen.add(mark)
        if not self._required <= sample.keys():
            missing = self._required - sample.keys()
            if self.fixed:
                raise self.refused(sample)
            for name in missing:
                self.fields[name] = self.fields[name]._replace(optional=True)
            self._require()
        self._empty = False
        if PLAIN.issuperset(kinds[len(sample) :]) and len(self._plain) < SEEN:
            self._plain.add(kinds)

    def _take(self, name: str, value: Any, sample: Sample) -> None:
        field, known = field_of(value), self.fields.get(name)
        if self.fixed:
            if known is None or not known.takes(field):
                raise self.refused(sample)
        elif known is None:
            self.fields[name] = field._replace(optional=not self._empty)
            self._require()
        else:
            self.fields[name] = known.joined(field)

    def takes(self, other: Schema) -> bool:
        """Tell whether all samples of another schema fit this one."""
        return self._required <= other._required and all(
            name in self.fields and self.fields[name].takes(field) for name, field in other.fields.items()
        )

    def refused(self, sample: Sample) -> GroupingError:
        """Say how a sample differs."""
        other = {name: field_of(value) for name, value in sample.items() if not name.startswith("__")}
        return difference(self, Schema(other), sample.get(KEY))

    def encode(self) -> bytes:
        content = {name: field._asdict() for name, field in sorted(self.fields.items())}
        return json.dumps({"format": FORMAT, "fields": content}, indent=1).encode() + b"\n"

    def __str__(self) -> str:
        return "{" + ", ".join(f"{name}: {field}" for name, field in sorted(self.fields.items())) + "}"


def difference(pool: Schema, other: Schema, key: str | None = None) -> GroupingError:
    """Say that samples are not as the pool's are, showing both."""
    return GroupingError(
        f"not like the samples in this pool: here {other}, there {pool}; mend the generator, take another "
        "pool, or let anything in (--schema any)",
        key=key,
    )


def read_schema(store: Store) -> Schema:
    """Read a pool's schema; one that takes anything in, and learns, where it has none yet."""
    try:
        content = parse_object(store.read(SCHEMA), object_url(store.url, SCHEMA))
    except NotFound:
        return Schema()
    return Schema(
        {
            name: Field(about["type"], about["shape"] and tuple(about["shape"]), about["optional"])
            for name, about in content["fields"].items()
        }
    )


def fix_schema(store: Store, learnt: Schema) -> Schema:
    """Make what was learnt the pool's schema, unless it has one; give it. GroupingError: that is another."""
    if learnt.fixed:
        return learnt
    store.create(SCHEMA, learnt.encode())
    store.sync("")  # though another has made it: that one may have died before this
    schema = read_schema(store)
    if not schema.takes(learnt):
        raise difference(schema, learnt)
    return schema
