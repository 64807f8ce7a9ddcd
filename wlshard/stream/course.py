"""The way of one rank through its epochs: where it stands, what comes next, and how to take it up again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from math import gcd
from typing import TypeAlias

from wlshard import clock
from wlshard.errors import UsageError
from wlshard.place import Place, dataloader_worker, detect_place
from wlshard.stream.choice import Choice
from wlshard.stream.cursor import Cursor
from wlshard.stream.data import Data
from wlshard.stream.epoch import Plan, Run, share_of
from wlshard.stream.feed import Feed
from wlshard.stream.order import shape_of
from wlshard.stream.recipe import Step
from wlshard.stream.refill import Refilled
from wlshard.stream.settings import Settings

log = logging.getLogger(__name__)

NOTE_S = 1.0  # how often a pool is told what was served


Begin: TypeAlias = Callable[[Data, Plan], Run]


class Course:
    """Steps of this rank, epoch after epoch. `epoch` is the one under way, None between them.

    `find_feed` is called at first use and may look at the store; `begin` begins an epoch. `waited_s` (for
    storage, workers, a pool's first samples) counts from the beginning; `empty` the epochs in a row that had
    no step.
    """

    def __init__(
        self,
        find_feed: Callable[[], Feed],
        begin: Begin,
        settings: Settings,
    ) -> None:
        self.epoch: Run | None = None
        self.empty = 0
        self._settings = settings
        self._at = Cursor(
            None, None, settings.seed, 0, settings.batch, None, None, None, 0, 0, settings.per_sample
        )
        self._next = self._given = 0  # global batch, and samples of it, while an epoch is under way
        self._stepped = False  # in this epoch
        self._choice = Choice(find_feed, settings)
        self._data_found: Data | None = None
        self._begin_epoch = begin
        self._place: Place | None = None
        self._told = False
        self._waited_s = self._noted_s = 0.0
        self._noted_at = clock.monotonic()
        self._served = 0

    @property
    def number(self) -> int:
        """Give the number of the epoch under way, or to come."""
        return self._at.epoch

    @property
    def at(self) -> Cursor:
        """The resume point: what follows the steps given so far."""
        return self._at if self.epoch is None else replace(self._at, next_batch=self._next, given=self._given)

    @property
    def feed(self) -> Feed:
        """Give what the data comes from. Looks at the store the first time."""
        return self._choice.feed

    @property
    def skipped(self) -> int:
        """Count the damage gone past while shards were scanned and streamed: it has no place in the order."""
        return self._data_found.skipped.faults if self._data_found else 0

    @property
    def waited_s(self) -> float:
        return self._waited_s + (self.epoch.waited_s if self.epoch else 0.0)

    def bytes_of(self, samples: int) -> int | None:
        """Give the stored bytes of so many samples; None where sizes are not known."""
        size = self._data_found.sample_bytes if self._data_found else None
        return None if size is None else round(size * samples)

    @property
    def reuse(self) -> float:
        """Tell how many times, on average, a sample of the data under way was given by all ranks."""
        samples, at = self._data_found and self._data_found.samples, self.at
        part = min(1.0, at.next_batch * at.batch_size / samples) if samples else 0.0
        return at.epoch - at.since + part

    def restore(self, cursor: Cursor) -> None:
        """Stand at a saved point. Errors: CursorMismatch, here or, once the data is seen, at `begin`."""
        settings = self._settings
        cursor.check(seed=settings.seed, batch_size=settings.batch, per_sample=settings.per_sample)
        self.stop()
        self._at = cursor
        self._choice.forget()

    def step(self) -> Step | None:
        """Give this rank's next step; None where an epoch ends: the next one follows.

        After an error, call `stop`: the course stands before the step that met it.
        """
        if self.epoch is None:
            self.epoch = self._begin()
        step = None if self._choice.cuts(self.epoch.plan, self._next) else self.epoch.step()
        if step is not None:
            self.feed.check()
            self._next += self.epoch.plan.stride * step.steps
            self._given, self._stepped = step.given, True
            self._note(step.samples)
            return step
        self.empty = 0 if self._stepped else self.empty + 1
        self.skip_to_next()
        return None

    def _note(self, samples: int) -> None:
        self._served += samples
        if clock.monotonic() - self._noted_at >= NOTE_S:
            self.note()

    def note(self) -> None:
        """Tell the feed what was given since it was last told."""
        if self._served:
            self._choice.note(self._served, self.waited_s - self._noted_s)
        self._served, self._noted_s, self._noted_at = 0, self.waited_s, clock.monotonic()

    def skip_to_next(self) -> None:
        """Stand at the beginning of the epoch after this one."""
        self.stop()
        self._at = replace(self._at, epoch=self._at.epoch + 1, next_batch=0, given=0, place=None)
        self._choose_anew()

    def settle(self) -> None:
        """Choose now what the epoch to come reads, of a pool that moves; `at` says it from here on."""
        if self.feed.chooses:
            self._choose_anew()
            self._bind(*self._plan())

    def stop(self) -> None:
        """End reading; the point reached stays."""
        epoch, at = self.epoch, self.at
        self.epoch, self._at = None, at
        if epoch is not None:
            epoch.close()
            self._waited_s += epoch.waited_s
            self.note()
            self._choose_anew()

    def _choose_anew(self) -> None:
        # Before its first batch an epoch is not bound to a generation, which may be gone.
        if self.feed.moves and not self._at.next_batch:
            self._at = replace(self._at, generation=None, digest=None)
            self._choice.forget()

    def close(self) -> None:
        """End reading and let go of the data."""
        self.stop()
        self._choice.close()

    def steps(self, epochs: int, anew: bool) -> int | None:
        """Count this rank's steps over `epochs` epochs, from where this one began or the next begins.

        `anew`: that is at its first batch. None where only streaming would tell. Opens the data, may wait.
        """
        data, plan = (self.epoch.data, self.epoch.plan) if self.epoch is not None else self._plan()
        if anew and self.epoch is None:
            plan = replace(plan, start=0)
        cut = isinstance(self._settings.follow, int) and self.feed.moves
        if data.samples is None or self._settings.selects or cut:
            return None
        further = share_of(data.samples, replace(plan, start=0)).steps
        return share_of(data.samples, plan).steps + (epochs - 1) * further

    def _plan(self) -> tuple[Data, Plan]:
        settings = self._settings
        place = self._found_place()
        data = self._data(place)
        wanted = shape_of(
            settings.batch, settings.shuffle, place.world, data.seekable, settings.per_sample, settings.spans
        )
        return data, Plan(
            shape=self._at.shape(wanted, lanes_free=data.seekable),
            seed=settings.seed,
            epoch=self._at.epoch,
            start=self._at.next_batch,
            rank=place.rank,
            world=place.world,
            drop_last=settings.drop_last,
            skip=settings.skip,
            given=self._at.given,
            worker=place.worker,
            workers=place.workers,
            by_turns=place.workers > 1,
        )

    def _begin(self) -> Run:
        if self.feed.chooses and self._found_place().workers > 1:
            self._check_workers_agree()
        data, plan = self._plan()
        if not self._told and plan.world > 1:
            self._told = True
            say_reading(plan.shape.lanes if data.seekable else 1, plan.world)
        self._bind(data, plan)
        self._next, self._given, self._stepped = plan.start, plan.given, False
        return self._selected(data, plan) if self._settings.selects else self._begin_epoch(data, plan)

    def _check_workers_agree(self) -> None:
        if self._at.generation is None:
            raise UsageError(
                "each worker of a torch DataLoader would look for the pool's newest generation by itself: "
                "take wlshard.torch.IterableDataset, name a generation (POOL@n), take num_workers=1, or do "
                "without the DataLoader: a Loader has workers="
            )
        if isinstance(self._settings.follow, int):
            raise UsageError(
                "several workers of a torch DataLoader end an epoch at its end only: for follow= with a "
                "number of batches take workers= of the Loader, num_workers=0"
            )

    def _bind(self, data: Data, plan: Plan) -> None:
        """Let the resume point name the data and the order."""
        shape = plan.shape
        self._at = replace(
            self._at,
            generation=data.generation,
            digest=data.digest,
            lanes=shape.lanes,
            window=shape.window,
            strips=shape.strips,
            last=data.generation,
            since=self._at.since if data.generation == self._at.last else self._at.epoch,
        )

    def _selected(self, data: Data, plan: Plan) -> Run:
        if plan.by_turns:
            raise UsageError(
                "select= needs all samples of a rank in one place: use workers= of the Loader, num_workers=0"
            )
        if plan.world > 1:
            if self._settings.batches is None:
                raise UsageError(
                    "with select= nobody knows how many batches an epoch has on each rank: say batches="
                )
            if self.feed.moves:
                raise UsageError("with select= ranks end their epochs apart: read one generation, POOL@n")
            place = f"{plan.rank}/{plan.world}"
            self._at.check(place=place)
            self._at = replace(self._at, place=place)
        run = self._begin_epoch(data, replace(plan, drop_last=False))
        return Refilled(run, plan, self._settings.recipe)

    def _data(self, place: Place) -> Data:
        began = clock.monotonic()
        try:
            data = self._choice.data(self._at, place)
        finally:
            self._waited_s += clock.monotonic() - began
        if self._at.generation not in (None, data.generation) and self.feed.chooses:
            self._begin_anew()
        data.repeat(self._settings.per_sample)
        self._data_found = data
        self._at.check(generation=data.generation, digest=data.digest)
        return data

    def _begin_anew(self) -> None:
        log.warning(
            "generation %s, in which the saved epoch %d stood, is gone: it begins anew in the newest",
            self._at.generation,
            self._at.epoch,
        )
        self._at = replace(self._at, next_batch=0, given=0, place=None, generation=None, digest=None)

    def _found_place(self) -> Place:
        if self._place is None:
            self._place = detect_place(self._settings.rank, self._settings.world_size)
        worker, workers = dataloader_worker() or (0, 1)  # at each epoch: this loader may have come here since
        return replace(self._place, worker=worker, workers=workers)


def say_reading(lanes: int, world: int) -> None:
    """Tell what it costs when the lanes cannot be divided among the ranks."""
    if lanes == 1:
        log.warning("these shards can only be streamed: each of the %d ranks reads all of them", world)
    elif lanes % world:
        good = [str(count) for count in range(1, lanes + 1) if lanes % count == 0]
        log.warning(
            "%d ranks read each of the order's %d lanes; with a world size that divides them, one does: %s",
            world // gcd(world, lanes),
            lanes,
            ", ".join(good),
        )
