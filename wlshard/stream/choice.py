"""Which data an epoch reads: on a pool a generation, the same on all ranks."""

from __future__ import annotations

from collections.abc import Callable

from wlshard.errors import CursorMismatch, NotFound, UsageError
from wlshard.place import Place
from wlshard.stream.cursor import Cursor
from wlshard.stream.data import Data
from wlshard.stream.epoch import Plan
from wlshard.stream.feed import Accord, Feed
from wlshard.stream.settings import Settings


class Choice:
    """Chooses for one course; `find_feed` is called at first use and may look at the store."""

    def __init__(self, find_feed: Callable[[], Feed], settings: Settings) -> None:
        self._find_feed = find_feed
        self._settings = settings
        self._feed: Feed | None = None
        self._accord: Accord | None = None
        self._agreed: int | None = None  # generation, of the epoch under way or to come

    @property
    def feed(self) -> Feed:
        """Give what the data comes from. Looks at the store the first time."""
        if self._feed is None:
            self._feed = self._find_feed()
        return self._feed

    def data(self, at: Cursor, place: Place) -> Data:
        """Give the cursor's data, or the newest if it names none; may wait.

        CursorMismatch: its generation is gone, and the settings do not say to advance.
        """
        # A DataLoader's other workers begin where worker 0 of their rank does; see IterableDataset.
        if not self.feed.chooses or place.world == 1 or place.worker:
            return self._choose(at)
        if self._agreed is None:
            self._agreed = self._agreement(place).settle(at.epoch, lambda: self._choose(at).generation or 0)
        return self.feed.data(self._agreed)

    def forget(self) -> None:
        """Choose anew next time: an epoch is over, or a state was loaded."""
        self._agreed = None

    def cuts(self, plan: Plan, reached: int) -> bool:
        """Tell, every `follow` batches, whether the epoch ends here for a newer generation; rank 0 looks."""
        follow = self._settings.follow
        if not isinstance(follow, int) or not reached or not self.feed.moves:
            return False
        part = follow * plan.world
        if reached // part == (reached - plan.world) // part:
            return False
        if plan.world == 1:
            return self.feed.newer()
        return bool(self._agreement(Place(plan.rank, plan.world)).settle(plan.epoch, self.feed.newer))

    def note(self, samples: int, waited_s: float) -> None:
        """Tell the feed, if there is one yet, what was given."""
        if self._feed is not None:
            self._feed.served(samples, waited_s)

    def close(self) -> None:
        """Let go of the data."""
        if self._feed is not None:
            self._feed.close()

    def _agreement(self, place: Place) -> Accord:
        if self._accord is None:
            self._accord = self.feed.accord(place)
        return self._accord

    def _choose(self, at: Cursor) -> Data:
        reuse = self._settings.reuse
        if reuse is not None and not self.feed.moves:
            raise UsageError("reuse= is for a pool that moves: not for POOL@n, follow=None, or other sources")
        used = reuse is not None and at.generation is None and at.epoch - at.since >= reuse
        try:
            return self.feed.data(at.generation, at.last if used else None)
        except NotFound as error:
            if at.generation is None:
                raise
            if self._settings.resume == "advance" and self.feed.chooses:
                return self.feed.data()
            raise CursorMismatch(
                f"the cursor stands in generation {at.generation}, which is gone ({error.message}): begin "
                'anew without load_state_dict, or with resume="advance" in the newest; to resume exactly, '
                "keep generations (pin=, wl-rotate --keep)",
                url=error.url,
            ) from error
