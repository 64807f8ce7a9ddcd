"""What readers note, leases/<generation>/<reader>.json, and pins, pin-<name>.json: one small file each.

A reader's file is its lease and tells what it was served. It is live until the store's clock is `ttl_s` past
its last writing; without a `ttl_s` it is a note only.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from wlshard import clock
from wlshard.errors import AccessDenied, NotFound, UsageError
from wlshard.pool.names import LEASES, SETTINGS, lease_name
from wlshard.store.base import Store

log = logging.getLogger(__name__)

TTL_S = 300.0  # of a lease: what a reader that died still holds, and how long a store may be away
SLACK_S = 2.0  # beyond its end a lease counts as live: what two clocks that go at one speed may differ by
WINDOW_S = 60.0  # over which rates are taken
PIN = "pin-"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Note:
    """What one reader was given of a generation so far, how long it waited for data, and what it holds."""

    generation: int
    holder: str
    served: int
    waited_s: float
    per_s: float  # over the last minute before it was written, by its own clock
    updated: float  # by the store's clock
    ttl_s: float

    @property
    def pin(self) -> str | None:
        """The name of a pin; None: it is a reader's."""
        return self.holder.removeprefix(PIN) if self.holder.startswith(PIN) else None

    def left_s(self, now: float) -> float:
        """Give the seconds of hold left; 0 or less: it holds nothing."""
        return self.updated + self.ttl_s - now if self.ttl_s > 0 else 0.0


def check_pin(name: str) -> None:
    """Raise UsageError unless a pin may have this name."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"a pin's name is made of letters, digits, '_', '-' and '.', not {name!r}")


class Accounting:
    """Reads and writes the notes and leases of a pool."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._marks: dict[tuple[str, int], list[tuple[float, int]]] = {}
        self._refused = False

    def record(
        self,
        reader: str,
        generation: int,
        served: int,
        waited_s: float,
        ttl_s: float = 0.0,
        *,
        seen: bool = False,
    ) -> bool:
        """Replace a reader's note and lease. False, and said once: the store does not let us.

        seen: the caller has just read the manifest, and looks at it again.
        """
        if not _NAME.fullmatch(reader) or reader.startswith(PIN):
            raise UsageError(f"a reader's name is made of letters, digits, '_', '-' and '.', not {reader!r}")
        if self._refused:
            return False
        per_s = self._rate(reader, generation, served)
        note = {"served": served, "waited_s": waited_s, "per_s": per_s, "ttl_s": ttl_s}
        try:
            self._put(generation, reader, note, seen=seen)
        except (AccessDenied, NotFound) as error:
            self._refused = True
            log.warning(
                "this pool cannot be written by us: what is read may be retired meanwhile, and what is "
                "served is not counted: %s",
                error,
            )
            return False
        return True

    def _rate(self, reader: str, generation: int, served: int) -> float:
        now = clock.monotonic()
        marks = self._marks.pop((reader, generation), [])
        self._marks = {key: kept for key, kept in self._marks.items() if key[1] >= generation - 1}
        self._marks[reader, generation] = marks
        marks.append((now, served))
        while len(marks) > 2 and marks[1][0] <= now - WINDOW_S:
            marks.pop(0)
        began, had = marks[0]
        return (served - had) / (now - began) if now > began else 0.0

    def pin(self, generation: int, name: str, ttl_s: float) -> None:
        """Put a pin on a generation, or write it anew."""
        check_pin(name)
        self._put(generation, f"{PIN}{name}", {"ttl_s": ttl_s})

    def _put(self, generation: int, holder: str, note: dict[str, float], *, seen: bool = False) -> None:
        if self._store.can.local or not seen:
            self._store.stat(SETTINGS)  # or a folder that is no pool any more would be filled
        self._store.put(lease_name(generation, holder), json.dumps(note).encode() + b"\n")

    def drop(self, generation: int, holder: str) -> None:
        """Delete a note, with the hold that it is."""
        self._store.delete(lease_name(generation, holder))

    def notes(self, generation: int | None = None) -> Iterator[Note]:
        """Read all notes on a generation, or on all. What we may not read counts as a hold without end."""
        prefix = f"{LEASES}/" if generation is None else lease_name(generation)
        for entry in self._store.list(prefix):
            folder, _, holder = entry.name.removeprefix(f"{LEASES}/").partition("/")
            if not holder.endswith(".json") or not folder.isdecimal():
                continue
            of, holder = int(folder), holder.removesuffix(".json")
            try:
                note = json.loads(self._store.read(entry.name))
                numbers = (float(note.get(name, 0)) for name in ("waited_s", "per_s", "ttl_s"))
                served, (waited_s, per_s, ttl_s) = int(note.get("served", 0)), numbers
            except NotFound:
                continue
            except AccessDenied:
                served, waited_s, per_s, ttl_s = 0, 0.0, 0.0, math.inf
            except (ValueError, AttributeError, TypeError):
                served, waited_s, per_s, ttl_s = 0, 0.0, 0.0, TTL_S
            yield Note(of, holder, served, waited_s, per_s, entry.mtime, ttl_s)

    def holds(self, generation: int) -> list[Note]:
        """List the live leases and pins on a generation, by the store's clock."""
        now = self._store.now()
        return [note for note in self.notes(generation) if note.ttl_s and note.left_s(now) >= -SLACK_S]
