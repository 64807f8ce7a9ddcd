"""Histories drawn at random, with deaths and leases that end, held against what was told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from invariants import look
from test_interleaving import URL, World, seals

from wlshard import clock
from wlshard.errors import LostLease, NotFound
from wlshard.pool.accounting import SLACK_S, TTL_S
from wlshard.pool.follow import Follower
from wlshard.pool.manifest import Manifest
from wlshard.pool.pool import Pool
from wlshard.store.memory import MemoryStore
from wlshard.testing.storage import Killed, Operation, RecordingStore


class AwryStore(RecordingStore):
    """A store whose clock is right while its user's is wrong; the user may die at an operation."""

    def __init__(self, world: World, dies_at: int | None = None) -> None:
        super().__init__(MemoryStore(URL))
        self.world = world
        self.dies_at = dies_at

    def before(self, operation: Operation) -> None:
        if self.dies_at is not None and operation.number >= self.dies_at:
            raise Killed(str(operation))

    @contextmanager
    def doing(self, kind: str, name: str, size: int = 0) -> Iterator[Operation]:
        with super().doing(kind, name, size) as operation, self.in_its_own_time():
            yield operation

    def now(self) -> float:
        with self.in_its_own_time():
            return super().now()

    @contextmanager
    def in_its_own_time(self) -> Iterator[None]:
        hand = self.world.hand
        wrong_s, hand.wrong_s = hand.wrong_s, 0.0
        try:
            yield
        finally:
            hand.wrong_s = wrong_s


class History(RuleBasedStateMachine):
    """`readers`: who reads which generation, until when; `pinned`: by name. The rest is in `world.told`."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.uses = clock.use(self.world.hand)
        self.uses.__enter__()
        self.world.rewind()
        Pool(URL).create()
        self.count = 0
        self.sealed: list[tuple[str, int]] = []  # or tried to: name, samples
        self.readers: list[tuple[Follower, Manifest, float]] = []
        self.pinned: dict[str, int] = {}
        self.looked_at: set[int] = set()  # generations

    def pool(self, dies_at: int | None = None) -> Pool:
        return Pool(URL, store=AwryStore(self.world, dies_at))

    @rule(samples=st.integers(1, 4), dies_at=st.none() | st.integers(1, 12))
    def seal(self, samples: int, dies_at: int | None) -> None:
        self.count += 1
        name = f"{self.count:x}"
        self.sealed.append((name, samples))
        with suppress(Killed):
            seals(self.world, name, samples)(AwryStore(self.world, dies_at))

    @precondition(lambda self: self.sealed)
    @rule(data=st.data(), dies_at=st.none() | st.integers(1, 12))
    def seal_again(self, data: st.DataObject, dies_at: int | None) -> None:
        """As who has had no reply, or salvages what another is salvaging."""
        name, samples = data.draw(st.sampled_from(self.sealed))
        self.count += 1
        with suppress(Killed):
            seals(self.world, name, samples, f"-salvage-{self.count:016x}")(AwryStore(self.world, dies_at))

    @rule(
        pool_samples=st.sampled_from([0, 3, 8]),
        at=st.sampled_from([0, 4]),
        dies_at=st.none() | st.integers(1, 30),
    )
    def rotate(self, pool_samples: int, at: int, dies_at: int | None) -> None:
        waiting = sum(len(seen) for name, seen in self.seen().shards.items() if not self.seen().covers(name))
        try:
            done = self.pool(dies_at).rotate(at, pool_samples)
        except Killed:
            return
        assert done.committed == (waiting >= max(1, at))
        assert done.promoted.samples == (waiting if done.committed else 0)
        if done.committed:
            self.world.told.append(f"rotated {done.generation} {Pool(URL).manifest(done.generation).digest}")

    @rule(dies_at=st.none() | st.integers(1, 40))
    def retire(self, dies_at: int | None) -> None:
        try:
            done = self.pool(dies_at).retire()
        except Killed:
            return
        self.world.told += [f"retired {generation}" for generation in done.retired]
        held = {
            *self.pinned.values(),
            *(m.generation for _, m, end in self.readers if self.world.hand.at < end),
        }
        assert not held & set(done.retired)

    @rule(pool_samples=st.sampled_from([0, 3]))
    def a_turn(self, pool_samples: int) -> None:
        """Go on, as most histories do most of the time."""
        self.seal(2, None)
        self.rotate(pool_samples, 0, None)
        self.retire(None)

    @rule()
    def read(self) -> None:
        reader = Follower(self.pool(), None, follow=True, timeout_s=0)
        newest = self.seen().manifests[-1]
        if newest.shards:
            self.readers.append((reader, reader.choose(), self.world.hand.at + TTL_S))

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.readers) - 1))
        reader, manifest, end = self.readers[number]
        assert reader._lease is not None
        reader._lease.renew()
        if self.world.hand.at < end:
            self.readers[number] = reader, manifest, self.world.hand.at + TTL_S

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.readers.pop(data.draw(st.integers(0, len(self.readers) - 1)))[0].close()

    @rule(part=st.sampled_from([0.1, 0.5, 1.0]))
    def time_passes(self, part: float) -> None:
        self.world.hand.at += part * TTL_S + (SLACK_S + 1) * (part == 1)

    @rule(wrong_s=st.sampled_from([-1e6, -TTL_S, 0.0, TTL_S, 1e6]))
    def the_wall_clock_jumps(self, wrong_s: float) -> None:
        self.world.hand.wrong_s = wrong_s

    @rule(name=st.sampled_from(["best", "last"]), back=st.integers(0, 3))
    def pin(self, name: str, back: int) -> None:
        generation = max(0, len(self.seen().slots) - 1 - back)
        try:
            self.pinned[name] = self.pool().pin(name, generation)
        except NotFound:
            assert back >= 2, "a generation that is kept cannot be pinned"

    @rule(name=st.sampled_from(["best", "last"]))
    def unpin(self, name: str) -> None:
        self.pool().unpin(name)
        self.pinned.pop(name, None)

    def seen(self):
        return look(self.world.objects(), self.world.told)

    @invariant()
    def nothing_is_wrong(self) -> None:
        seen = self.seen()
        assert seen.faults == []
        self.world.told += [f"promoted {name} {n}" for name, n in seen.promotions if n not in self.looked_at]
        self.looked_at.update(manifest.generation for manifest in seen.manifests)
        for generation in self.pinned.values():
            assert isinstance(seen.slots[generation], Manifest), f"I4: the pinned {generation} was retired"

    @invariant()
    def who_holds_a_lease_reads_and_who_does_not_is_told(self) -> None:
        there = self.world.objects()
        for reader, manifest, end in self.readers:
            if self.world.hand.at < end:
                reader.check()
                assert all(f"shards/{shard.name}" in there for shard in manifest.shards), "I4"
            else:
                with pytest.raises(LostLease):
                    reader.check()

    def teardown(self) -> None:
        for reader, _, _ in self.readers:
            reader.close()
        Pool(URL).rotate()
        assert self.seen().waiting == []
        self.world.begin = {}
        self.world.rewind()
        self.uses.__exit__(None, None, None)


def test_histories_agree_with_what_was_told():
    quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    how = settings(
        max_examples=60, stateful_step_count=40, deadline=None, derandomize=True, suppress_health_check=quiet
    )
    run_state_machine_as_test(History, settings=how)


@pytest.mark.long
def test_thousands_of_histories_agree_with_what_was_told():
    how = settings(
        max_examples=5_000, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(History, settings=how)
