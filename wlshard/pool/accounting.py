"""What readers note about themselves: leases/<generation>/<reader>.json, one small file each."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass

from wlshard import clock
from wlshard.errors import AccessDenied, NotFound, StoreUnavailable, UsageError
from wlshard.pool.names import LEASES, SETTINGS
from wlshard.store.base import Store

log = logging.getLogger(__name__)

_READER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Served:
    """What one reader was given of a generation so far, and how long it waited for data."""

    reader: str
    served: int
    waited_s: float
    per_s: float  # from its first note to its last, by its own clock
    updated: float  # by the store's clock


class Accounting:
    """Reads and writes the notes of a pool's readers."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._first: dict[tuple[str, int], tuple[float, int]] = {}
        self._refused = False

    def record(self, reader: str, generation: int, served: int, waited_s: float) -> bool:
        """Replace a reader's note. False, and said once: the store does not let us."""
        if not _READER.fullmatch(reader):
            raise UsageError(f"a reader's name is made of letters, digits, '_', '-' and '.', not {reader!r}")
        if self._refused:
            return False
        now = clock.monotonic()
        began, had = self._first.setdefault((reader, generation), (now, served))
        per_s = (served - had) / (now - began) if now > began else 0.0
        note = {"served": served, "waited_s": waited_s, "per_s": per_s}
        try:
            self._store.stat(SETTINGS)  # or a folder that is no pool any more would be filled
            self._store.put(f"{_folder(generation)}{reader}.json", json.dumps(note).encode() + b"\n")
        except (AccessDenied, NotFound) as error:
            self._refused = True
            log.warning("what is served is not counted, this pool cannot be written by us: %s", error)
            return False
        return True

    def served(self, generation: int) -> list[Served]:
        """Read all notes on a generation. One that is half gone or damaged does not count."""
        notes = []
        for entry in self._store.list(_folder(generation)):
            if not entry.name.endswith(".json"):
                continue
            try:
                note = json.loads(self._store.read(entry.name))
                numbers = int(note["served"]), float(note["waited_s"]), float(note["per_s"])
            except (NotFound, StoreUnavailable, ValueError, KeyError, TypeError):
                continue
            reader = entry.name.removeprefix(_folder(generation)).removesuffix(".json")
            notes.append(Served(reader, *numbers, entry.mtime))
        return notes


def _folder(generation: int) -> str:
    return f"{LEASES}/{generation:010d}/"
