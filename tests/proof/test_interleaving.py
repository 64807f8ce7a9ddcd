"""Two or three actors at once, in every order: the invariants hold, and a mutilated protocol is found out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from clocks import Hand
from invariants import look
from turns import TO_ITS_END, Actor, Pieces, Turns, at_random, in_pieces, one_switch_more

from wlshard import clock
from wlshard.errors import LostLease, NotFound
from wlshard.pool.accounting import SLACK_S, TTL_S, Accounting
from wlshard.pool.follow import Follower
from wlshard.pool.generations import Generations
from wlshard.pool.names import ShardName, condemned_name
from wlshard.pool.pool import Pool
from wlshard.pool.seal import seal
from wlshard.seeds import rng
from wlshard.store import memory
from wlshard.store.base import Buffer, Store
from wlshard.store.memory import MemoryStore
from wlshard.tar.header import END_MARK, member_header, padding
from wlshard.tar.index import format_index, locate_samples

URL = "memory://turns"
ROOT = "turns/"


class World:
    """A pool in memory, what its users were told, and the time."""

    def __init__(self) -> None:
        self.hand = Hand()
        self.told: list[str] = []
        self.begin: dict = {}

    def snapshot(self) -> None:
        self.begin = {key: value for key, value in memory._objects.items() if key.startswith(ROOT)}

    def rewind(self) -> None:
        for key in [key for key in memory._objects if key.startswith(ROOT)]:
            del memory._objects[key]
        for key in [key for key in memory._scratch if key.startswith(ROOT)]:
            del memory._scratch[key]
        memory._objects.update(self.begin)
        self.told, self.hand.at, self.hand.wrong_s = ["created"], 1_000_000.0, 0.0

    def objects(self) -> dict[str, bytes]:
        found = memory._objects.items()
        return {key.removeprefix(ROOT): data for key, (data, _) in found if key.startswith(ROOT)}


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    with clock.use(made.hand):
        pool = Pool(URL).create()
        for name in "abc":
            seals(made, name)(pool.store)
            pool.rotate()
        seals(made, "d")(pool.store)
        made.snapshot()
        yield made
        made.begin = {}
        made.rewind()


def seals(world: World, name: str, samples: int = 2, copy: str = "") -> Actor:
    """Seal one shard of a new writer, as SealingTarget does; a copy, as who salvages does, or tries again."""
    members, parts, at = [], [], 0
    for number in range(samples):
        header = member_header(f"{name}{number}.txt", 4)
        parts += [header, b"text", bytes(padding(4))]
        members.append((f"{name}{number}.txt", at + len(header), 4))
        at += 1024
    data = b"".join([*parts, END_MARK])
    writer = f"20250101T000000-host-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    parsed = ShardName(writer, 1, samples, hashlib.sha256(data).hexdigest()[:32])

    def act(store: Store) -> None:
        with store.draft(f"shards/{parsed.writer}-000001-00000000{copy}") as draft:
            draft.write([data])
            assert seal(store, draft, parsed, len(data), format_index(locate_samples(members)))
        world.told.append(f"sealed {parsed}")

    return act


def rotates(world: World, pool_samples: int = 0) -> Actor:
    def act(store: Store) -> None:
        pool = Pool(URL, store=store)
        done = pool.rotate(pool_samples=pool_samples)
        if done.committed:
            slot = next(m for m in look(world.objects()).slots if m.generation == done.generation)
            world.told.append(f"rotated {done.generation} {slot.digest}")

    return act


def retires(world: World) -> Actor:
    def act(store: Store) -> None:
        for generation in Pool(URL, store=store).retire().retired:
            world.told.append(f"retired {generation}")

    return act


def reads(world: World, generation: int | None = None) -> Actor:
    """Read a generation twice under one lease."""

    def act(store: Store) -> None:
        pool = Pool(URL, store=store)
        reader = Follower(pool, generation, follow=True, timeout_s=0)
        try:
            manifest = reader.choose()
            for _ in range(2):
                for shard in manifest.shards:
                    reader.check()
                    try:
                        data = store.read(f"shards/{shard.name}")
                    except NotFound:
                        reader.check()  # LostLease is an honest answer, and so it is not I4
                        raise AssertionError(f"I4: {shard.name} is gone under a live lease") from None
                    assert hashlib.sha256(data).hexdigest()[:32] == ShardName.parse(shard.name).sha256
        except LostLease:
            assert world.hand.at >= 1_000_000.0 + TTL_S
        except NotFound:
            assert generation is not None, "the newest generation was not to be had"
        finally:
            reader.close()

    return act


def pins(world: World) -> Actor:
    def act(store: Store) -> None:
        with suppress(NotFound):  # too late
            world.told.append(f"pinned {Pool(URL, store=store).pin('best', 1)}")

    return act


def time_passes(world: World) -> Actor:
    """Let leases end, bit by bit."""

    def act(store: Store) -> None:
        for part in (TTL_S / 2, TTL_S / 2, SLACK_S + 1):
            store.now()  # a turn
            world.hand.at += part

    return act


def run(world: World, store: Store, actors: list[Actor], choose: Callable) -> tuple[list[int], list[str]]:
    """Give who did the operations, and what is wrong."""
    world.rewind()
    turns = Turns(store, actors, choose)
    turns.run()
    faults = [f"{type(error).__name__}: {error}" for error in turns.errors]
    faults += look(world.objects(), world.told).faults
    Pool(URL).rotate()
    Pool(URL).retire()
    after = look(world.objects(), world.told)
    faults += after.faults + [f"{name} was never promoted" for name in after.waiting]
    return turns.order, [f"{fault} (order {turns.order})" for fault in faults]


PAIRS: dict[str, Callable[[World], list[Actor]]] = {
    "rotate × rotate": lambda world: [rotates(world), rotates(world, 4)],
    "rotate × seal": lambda world: [rotates(world), seals(world, "e")],
    "rotate × retire": lambda world: [rotates(world, 4), retires(world)],
    "retire × retire": lambda world: [retires(world), retires(world)],
    "retire × reader": lambda world: [retires(world), reads(world, 1)],
    "retire × pin": lambda world: [retires(world), pins(world)],
    "retire × seal again": lambda world: [retires(world), seals(world, "a", copy="-salvage-" + 16 * "0")],
    "rotate × reader": lambda world: [rotates(world), reads(world)],
    "expiry × reader": lambda world: [time_passes(world), reads(world, 3)],
}
THREES: dict[str, Callable[[World], list[Actor]]] = {
    "expiry × retire × reader": lambda world: [time_passes(world), retires(world), reads(world, 1)],
    "rotate × retire × reader": lambda world: [rotates(world), retires(world), reads(world)],
    "rotate × rotate × seal": lambda world: [rotates(world), rotates(world), seals(world, "e")],
    "retire × retire × pin": lambda world: [retires(world), retires(world), pins(world)],
}


def all_orders(world: World, pair: str, most: int, store: Store) -> Iterator[str]:
    """Run two actors in all orders with at most so many switches; yield what is wrong."""
    actors, count = PAIRS[pair](world), 0
    todo: list[Pieces] = [[(0, TO_ITS_END)], [(1, TO_ITS_END)]]
    while todo:
        pieces = todo.pop()
        order, faults = run(world, store, actors, in_pieces(pieces))
        yield from faults
        if len(pieces) <= most:
            todo += one_switch_more(pieces, order)
        count += 1
    print(f"{count} orders of {pair}")


def random_orders(world: World, name: str, runs: int) -> Iterator[str]:
    actors = (PAIRS | THREES)[name](world)
    for number in range(runs):
        yield from run(world, MemoryStore(URL), actors, at_random(rng("turns", name, number)))[1]


@pytest.mark.parametrize("pair", PAIRS)
def test_two_actors_in_every_order_with_one_switch_and_back(world, pair):
    assert list(all_orders(world, pair, 1, MemoryStore(URL))) == []


@pytest.mark.parametrize("name", PAIRS | THREES)
def test_actors_in_random_orders(world, name):
    assert list(random_orders(world, name, 60)) == []


@pytest.mark.long
@pytest.mark.parametrize("pair", PAIRS)
def test_two_actors_in_every_order_with_three_switches(world, pair):
    assert list(all_orders(world, pair, 3, MemoryStore(URL))) == []


@pytest.mark.long
@pytest.mark.parametrize("name", PAIRS | THREES)
def test_actors_in_ten_thousand_random_orders(world, name):
    assert list(random_orders(world, name, 10_000)) == []


class Overwriting(MemoryStore):
    """A store that does not know create-if-absent, and says it does."""

    def create(self, name: str, data: Buffer) -> bool:
        self.put(name, data)
        return True


def test_a_store_without_create_if_absent_is_found_out(world):
    assert any(all_orders(world, "rotate × rotate", 1, Overwriting(URL)))


def test_a_reader_that_does_not_look_after_it_has_its_lease_is_found_out(world, monkeypatch):
    monkeypatch.setattr("wlshard.pool.generations.Generations.is_open", lambda *_: True)
    assert any(all_orders(world, "retire × reader", 2, MemoryStore(URL)))


def test_a_retirement_that_does_not_look_again_once_it_has_condemned_is_found_out(world, monkeypatch):
    real = Accounting.holds

    def once(self, generation):
        return [] if f"{ROOT}{condemned_name(generation)}" in memory._objects else real(self, generation)

    monkeypatch.setattr(Accounting, "holds", once)
    assert any(all_orders(world, "retire × reader", 2, MemoryStore(URL)))


def test_a_sweep_by_one_manifest_alone_is_found_out(world, monkeypatch):
    """A kept shard deleted through an older, condemned generation."""
    real = Generations.slots
    monkeypatch.setattr(Generations, "slots", lambda self, first: list(real(self, first))[-1:])
    assert any(all_orders(world, "retire × reader", 1, MemoryStore(URL)))
