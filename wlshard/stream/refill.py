"""Whole batches of the samples that were selected: a step takes what is left of earlier ones."""

from __future__ import annotations

from collections import deque
from typing import Any

from wlshard.stream.epoch import Plan, Run
from wlshard.stream.recipe import Recipe, Step, collator_of


class Refilled:
    """An epoch whose steps were lists of samples, now of `batch` each; the last may be short, or dropped.

    Each rank fills its batches from its own steps, so ranks do not go through the epoch in step. The batch is
    made here, of samples that lie ready: one copy more than without a selection.
    """

    def __init__(self, run: Run, plan: Plan, recipe: Recipe) -> None:
        self.data = run.data
        self.plan = plan
        self._run = run
        self._collate = collator_of(recipe)
        self._held: deque[Any] = deque()
        self._counts: deque[int] = deque()  # samples selected in each of the steps that are not used up
        self._given = self._drop = plan.given

    @property
    def waited_s(self) -> float:
        return self._run.waited_s

    def step(self) -> Step | None:
        """Give the next batch; `steps` were used up by it, of the one after them `given` samples."""
        batch, skipped = self.plan.shape.batch, 0
        while len(self._held) < batch and (step := self._run.step()) is not None:
            skipped += step.skipped
            self._take_in(step)
        count = min(batch, len(self._held))
        if count < batch and (self.plan.drop_last or not count):
            self._held.clear()
            return Step(None, 0, 0, skipped, 0, self._given) if skipped else None
        samples = [self._held.popleft() for _ in range(count)]
        self._given += count
        steps = 0
        while self._counts and self._counts[0] <= self._given:
            self._given -= self._counts.popleft()
            steps += 1
        value = samples[0] if self._collate is None else self._collate(samples)
        return Step(value, count, 0, skipped, steps, self._given)

    def _take_in(self, step: Step) -> None:
        found = [] if step.padded or not step.samples else step.value  # no step has to be padded here
        self._counts.append(len(found))
        self._held.extend(found[self._drop :])
        self._drop = max(0, self._drop - len(found))

    def announced_bytes(self) -> int | None:
        return self._run.announced_bytes()

    def close(self) -> None:
        self._run.close()
