"""Oracle: a loader that was saved anywhere and restored elsewhere gives exactly what was left."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any, Protocol

from wlshard.testing.values import keys_of, same, shown


class Resumable(Protocol):
    """What is checked: `wlshard.Loader`, or any loader with the same four methods."""

    def __iter__(self) -> Iterator[Any]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> None: ...

    def close(self) -> None: ...


def check_resume(make_loader: Callable[[], Resumable], *, epochs: int = 2, every: int = 1) -> int:
    """Save at every step and between epochs, restore in a fresh loader, compare all the rest.

    `make_loader` gives a new loader each time. Each state goes through JSON. Reads the data once for each
    `every`-th step of `epochs` epochs: keep it small. Returns the number of states checked.
    Errors: AssertionError that says at which step what differed.
    """
    whole, states = _record(make_loader, epochs)
    assert any(whole), "the loader gave no batch: there is nothing to check"
    for where, (epoch, given, state) in list(enumerate(states))[::every]:
        place = (
            f"saved in epoch {epoch} after {given} of {len(whole[epoch]) if epoch < epochs else 0} batches"
        )
        with closing(make_loader()) as loader:
            loader.load_state_dict(json.loads(json.dumps(state)))
            again = loader.state_dict()
            assert same(again, state), f"{place}: restored {shown(state)}, but it says {shown(again)}"
            for number in range(epoch, epochs):
                left = whole[number][given:] if number == epoch else whole[number]
                _compare(list(loader), left, f"{place} (state {where}), epoch {number}")
    return len(states)


def check_resume_over_worlds(
    make_loader: Callable[[int, int], Resumable], *, worlds: Iterable[int] = (1, 2, 3, 4), every: int = 1
) -> None:
    """Save after each step of one world size, restore with another: all ranks together give the rest.

    In order, that is, step by step and rank by rank. Before its first step a loader has not settled its
    order: there the world size counts. `make_loader(rank, world)` gives a new loader whose batches hold keys
    (see `keys_of`). Errors: AssertionError naming the worlds and the step.
    """
    worlds = list(worlds)
    for before in worlds:
        ranks, states = _record_ranks(make_loader, before)
        for after in worlds:
            for given in range(1, len(states), every):
                place = f"saved after step {given} of world {before}, restored with world {after}"
                left = [key for step in ranks[given:] for key in step]
                found = [key for step in _steps(make_loader, after, states[given]) for key in step]
                # A last step with fewer samples than ranks repeats some: order and set count here.
                found, left = list(dict.fromkeys(found)), list(dict.fromkeys(left))
                assert found == left, f"{place}: {_first_difference(found, left)}"


def _record(
    make_loader: Callable[[], Resumable], epochs: int
) -> tuple[list[list[Any]], list[tuple[int, int, dict[str, Any]]]]:
    whole: list[list[Any]] = []
    states = []
    with closing(make_loader()) as loader:
        states.append((0, 0, loader.state_dict()))
        for epoch in range(epochs):
            given: list[Any] = []
            for batch in loader:
                given.append(batch)
                states.append((epoch, len(given), loader.state_dict()))
            whole.append(given)
            states.append((epoch + 1, 0, loader.state_dict()))
    return whole, states


def _record_ranks(
    make_loader: Callable[[int, int], Resumable], world: int
) -> tuple[list[list[str]], list[dict[str, Any]]]:
    states: list[dict[str, Any]] = []
    steps = list(_steps(make_loader, world, None, states))
    return steps, states


def _steps(
    make_loader: Callable[[int, int], Resumable],
    world: int,
    state: dict[str, Any] | None,
    states: list[dict[str, Any]] | None = None,
) -> Iterator[list[str]]:
    loaders = [make_loader(rank, world) for rank in range(world)]
    try:
        if state is not None:
            for loader in loaders:
                loader.load_state_dict(json.loads(json.dumps(state)))
        if states is not None:
            states.append(loaders[0].state_dict())
        for turn in zip(*map(iter, loaders), strict=True):
            if states is not None:
                _all_the_same(loaders, states)
            yield [key for batch in turn for key in keys_of(batch)]
    finally:
        for loader in loaders:
            loader.close()


def _all_the_same(loaders: list[Resumable], states: list[dict[str, Any]]) -> None:
    found = [loader.state_dict() for loader in loaders]
    assert all(same(state, found[0]) for state in found), f"ranks save different states: {shown(found)}"
    states.append(found[0])


def _compare(found: list[Any], left: list[Any], place: str) -> None:
    for number, (one, other) in enumerate(zip(found, left, strict=False)):
        assert same(one, other), f"{place}: batch {number} of the rest is {shown(one)}, not {shown(other)}"
    assert len(found) == len(left), f"{place}: {len(found)} batches came, {len(left)} were left"


def _first_difference(found: list[str], left: list[str]) -> str:
    for number, (one, other) in enumerate(zip(found, left, strict=False)):
        if one != other:
            return f"sample {number} of the rest is {one!r}, not {other!r}"
    return f"{len(found)} samples came, {len(left)} were left"
