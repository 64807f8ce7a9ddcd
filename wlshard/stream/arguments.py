"""What a caller may pass: checked at once, so that a slip is told where it was made and not hours later."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from wlshard.errors import UsageError
from wlshard.place import Place, dataloader_worker


def whole(name: str, value: object, least: int | None = None) -> int:
    """Give an integer (numpy's too) as Python's own, which a cursor can hold as JSON. UsageError."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or (least is not None and number < least):
        wanted = "a whole number" if least is None else f"a whole number of {least} or more"
        raise UsageError(f"{name}={value!r}: give {wanted}")
    return number


def count_or_none(name: str, value: object) -> int | None:
    """Give a number of 1 or more, or None."""
    return None if value is None else whole(name, value, 1)


def seconds(name: str, value: object) -> float:
    """Give a time of 0 s or more. UsageError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise UsageError(f"{name}={value!r}: give seconds, 0 or more")
    return value


def only_one(epochs: object, batches: object) -> None:
    """Raise UsageError if both are given."""
    if epochs is not None and batches is not None:
        raise UsageError("epochs= and batches= both say when an iter() ends: give one of them")


def undivided(**lengths: object) -> None:
    """Raise UsageError for what says how long an `iter()` is, in a worker of a torch DataLoader."""
    given = [f"{name}={value}" for name, value in lengths.items() if value is not None]
    if given and dataloader_worker():
        raise UsageError(
            f"{given[0]} says when an iter() ends; in a torch DataLoader that is where its epoch does: leave "
            "it out, and chain or cut what the DataLoader gives"
        )


def rank_and_world(rank: object, world_size: object) -> tuple[int, int] | tuple[None, None]:
    """Give both, or None twice: then they are looked for. UsageError."""
    if rank is None and world_size is None:
        return None, None
    if rank is None or world_size is None:
        raise UsageError("give rank and world_size together, or neither")
    place = Place(whole("rank", rank), whole("world_size", world_size))
    return place.rank, place.world


def check_functions(**functions: object) -> None:
    """Raise UsageError if one of these is not callable; None is, and a list of what is."""
    for name, given in functions.items():
        steps = given if name == "batch_transform" and isinstance(given, Sequence) else [given]
        if not all(step is None or callable(step) for step in steps):
            raise UsageError(f"{name}={given!r} cannot be called: give a function")
