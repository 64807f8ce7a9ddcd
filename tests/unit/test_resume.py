"""Saved anywhere, restored elsewhere: exactly what was left."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from loading import fill_pool, row, write_shards

from wlshard import CursorMismatch, Loader
from wlshard.testing.resume import check_resume, check_resume_over_worlds
from wlshard.testing.values import same


@pytest.mark.parametrize("shuffle", [0, 1, 60])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_loader_resumes_at_every_step(tmp_path, shuffle, batch_size) -> None:
    folder = write_shards(tmp_path / "x", 3, 26)
    states = check_resume(
        lambda: Loader(folder, batch_size=batch_size, shuffle=shuffle, seed=3, cache_dir=str(tmp_path)),
        every=1 if batch_size else 5,
    )
    assert states >= 15


@pytest.mark.parametrize("shuffle", [0, 12])
def test_compressed_and_streamed_data_resume(tmp_path, shuffle) -> None:
    plain = Path(write_shards(tmp_path / "plain", 2, 20))
    for path in plain.glob("*.tar"):
        (tmp_path / f"{path.stem}.tar.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    check_resume(lambda: Loader(str(tmp_path), batch_size=3, shuffle=shuffle, cache_dir=str(tmp_path / "c")))

    class Rows:
        def __iter__(self):
            return (row(number) for number in range(17))

    check_resume(lambda: Loader(Rows(), batch_size=3, shuffle=shuffle))


def test_transforms_with_an_rng_resume_with_the_same_numbers() -> None:
    rows = [row(number) for number in range(20)]

    def noisy(sample, rng):
        return {"__key__": sample["__key__"], "noise": rng.random()}

    check_resume(lambda: Loader(rows, batch_size=3, shuffle=20, transform=noisy))


@pytest.mark.parametrize("shuffle", [0, 200])
def test_the_world_size_may_change(tmp_path, shuffle) -> None:
    folder = write_shards(tmp_path / "x", 4, 75)
    check_resume_over_worlds(
        lambda rank, world: Loader(
            folder, batch_size=2, shuffle=shuffle, rank=rank, world_size=world, cache_dir=str(tmp_path)
        ),
        worlds=(1, 2, 3, 5),
        every=4,
    )


def test_after_a_change_of_the_world_later_epochs_keep_the_order_the_job_began_with() -> None:
    rows = [row(number) for number in range(60)]

    def epochs(world: int, state=None) -> list[list[str]]:
        found = []
        loaders = [Loader(rows, batch_size=2, shuffle=100, rank=r, world_size=world) for r in range(world)]
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(state)
        for _ in range(2):
            steps = list(zip(*loaders, strict=True))
            found.append([key for turn in steps for batch in turn for key in batch["__key__"]])
        return found

    first = Loader(rows, batch_size=2, shuffle=100, rank=0, world_size=2)
    iterator = iter(first)
    next(iterator)
    state = first.state_dict()
    first.close()
    assert epochs(1, state)[1] == epochs(2)[1] == epochs(3, state)[1]


def test_steps_counted_by_batches_resume_across_epochs() -> None:
    rows = [row(number) for number in range(10)]
    assert check_resume(lambda: Loader(rows, batch_size=3, shuffle=8, batches=7), epochs=3) == 3 * 8 + 1


def test_chained_epochs_resume() -> None:
    rows = [row(number) for number in range(10)]
    with Loader(rows, batch_size=3, epochs=3) as whole:
        found = [batch["__key__"] for batch in whole]
    assert len(found) == 12
    with Loader(rows, batch_size=3, epochs=3) as loader:
        for number, _ in enumerate(loader, 1):
            with Loader(rows, batch_size=3, epochs=3) as fresh:
                fresh.load_state_dict(loader.state_dict())
                assert len(fresh) == 12 - number
                assert [batch["__key__"] for batch in fresh] == found[number:]


def test_a_pool_resumes_in_its_generation_and_then_follows(tmp_path) -> None:
    pool = fill_pool(str(tmp_path / "pool"), range(40))
    loader = Loader(pool, batch_size=4, shuffle=20)
    iterator = iter(loader)
    first = [next(iterator)["__key__"] for _ in range(3)]
    state = loader.state_dict()
    fill_pool(pool.url, range(100, 124))
    rest = [batch["__key__"] for batch in iterator]
    second = [batch["__key__"] for batch in loader]
    edge = loader.state_dict()
    third = [batch["__key__"] for batch in loader]
    loader.close()
    assert state["generation"] == 1
    assert sorted(key for batch in first + rest for key in batch) == [f"{n:06d}" for n in range(40)]
    assert sorted(key for batch in second for key in batch) == [f"{n:06d}" for n in range(100, 124)]
    with Loader(pool, batch_size=4, shuffle=20) as again:
        again.load_state_dict(state)
        assert len(again) == 7
        assert [batch["__key__"] for batch in again] == rest
        assert [batch["__key__"] for batch in again] == second
    with Loader(pool, batch_size=4, shuffle=20) as again:
        again.load_state_dict(edge)
        assert [batch["__key__"] for batch in again] == third


def test_an_edge_between_epochs_resumes_into_the_newest_generation(tmp_path) -> None:
    pool = fill_pool(str(tmp_path / "pool"), range(10))
    with Loader(pool, batch_size=4) as loader:
        list(loader)
        state = loader.state_dict()
    assert (state["generation"], state["epoch"], state["next_batch"]) == (None, 1, 0)
    fill_pool(pool.url, range(50, 55))
    with Loader(pool, batch_size=4) as loader:
        loader.load_state_dict(state)
        assert sum(len(batch["__key__"]) for batch in loader) == 5


def saved(**options) -> dict:
    with Loader([row(n) for n in range(200)], **{"batch_size": 4, "shuffle": 96, **options}) as loader:
        iterator = iter(loader)
        next(iterator)
        return loader.state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 5}, "batch_size=4, here it is 5"),
        ({"seed": 1}, "seed=0, here it is 1"),
        ({"shuffle": 200}, "window=8, here it is 16"),
        ({"shuffle": 0}, "window=8, here it is 0"),
    ],
)
def test_a_changed_order_is_a_mismatch_that_names_both_values(options, message) -> None:
    state = saved()
    with Loader([row(n) for n in range(200)], **{"batch_size": 4, "shuffle": 96, **options}) as loader:

        def resume() -> None:
            loader.load_state_dict(state)
            next(iter(loader))

        with pytest.raises(CursorMismatch, match=message):
            resume()


def test_a_shuffle_that_gives_the_same_order_is_none() -> None:
    with Loader([row(n) for n in range(200)], batch_size=4, shuffle=99) as loader:
        loader.load_state_dict(saved())
        assert len(list(loader)) == 49


def test_changed_data_is_a_mismatch(tmp_path) -> None:
    folder = write_shards(tmp_path / "x", 2, 20)
    with Loader(folder, batch_size=2) as loader:
        next(iter(loader))
        state = loader.state_dict()
    write_shards(tmp_path / "x" / "y", 1, 5)
    (tmp_path / "x" / "y" / "x-0-0.tar").rename(tmp_path / "x" / "x-9.tar")
    with Loader(folder, batch_size=2, cache_dir=str(tmp_path)) as loader:
        loader.load_state_dict(state)
        with pytest.raises(CursorMismatch, match="digest"):
            next(iter(loader))
        assert loader.state_dict() == state  # nothing is lost by trying


def test_shards_may_move_to_another_folder(tmp_path) -> None:
    with Loader(write_shards(tmp_path / "x", 2, 20), batch_size=2) as loader:
        next(iter(loader))
        state = loader.state_dict()
    with Loader(write_shards(tmp_path / "elsewhere", 2, 20), batch_size=2) as loader:
        loader.load_state_dict(state)
        assert len(list(loader)) == 9


def test_a_generation_that_is_gone_is_a_mismatch(tmp_path) -> None:
    pool = fill_pool(str(tmp_path / "pool"), range(10))
    with Loader(pool, batch_size=2) as loader:
        next(iter(loader))
        state = loader.state_dict()
    other = fill_pool(str(tmp_path / "other"), range(10))
    with Loader(other, batch_size=2) as loader:
        loader.load_state_dict(state)
        with pytest.raises(CursorMismatch, match="digest"):
            next(iter(loader))
    with Loader(other, batch_size=2) as loader:
        loader.load_state_dict({**state, "generation": 7})
        with pytest.raises(CursorMismatch, match="generation 7"):
            next(iter(loader))


@pytest.mark.parametrize(
    "state", [{}, {"version": 2}, [], {**saved(), "epoch": -1}, {**saved(), "lanes": "x"}]
)
def test_what_is_no_cursor_is_a_mismatch(state) -> None:
    with pytest.raises(CursorMismatch, match="state_dict"):
        Loader([row(1)]).load_state_dict(state)


def test_state_before_first_use_needs_no_data(tmp_path) -> None:
    loader = Loader(str(tmp_path / "absent"), batch_size=3, seed=5)
    state = loader.state_dict()
    assert (state["epoch"], state["next_batch"], state["digest"]) == (0, 0, None)
    loader.load_state_dict(state)


def test_the_oracle_sees_a_loader_that_forgets() -> None:
    class Forgets(Loader):
        def load_state_dict(self, state):
            super().load_state_dict({**state, "next_batch": max(0, state["next_batch"] - 1)})

    with pytest.raises(AssertionError, match="saved in epoch 0 after 1 of 3 batches"):
        check_resume(lambda: Forgets([row(n) for n in range(6)], batch_size=2))


def test_the_oracle_sees_another_order_after_resume() -> None:
    seeds = iter(range(1000))

    class Drifts(Loader):
        def __iter__(self):
            found = list(super().__iter__())
            return iter(found[::-1] if next(seeds) > 2 else found)

    with pytest.raises(AssertionError, match="of the rest is"):
        check_resume(lambda: Drifts([row(n) for n in range(6)], batch_size=2))


def test_the_oracle_takes_nan_for_itself_and_tells_shapes_and_dtypes_apart() -> None:
    rows = [{"x": float("nan"), "y": np.float32("nan"), "z": np.array([np.nan])} for _ in range(4)]
    assert check_resume(lambda: Loader(rows, batch_size=2, collate_fn=list)) > 0
    torch = pytest.importorskip("torch")
    assert same(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]))
    assert not same(torch.ones(1), torch.ones(3))
    assert not same(torch.ones(2), torch.ones(2, dtype=torch.float64))
    assert not same(float("nan"), 1.0)
