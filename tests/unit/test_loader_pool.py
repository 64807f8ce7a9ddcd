"""A loader on a pool: waits for the first samples, follows rotations, tells what it served."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
from loading import fill_pool, keys

from wlshard import (
    AccessDenied,
    CursorMismatch,
    Loader,
    LostLease,
    NotFound,
    Pool,
    PoolStarved,
    StoreUnavailable,
    clock,
    samples,
)
from wlshard.pool.follow import POLL_S
from wlshard.pool.lease import Lease


class StillClock:
    """A clock that moves only when someone sleeps; `then` maps a time to what happens at it."""

    def __init__(self, then=None) -> None:
        self.at = 1000.0
        self.then = dict(then or {})
        self.slept: list[float] = []

    def time(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds
        for moment in [moment for moment in self.then if self.at - 1000.0 >= moment]:
            self.then.pop(moment)()


def flat(batches) -> list[str]:
    return [key for batch in batches for key in batch["__key__"]]


@pytest.fixture(params=["local", "memory"])
def pool(request, tmp_path) -> Pool:
    url = str(tmp_path / "pool") if request.param == "local" else request.getfixturevalue("memory_url")
    return fill_pool(url, range(30))


@pytest.mark.parametrize("shuffle", [0, 24])
def test_each_epoch_follows_the_rotation(pool, shuffle) -> None:
    with Loader(pool.url, batch_size=4, shuffle=shuffle) as loader:
        assert len(loader) == 8
        assert sorted(flat(loader)) == keys(30)
        iterator = iter(loader)
        held = [next(iterator)]
        fill_pool(pool.url, range(30, 43))
        assert sorted(flat([*held, *iterator])) == keys(30)  # the epoch stays with its generation
        assert loader.stats()["generation"] is None
        assert sorted(flat(loader)) == keys(43)[30:]
        assert sorted(flat(loader)) == keys(43)[30:]  # served again as long as nothing is newer


def test_follow_none_stays_with_its_generation_and_a_named_one_too(pool) -> None:
    with Loader(pool, batch_size=4, follow=None) as stays, Loader(f"{pool.url}@1", batch_size=4) as named:
        for loader in (stays, named):
            assert len(flat(loader)) == 30
        fill_pool(pool.url, range(30, 43))
        for loader in (stays, named):
            assert sorted(flat(loader)) == keys(30)
            assert loader.stats()["generation"] == 1
            assert loader.state_dict()["generation"] == 1


def test_a_missing_pool_is_not_found_at_once(tmp_path) -> None:
    with clock.use(StillClock()) as still:
        for source in (Pool(tmp_path / "absent"), str(tmp_path / "absent")):
            with Loader(source) as loader, pytest.raises(NotFound):
                list(loader)
            with pytest.raises(NotFound):
                list(samples(source))
    assert still.slept == []


def test_an_empty_pool_is_waited_for_with_messages_then_starved(tmp_path, caplog) -> None:
    pool = Pool(tmp_path / "pool").create()
    with clock.use(StillClock()) as still, Loader(pool, timeout_s=600) as loader:
        with pytest.raises(PoolStarved, match="wl-rotate") as caught:
            list(loader)
        assert caught.value.url == pool.url
        assert max(still.slept) <= POLL_S <= 0.1
        assert still.at - 1000 >= 600
        assert loader.stats()["waited_s"] >= 600
    told = [record.getMessage() for record in caplog.records]
    assert all(pool.url in message for message in told)
    assert 4 <= len(told) <= 8  # at 0, 10, 20, 40, 80, 160, 320 s
    assert "for 0 s" in told[0]


def test_the_first_commit_ends_the_waiting(tmp_path) -> None:
    pool = Pool(tmp_path / "pool").create()
    with clock.use(StillClock({5.0: lambda: fill_pool(pool.url, range(7))})) as still:
        with Loader(pool, batch_size=4) as loader:
            assert flat(loader) == keys(7)
        assert 5.0 <= still.at - 1000.0 <= 5.0 + 2 * POLL_S


def test_a_starved_loader_may_try_again(tmp_path) -> None:
    pool = Pool(tmp_path / "pool").create()
    with clock.use(StillClock()), Loader(pool, batch_size=4, timeout_s=1) as loader:
        with pytest.raises(PoolStarved):
            next(iter(loader))
        fill_pool(pool.url, range(7))
        assert flat(loader) == keys(7)
        assert loader.stats()["epoch"] == 1


def test_a_shard_that_went_away_is_a_lost_lease(tmp_path) -> None:
    pool = fill_pool(str(tmp_path / "pool"), range(30))
    with Loader(pool, batch_size=4) as loader:
        len(loader)
        gone = Path(pool.url) / "shards" / pool.newest().shards[1].name
        gone.unlink()
        gone.with_suffix(".idx").unlink()
        with pytest.raises(LostLease, match="generation 1") as caught:
            list(loader)
        assert caught.value.url.endswith(gone.name)


def test_an_epoch_lost_before_its_first_batch_is_tried_again_with_the_newest_generation(tmp_path) -> None:
    pool = fill_pool(str(tmp_path / "pool"), range(30))
    with Loader(pool, batch_size=4, shuffle=24) as loader:
        for shard in pool.newest().shards:
            (Path(pool.url) / "shards" / shard.name).unlink()
        with pytest.raises(LostLease):
            next(iter(loader))
        fill_pool(pool.url, range(100, 110))
        assert sorted(flat(loader)) == [f"{number:06d}" for number in range(100, 110)]
        assert loader.stats()["epoch"] == 1


def test_a_cursor_of_another_generation_than_the_one_named_is_a_mismatch(pool) -> None:
    with Loader(pool.url + "@1", batch_size=4) as loader:
        next(iter(loader))
        state = loader.state_dict()
    fill_pool(pool.url, range(100, 110))
    with Loader(pool.url + "@2", batch_size=4) as loader:
        loader.load_state_dict(state)
        with pytest.raises(CursorMismatch, match="generation=1, here it is 2"):
            next(iter(loader))


def test_what_is_served_is_noted_in_the_pool(pool) -> None:
    with (
        Loader(pool, batch_size=4) as loader,
        Loader(f"{pool.url}@1", batch_size=4, rank=1, world_size=2) as other,
    ):
        list(loader)
        list(loader)
        list(other)
    assert sum(note.served for note in pool.served(1)) == 60 + 15
    assert pool.status().reuse == pytest.approx(75 / 30)


def test_notes_are_at_most_one_a_second(tmp_path, monkeypatch) -> None:
    pool = fill_pool(str(tmp_path / "pool"), range(30))
    noted = []
    monkeypatch.setattr(Lease, "note", lambda self, served, waited: noted.append(served))
    still = StillClock()
    with clock.use(still), Loader(pool) as loader:
        for number, _ in enumerate(loader, 1):
            still.at += 0.3
            if number == 25:
                break
    assert noted == [5, 4, 4, 4, 4, 4]


@pytest.mark.parametrize("error", [AccessDenied, StoreUnavailable])
def test_a_pool_that_cannot_be_written_is_read_and_says_so(tmp_path, monkeypatch, caplog, error) -> None:
    pool = fill_pool(str(tmp_path / "pool"), range(30))

    def refuse(self, name, data):
        raise error("no", url=name)

    monkeypatch.setattr(type(pool.store), "put", refuse)
    with Loader(pool, batch_size=4) as loader:
        assert len(flat(loader)) == 30
        list(loader)
    told = [record.getMessage() for record in caplog.records]
    if error is AccessDenied:
        assert len(told) == 1
        assert "may be retired" in told[0]
        assert "not counted" in told[0]
    else:
        assert "without a lease" in told[0]


def test_samples_of_a_pool_are_its_newest_generation_in_order(pool) -> None:
    rows = samples(pool.url)
    assert [sample["__key__"] for sample in rows] == keys(30)
    fill_pool(pool.url, range(30, 35))
    assert [sample["__key__"] for sample in rows] == keys(35)[30:]
    assert [sample["__key__"] for sample in samples(f"{pool.url}@1")] == keys(30)


def test_rotations_while_reading_lose_and_repeat_nothing(tmp_path, caplog) -> None:
    caplog.set_level(logging.ERROR)
    pool = fill_pool(str(tmp_path / "pool"), range(20))
    done = threading.Event()

    def rotate() -> None:
        for start in range(20, 200, 20):
            fill_pool(pool.url, range(start, start + 20))
        done.set()

    rotator = threading.Thread(target=rotate)
    rotator.start()
    with Loader(pool, batch_size=3, shuffle=24) as loader:
        while True:
            last = done.is_set()
            epoch = sorted(flat(loader))
            assert len(epoch) == 20
            assert epoch == [f"{n:06d}" for n in range(int(epoch[0]), int(epoch[0]) + 20)]
            if last:
                break
    rotator.join()
    assert epoch[-1] == "000199"
