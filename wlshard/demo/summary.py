"""What happened: the course of training, and what went through the pool, as rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wlshard.pool.pool import Pool


@dataclass
class Course:
    """What happened in training, by seconds since the first batch."""

    losses: list[tuple[float, float]] = field(default_factory=list)
    scores: list[tuple[float, list[float]]] = field(default_factory=list)
    stats: dict[str, Any] = field(default_factory=dict)  # the loader's, at the end
    interrupted: bool = False

    def mean(self, look: int = -1) -> float:
        """Give the mean Dice of the classes at one look; the last by default."""
        scores = self.scores[look][1]
        return sum(scores) / len(scores)


def score_rows(course: Course, names: Sequence[str]) -> list[tuple[str, str]]:
    """Give the Dice of each class before and after."""
    scores = zip(names, course.scores[0][1], course.scores[-1][1], strict=True)
    rows = [(name, f"{before:.2f} → {after:.2f}") for name, before, after in scores]
    return [*rows, ("Dice, mean of the classes", f"{course.mean(0):.2f} → {course.mean():.2f}")]


def pool_rows(url: str, stats: dict[str, Any]) -> list[tuple[str, str]]:
    """Give names and values: the pool's state, and what the loader with these stats was given."""
    status = Pool(url).status()
    promoted, served = status.promoted_total, stats["samples"]
    age = "–" if status.oldest_age_s is None else f"{status.oldest_age_s:.0f} s"
    reuse = f"{served / promoted:.1f}" if promoted else "–"
    return [
        ("generated (samples sealed)", f"{status.sealed_total:,}"),
        ("promoted by rotation", f"{promoted:,}"),
        ("served to the trainer", f"{served:,}"),
        ("generations", f"{status.generation}"),
        ("reuse (served / promoted)", reuse),
        ("age of the oldest in the read pool", age),
        ("the trainer waited", f"{stats['waited_s']:.1f} s"),
    ]
