"""Threads that take turns: one runs at a time; who is next at each operation of a store is decided here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from random import Random

from wlshard.store.base import Store
from wlshard.testing.storage import Operation, RecordingStore

Actor = Callable[[Store], object]
Choose = Callable[[int, list[int]], int]  # who ran last, who can run → who runs next
Pieces = list[tuple[int, int]]  # who, how many operations
TIMEOUT_S = 60.0
TO_ITS_END = 1_000_000


class Turns:
    """Run actors over one store, each in a thread that waits for its turn before each operation."""

    def __init__(self, store: Store, actors: Sequence[Actor], choose: Choose) -> None:
        self.order: list[int] = []  # who did the operations
        self.errors: list[BaseException] = []
        self._choose = choose
        self._alive = list(range(len(actors)))
        self._turns = [threading.Semaphore(0) for _ in actors]
        self._threads = [
            threading.Thread(target=self._run, args=(number, actor, Turn(store, self, number)))
            for number, actor in enumerate(actors)
        ]

    def run(self) -> None:
        for thread in self._threads:
            thread.start()
        self._pass_on(-1)
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive(), f"an actor waits for ever, after {self.order}"

    def take(self, number: int) -> None:
        """Let others go first, if they are chosen; then go on."""
        self._pass_on(number)
        self._turns[number].acquire()
        self.order.append(number)

    def _pass_on(self, last: int) -> None:
        if self._alive:
            self._turns[self._choose(last, self._alive)].release()

    def _run(self, number: int, actor: Actor, store: Store) -> None:
        self._turns[number].acquire()
        try:
            actor(store)
        except BaseException as error:  # noqa: BLE001 — looked at by the test
            self.errors.append(error)
        finally:
            self._alive.remove(number)
            self._pass_on(number)


class Turn(RecordingStore):
    """A store as one actor sees it."""

    def __init__(self, store: Store, turns: Turns, number: int) -> None:
        super().__init__(store)
        self._turns = turns
        self._number = number

    def before(self, operation: Operation) -> None:
        self._turns.take(self._number)

    def now(self) -> float:
        self._turns.take(self._number)
        return super().now()


def in_pieces(pieces: Pieces) -> Choose:
    """Let actors run so many operations each, in this order."""
    left = [[who, count] for who, count in pieces]

    def choose(last: int, alive: list[int]) -> int:
        while left and (left[0][0] not in alive or not left[0][1]):
            left.pop(0)
        if left:
            left[0][1] -= 1
            return left[0][0]
        return last if last in alive else alive[0]

    return choose


def at_random(draw: Random) -> Choose:
    """Switch about every third operation."""
    return lambda last, alive: last if last in alive and draw.random() < 0.6 else draw.choice(alive)


def one_switch_more(pieces: Pieces, order: Sequence[int]) -> Iterator[Pieces]:
    """Give the orders of two actors that begin as this one, which was run, and have one more switch, later.

    At the end of one the other goes on, which is no switch.
    """
    *before, (who, _) = pieces
    at = sum(count for _, count in before)
    for count in range(1, len(order) - at):
        if order[at + count - 1 : at + count + 1] != [who, who] or 1 - who not in order[at + count :]:
            return
        yield [*before, (who, count), (1 - who, TO_ITS_END)]
