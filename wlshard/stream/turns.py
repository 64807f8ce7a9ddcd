"""What an `iter()` of a Loader is: epochs chained, or batches counted, and what of it was given."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from wlshard import clock
from wlshard.errors import TooManyBadSamples, UsageError
from wlshard.shards.tally import FAILURES_IN_A_ROW
from wlshard.stream.arguments import undivided
from wlshard.stream.course import Course
from wlshard.stream.cursor import parse_cursor
from wlshard.stream.recipe import Step
from wlshard.stream.settings import Settings


class Turns:
    """The turns of one consumer through a course, one after the other: the newest ends the one before."""

    def __init__(self, course: Course, settings: Settings) -> None:
        self.counts = {"samples": 0, "batches": 0, "epochs": 0, "padded": 0, "skipped": 0}
        self._course = course
        self._chained = settings.epochs
        self._epochs = settings.epochs or 1
        self._batches = settings.batches
        self._goes_on = True  # the next turn continues where the course stands
        self._taken = 0  # of the `batches` of the turn under way
        self._streak = 0  # samples skipped since the last step that had a good one
        self._turn: object = None  # stands for the one iterator in use
        self._closed = False
        self.inside_s = self._outside_s = 0.0  # in the loader, at the consumer

    def iterate(self, epochs: float | None) -> Iterator[Any]:
        """Give the values of a turn: so many epochs; if None, what the settings say."""
        turn = self._begin()
        batches = self._batches if epochs is None else None
        end = self._chain_end() if epochs is None else self._course.number + epochs
        done, left_at = False, None
        try:
            while self._course.number < end if batches is None else self._taken < batches:
                step, left_at = self._timed_step(left_at)
                if step is None:
                    self._count_epoch(endless=batches is not None or end == math.inf)
                elif self._count(step, batches is not None):
                    given = [step.value]
                    del step
                    yield given.pop()  # nothing here refers to it: a worker may have its memory back
                    if turn is not self._turn:
                        raise UsageError("this loader was closed or begun again, this iterator is over")
            done = True
        finally:
            if turn is self._turn:
                self._end(done)

    def _timed_step(self, left_at: float | None) -> tuple[Step | None, float]:
        began = clock.monotonic()
        self._outside_s += began - (began if left_at is None else left_at)
        step = self._course.step()
        left_at = clock.monotonic()
        self.inside_s += left_at - began
        return step, left_at

    def shares(self, read_s: float, make_s: float) -> dict[str, float]:
        """Say what the time of turns went into: storage and making, by what these took, or consumer."""
        total, inside = self.inside_s + self._outside_s or 1.0, self.inside_s
        reading = read_s / (read_s + make_s or 1.0)
        parts = {"storage": inside * reading, "making": inside * (1 - reading), "consumer": self._outside_s}
        return {name: round(seconds / total, 3) for name, seconds in parts.items()}

    def steps(self) -> int | None:
        """Count the steps of the turn under way, else of the next; None where only streaming would tell."""
        if self._batches is not None:
            return self._batches - (self._taken if self._goes_on else 0)
        return self._course.steps(self._chain_end() - self._course.number, anew=not self._goes_on)

    def state(self) -> dict[str, Any]:
        """Give the resume point."""
        return replace(self._course.at, taken=self._taken).as_json()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Let the next turn give what was left at a resume point. CursorMismatch."""
        cursor = parse_cursor(state)
        self._course.restore(cursor)
        self._turn, self._goes_on, self._taken = None, True, cursor.taken

    def close(self) -> None:
        """End the turn under way; there is no other."""
        self._turn, self._closed = None, True

    def _begin(self) -> object:
        if self._closed:
            raise UsageError("this loader is closed: make a new one")
        undivided(epochs=self._chained, batches=self._batches)
        if not self._goes_on:
            self._course.stop()
            if self._batches is None and self._course.at.next_batch:
                self._course.skip_to_next()
            self._taken = 0
        self._turn = object()
        return self._turn

    def _end(self, done: bool) -> None:
        if done:
            self._goes_on, self._taken = True, 0
        else:
            self._course.stop()
        self._course.note()

    def _chain_end(self) -> int:
        return (self._course.number // self._epochs + 1) * self._epochs

    def _count(self, step: Step, by_count: bool) -> int:
        self.counts["skipped"] += step.skipped
        self._streak = 0 if step.samples else self._streak + step.skipped
        if self._streak >= FAILURES_IN_A_ROW:  # each worker has seen but a part of them
            raise TooManyBadSamples(f"{self._streak} samples in a row failed: see what was told of the first")
        if step.samples:
            self._goes_on = False
            self._taken += by_count
            self.counts["samples"] += step.samples
            self.counts["padded"] += step.padded
            self.counts["batches"] += 1
        return step.samples

    def _count_epoch(self, endless: bool) -> None:
        self.counts["epochs"] += 1
        if self._course.empty > 1 and endless:
            raise UsageError(
                "epochs without a batch: batch_size × world_size is more than there is and drop_last=True, "
                "or select= takes nothing"
            )
