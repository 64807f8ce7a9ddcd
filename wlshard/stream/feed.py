"""Where an epoch's data comes from: a pool whose generations follow each other, or data that stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn, Protocol

from wlshard.errors import LostLease, NotFound
from wlshard.place import Place
from wlshard.sample import Sample
from wlshard.shards.reader import OnError, in_turn, read_samples
from wlshard.stream.data import Data, data_of_generation, data_of_rows, data_of_shards
from wlshard.stream.rows import Rows


class Feed(Protocol):
    """Give the data of each epoch. `moves`: the next epoch may have another generation."""

    moves: bool
    chooses: bool  # one generation of several
    accord: Callable[[Place], Accord]  # of ranks, where it chooses

    def data(self, generation: int | None = None, after: int | None = None) -> Data:
        """Give this generation, else the newest, newer than `after`. May wait. NotFound: it is gone."""
        ...

    def newer(self) -> bool:
        """Tell whether there is something newer than what was given last."""
        ...

    def rows(self, on_error: OnError, copy: bool) -> Iterator[Sample]:
        """Stream all samples as read, in order, looking at no index; `copy`: bytes, not views."""
        ...

    def served(self, samples: int, waited_s: float) -> None:
        """Take note of what was given to the consumer."""
        ...

    def check(self) -> None:
        """Raise LostLease if what is being read may go away from now on."""
        ...

    def close(self) -> None: ...


class Accord(Protocol):
    """What makes ranks choose alike, as `pool.accord.Accord`."""

    def settle(self, epoch: int, choose: Callable[[], int]) -> int: ...


class FixedFeed:
    """Data that stays the same in every epoch."""

    moves = chooses = False

    def __init__(
        self, open_data: Callable[[], Data], rows: Callable[[OnError, bool], Iterator[Sample]]
    ) -> None:
        self._rows = rows
        self.accord: Callable[[Place], Accord] = never
        self._open_data = open_data
        self._data: Data | None = None

    def newer(self) -> bool:
        return False

    def data(self, generation: int | None = None, after: int | None = None) -> Data:  # noqa: ARG002
        if self._data is None:
            self._data = self._open_data()
        return self._data

    def rows(self, on_error: OnError, copy: bool) -> Iterator[Sample]:
        return self._rows(on_error, copy)

    def served(self, samples: int, waited_s: float) -> None:
        """Nobody asks."""

    def check(self) -> None:
        """It is the user's."""

    def close(self) -> None:
        if self._data is not None:
            self._data.close()


def never(_: Place) -> NoReturn:
    raise AssertionError("there is nothing to agree on")


def feed_of_rows(rows: Iterable[Sample]) -> FixedFeed:
    """Feed on samples that the user holds."""
    return FixedFeed(lambda: data_of_rows(rows), lambda _on_error, copy: Rows(rows).stream(copy=copy))


def feed_of_shards(urls: Sequence[str], cache_dir: str | None, on_error: OnError) -> FixedFeed:
    """Feed on a list of shards."""

    def rows(on_error: OnError, copy: bool) -> Iterator[Sample]:
        with in_turn(urls):
            for url in urls:
                yield from read_samples(url, on_error=on_error, copy=copy)

    return FixedFeed(lambda: data_of_shards(urls, cache_dir, on_error), rows)


class Follows(Protocol):
    """A pool's reader, as `pool.follow.Follower`; a generation is a manifest."""

    moves: bool
    chooses: bool

    def choose(self, generation: int | None = None, after: int | None = None) -> Any: ...

    def newer(self) -> bool: ...

    def accord(self, place: Place) -> Accord: ...

    def holds(self, generation: int | None) -> bool: ...

    def check(self) -> None: ...

    def urls(self, manifest: Any) -> list[str]: ...

    def served(self, samples: int, waited_s: float) -> None: ...

    def close(self) -> None: ...


class PoolFeed:
    """Feed on a pool: each epoch one generation, chosen by its reader."""

    def __init__(self, reader: Follows, cache_dir: str | None) -> None:
        self.moves, self.chooses = reader.moves, reader.chooses
        self.accord: Callable[[Place], Accord] = reader.accord
        self._reader = reader
        self._cache_dir = cache_dir
        self._data: Data | None = None

    def newer(self) -> bool:
        return self._reader.newer()

    def data(self, generation: int | None = None, after: int | None = None) -> Data:
        old = self._data
        if old is not None:
            if generation is None and not self.moves:
                generation = old.generation
            if generation == old.generation and self._reader.holds(generation):
                return old
        manifest = self._reader.choose(generation, after)
        if old is not None:
            if manifest.digest == old.digest:
                return old
            old.close()
        self._data = data_of_generation(manifest, self._reader.urls(manifest), self._cache_dir)
        return self._data

    def rows(self, on_error: OnError, copy: bool) -> Iterator[Sample]:
        try:
            manifest = self._reader.choose()
            urls = self._reader.urls(manifest)
            with in_turn(urls):
                for url in urls:
                    self.check()
                    try:
                        yield from read_samples(url, on_error=on_error, copy=copy)
                    except NotFound as error:
                        raise LostLease.by(error, manifest.generation) from error
        finally:
            self._reader.close()

    def served(self, samples: int, waited_s: float) -> None:
        self._reader.served(samples, waited_s)

    def check(self) -> None:
        self._reader.check()

    def close(self) -> None:
        if self._data is not None:
            self._data.close()
        self._reader.close()
