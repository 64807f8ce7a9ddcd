"""Waiting for things that other processes do, by looking at what they left, never by the clock alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

LONG_S = 60.0
T = TypeVar("T")


def until(look: Callable[[], T], what: str) -> T:
    """Look again and again until it is true; fail after a minute."""
    deadline = time.monotonic() + LONG_S
    while not (found := look()):
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.01)
    return found


def lives(pid: int) -> bool:
    """Tell whether a process lives; one that is dead and not reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def hanging(folder: Path, count: int) -> list[int]:
    """Wait until so many generators hang; give their pids."""

    def look() -> list[Path]:
        found = list(folder.glob("hangs-*"))
        return found if len(found) >= count else []

    return [int(path.name.split("-")[2]) for path in until(look, f"{count} generators that hang")]


def gone(pids: list[int]) -> None:
    """Wait until none of these lives."""
    until(lambda: not any(map(lives, pids)), f"the end of {pids}")


def environ() -> dict[str, str]:
    """Give an environment in which children find this package and the tests' generators."""
    here = Path(__file__).resolve().parent
    paths = [str(here.parents[1]), str(here), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
