"""The resume point: a few integers, the same on every rank, that name the next global batch and its order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from wlshard.errors import CursorMismatch
from wlshard.stream.order import Shape

VERSION = 1


@dataclass(frozen=True, slots=True)
class Cursor:
    """What `Loader.state_dict()` holds. Before anything was read, digest, lanes, window and strips are None.

    `next_batch` is i₀, the first global batch not given out; `taken` counts the batches that the running
    `iter()` has given (it matters with `batches=`). With `select=`, `given` samples of batch i₀ were given,
    and on several ranks the cursor is of one `place`: rank/world. `last` is the generation begun
    last, in epoch `since` for the first time.
    """

    generation: int | None
    digest: str | None
    seed: int
    epoch: int
    batch_size: int
    lanes: int | None
    window: int | None
    strips: int | None
    next_batch: int
    taken: int
    per_sample: int = 1
    given: int = 0
    place: str | None = None
    last: int | None = None
    since: int = 0

    def as_json(self) -> dict[str, Any]:
        """Give the cursor as an object of strings, integers and nulls."""
        return {"version": VERSION, **asdict(self)}

    def check(self, **present: object) -> None:
        """Raise CursorMismatch if one of these values is not the cursor's; None in the cursor fits all."""
        for name, value in present.items():
            saved = getattr(self, name)
            if saved is not None and saved != value:
                advice = "resume with the same data and the same arguments"
                if name == "place":
                    advice = "with select= each of as many ranks as before resumes from the state it saved"
                raise CursorMismatch(
                    f"the cursor was saved with {name}={saved}, here it is {value}: {advice}, or begin anew "
                    "without load_state_dict"
                )

    def shape(self, wanted: Shape, *, lanes_free: bool) -> Shape:
        """Give the order to resume: what this loader wants, with the cursor's number of lanes.

        Lanes follow from the world size at the start of the job, which may change (`lanes_free`).
        """
        self.check(window=wanted.window, strips=wanted.strips)
        if self.lanes is None:
            return wanted
        if not (lanes_free and self.lanes and wanted.lanes):
            self.check(lanes=wanted.lanes)
        return replace(wanted, lanes=self.lanes)


def parse_cursor(state: Mapping[str, Any]) -> Cursor:
    """Read what `as_json` gave. Errors: CursorMismatch naming what is missing or of another version."""
    if not isinstance(state, Mapping) or state.get("version") != VERSION:
        raise CursorMismatch(f"this is no state_dict of a Loader of version {VERSION}: {str(state)[:200]}")
    names = [field.name for field in fields(Cursor)]
    wrong = [name for name in names if name not in state or not _fits(name, state[name])]
    if wrong:
        raise CursorMismatch(f"the state_dict has no valid {', '.join(wrong)}: {str(state)[:200]}")
    return Cursor(**{name: state[name] for name in names})


def _fits(name: str, value: object) -> bool:
    if value is None:
        return name in ("generation", "digest", "lanes", "window", "strips", "place", "last")
    if name in ("digest", "place"):
        return isinstance(value, str)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and (name == "seed" or int(str(value)) >= 0)
