"""Ranks on a pool that moves: all in the same generation, whenever it rotates, and when they resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from loading import fill_pool

from wlshard import CursorMismatch, Loader, Pool, PoolStarved, UsageError, WlshardError, clock
from wlshard.place import Place, launch_id
from wlshard.pool import accord
from wlshard.pool.accord import Accord
from wlshard.testing.resume import check_resume
from wlshard.testing.values import keys_of


class Ranks:
    """The loaders of all ranks of a job, in step, in threads of one process."""

    def __init__(self, source, world: int, job: str, **options) -> None:
        given = {"batch_size": 2, "shuffle": 24, "job": job, "timeout_s": 20}
        self.loaders = [
            Loader(source, **given | options, rank=rank, world_size=world) for rank in range(world)
        ]

    def all(self, call) -> list:
        """What `call` gives for each rank; the last rank is asked first."""
        found: list = [None] * len(self.loaders)

        def one(rank: int) -> None:
            try:
                found[rank] = call(self.loaders[rank])
            except WlshardError as error:
                found[rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(found))]
        for thread in reversed(threads):
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def epoch(self, between=lambda: None) -> tuple[list[int | None], list[str]]:
        """The generation that each rank read, and all keys."""

        def read(loader: Loader) -> tuple[int | None, list[str]]:
            steps = iter(loader)
            keys = [*keys_of(next(steps))]
            generation = loader.stats()["generation"]
            between()
            return generation, keys + [key for batch in steps for key in keys_of(batch)]

        found = self.all(read)
        assert all(isinstance(one, tuple) for one in found), found
        return [one for one, _ in found], sorted(key for _, keys in found for key in keys)

    def close(self) -> None:
        for loader in self.loaders:
            loader.close()


@pytest.fixture
def pool(tmp_path) -> Pool:
    return fill_pool(str(tmp_path / "pool"), range(24))


@pytest.mark.parametrize("workers", [0, 1])
def test_all_ranks_switch_generation_at_the_same_epoch(pool, workers) -> None:
    ranks = Ranks(pool.url, 3, "a", workers=workers)
    assert ranks.all(len) == [4, 4, 4]
    filled = iter(range(100, 1000, 12))
    lock = threading.Lock()

    def rotate() -> None:
        with lock:
            start = next(filled)
            fill_pool(pool.url, range(start, start + 12))

    seen = []
    for _ in range(3):
        generations, keys = ranks.epoch(rotate)
        assert len(set(generations)) == 1
        assert len(set(keys)) == len(keys)
        seen.append(generations[0])
    assert seen[0] == 1
    assert 1 < seen[1] <= 4 < seen[2] <= 7
    ranks.close()


def test_the_choice_is_that_of_rank_0_though_another_sees_a_newer_generation(pool) -> None:
    ranks = Ranks(pool.url, 2, "b")
    first, second = ranks.loaders
    began = iter(first)
    next(began)
    fill_pool(pool.url, range(100, 112))
    other = iter(second)
    next(other)
    assert second.stats()["generation"] == first.stats()["generation"] == 1
    assert len(first) == len(second) == 6
    ranks.close()


def test_ranks_that_stay_with_one_generation_agree_on_it_and_pass_over_others(pool) -> None:
    ranks = Ranks(pool.url, 2, "l", follow=None)
    next(iter(ranks.loaders[0]))
    fill_pool(pool.url, range(100, 112))
    for _ in range(2):
        assert ranks.epoch()[0] == [1, 1]
    ranks.close()


def test_ranks_that_cannot_agree_are_told_at_once(pool) -> None:
    def first(source: str, **options) -> object:
        with Loader(source, batch_size=2, rank=0, world_size=2, **options) as loader:
            return next(iter(loader))

    for follow in ("epoch", None):
        with pytest.raises(UsageError, match=r"2 ranks must read the same generation.*job="):
            first(pool.url, follow=follow)
    assert first(pool.url, job="c")
    assert first(f"{pool.url}@1")


def test_a_job_name_that_another_start_had_is_refused(pool, monkeypatch) -> None:
    with Loader(pool.url, batch_size=2, rank=0, world_size=2, job="d") as loader:
        next(iter(loader))
    with Loader(pool.url, batch_size=2, rank=0, world_size=2, job="d") as loader:  # the second of this start
        next(iter(loader))
    monkeypatch.setattr(accord, "_accords", type(accord._accords)())  # as in a new process
    with Loader(pool.url, batch_size=2, rank=0, world_size=2, job="d") as again:
        steps = iter(again)
        with pytest.raises(UsageError, match="another start"):
            next(steps)


def test_an_error_of_rank_0_is_raised_on_all(tmp_path) -> None:
    pool = Pool(str(tmp_path / "pool")).create()
    ranks = Ranks(pool.url, 3, "e", timeout_s=0.1)
    found = ranks.all(lambda loader: next(iter(loader)))
    assert [type(error) for error in found] == [PoolStarved] * 3
    assert "on rank 0: no samples" in str(found[2])
    fill_pool(pool.url, range(12))
    assert ranks.epoch()[0] == [1, 1, 1]
    ranks.close()


def test_who_waits_for_rank_0_says_so_and_ends(pool, caplog) -> None:
    class StillClock:
        at = 0.0
        monotonic = time = lambda self: self.at

        def sleep(self, seconds: float) -> None:
            self.at += seconds

    waits = Accord(pool.store, Place(1, 2), "f", 60.0)
    with clock.use(StillClock()), pytest.raises(PoolStarved, match="rank 0 chose no generation in 90 s"):
        waits.settle(0, lambda: 1)
    assert [record.getMessage()[:14] for record in caplog.records] == ["rank 1 waits f"] * 4


def test_old_choices_are_swept(pool) -> None:
    Accord(pool.store, Place(0, 2), "g", 60.0).settle(0, lambda: 1)
    (choice,) = (Path(pool.url) / "choices").iterdir()
    pool.retire()
    assert choice.exists()
    os.utime(choice, (1, 1))
    assert pool.retire().orphans == 1
    assert not choice.exists()


@pytest.mark.parametrize(
    ("environ", "known"),
    [
        ({}, None),
        ({"TORCHELASTIC_RUN_ID": "none", "MASTER_PORT": "29500"}, None),
        ({"TORCHELASTIC_RUN_ID": "r", "TORCHELASTIC_RESTART_COUNT": "2"}, "r/2//"),
        ({"SLURM_STEP_ID": "0", "SLURM_JOB_ID": "7"}, "0/7/"),
        ({"SLURM_JOB_ID": "7"}, None),
        ({"PMIX_NAMESPACE": "host-12@1"}, "host-12@1"),
    ],
)
def test_a_launcher_tells_what_this_start_is_called(environ, known) -> None:
    assert launch_id(environ) == known


GLOO = """
import json, sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from wlshard import Loader
rank, world, pool, file, state = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:6]
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
model = DistributedDataParallel(torch.nn.Linear(1, 1))
if rank == 0:
    sys.path.insert(0, sys.argv[6])
    from loading import fill_pool
with Loader(pool, batch_size=2, shuffle=24, timeout_s=60) as loader:
    if rank == 0:
        assert len(loader) > 0  # alone: no collective call
    found = []
    for epoch in range(2):
        steps = []
        for batch in loader:
            if rank == 0 and not steps and epoch == 0:
                fill_pool(pool, range(100, 113))
            steps.append((loader.stats()["generation"], batch["__key__"]))
            if epoch == 1 and len(steps) == 2:
                break
            model(torch.tensor(batch["n.index"][:, None]).float()).sum().backward()  # all wait for all
        found.append(steps)
    print(json.dumps([found, loader.state_dict()]))
dist.destroy_process_group()
"""


def test_processes_of_torch_distributed_agree_and_one_rank_takes_up_what_two_left(pool, tmp_path) -> None:
    pytest.importorskip("torch")
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", GLOO]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), "2", pool.url, str(tmp_path / "group"), "", here],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    found = [json.loads(rank.communicate(timeout=100)[0].splitlines()[-1]) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    (one, state), (two, other_state) = found
    assert state == other_state
    assert [[generation for generation, _ in epoch] for epoch in one] == [[1] * 6, [2] * 2]
    first = [key for turn in zip(one[0], two[0], strict=True) for _, keys in turn for key in keys]
    assert sorted(first) == [f"{number:06d}" for number in range(24)]
    given = [key for turn in zip(one[1], two[1], strict=True) for _, keys in turn for key in keys]
    with Loader(pool.url, batch_size=2, shuffle=24) as loader:
        loader.load_state_dict(state)
        given += [key for batch in loader for key in batch["__key__"]]
    assert sorted(given) == [f"{number:06d}" for number in range(100, 113)]


# --- a state whose generation is gone


def test_a_state_whose_generation_is_gone_fails_or_advances_as_was_said(pool, caplog) -> None:
    with Loader(pool.url, batch_size=2, shuffle=24) as loader:
        list(loader)
        next(iter(loader))
        state = loader.state_dict()
    for start in (100, 200):
        fill_pool(pool.url, range(start, start + 10))
    assert 1 in pool.retire().retired
    with Loader(pool.url, batch_size=2, shuffle=24) as loader:
        loader.load_state_dict(state)
        with pytest.raises(CursorMismatch, match=r"generation 1, which is gone.*resume=\"advance\""):
            next(iter(loader))
    with Loader(pool.url, batch_size=2, shuffle=24, resume="advance") as loader:
        loader.load_state_dict(state)
        assert len(loader) == 5
        assert sorted(key for batch in loader for key in batch["__key__"]) == [
            f"{n:06d}" for n in range(200, 210)
        ]
        assert loader.stats()["epoch"] == 2
    told = [record.getMessage() for record in caplog.records]
    assert told == ["generation 1, in which the saved epoch 1 stood, is gone: it begins anew in the newest"]
    with Loader(f"{pool.url}@3", batch_size=2, shuffle=24, resume="advance") as loader:
        loader.load_state_dict(state)
        with pytest.raises(CursorMismatch, match="generation=1, here it is 3"):
            next(iter(loader))


def test_a_pin_keeps_what_a_state_names(pool) -> None:
    with Loader(pool.url, batch_size=2, shuffle=24, pin="train") as loader:
        steps = iter(loader)
        next(steps)
        state, rest = loader.state_dict(), [batch["__key__"] for batch in steps]
    fill_pool(pool.url, range(100, 110))
    fill_pool(pool.url, range(200, 210))
    pool.retire()
    with Loader(pool.url, batch_size=2, shuffle=24, pin="train", resume="advance") as loader:
        loader.load_state_dict(state)
        assert [batch["__key__"] for batch in loader] == rest


def test_ranks_resume_and_advance_together(pool) -> None:
    ranks = Ranks(pool.url, 2, "h")
    ranks.all(lambda loader: next(iter(loader)))
    states = ranks.all(lambda loader: loader.state_dict())
    assert states[0] == states[1]
    ranks.close()
    again = Ranks(pool.url, 3, "i")
    again.all(lambda loader: loader.load_state_dict(states[0]))
    generations, keys = again.epoch()
    assert (generations, len(set(keys))) == ([1] * 3, 20)
    again.close()
    fill_pool(pool.url, range(50, 60))
    fill_pool(pool.url, range(100, 112))
    assert 1 in pool.retire().retired
    again = Ranks(pool.url, 3, "j", resume="advance")
    again.all(lambda loader: loader.load_state_dict(states[0]))
    assert again.epoch() == ([3] * 3, [f"{n:06d}" for n in range(100, 112)])
    again.all(lambda loader: loader.load_state_dict(states[0]))
    again.close()
    again = Ranks(pool.url, 3, "k")
    again.all(lambda loader: loader.load_state_dict(states[0]))
    found = again.all(lambda loader: next(iter(loader)))
    assert [type(error) for error in found] == [CursorMismatch] * 3
    again.close()


@pytest.mark.parametrize("resume", ["pin", None, True])
def test_a_policy_of_another_name_is_refused(resume) -> None:
    with pytest.raises(UsageError, match="resume="):
        Loader("x.tar", resume=resume)


# --- every so many batches, and no longer than so many epochs


def test_follow_n_ends_an_epoch_at_its_boundary_when_there_is_a_newer_generation(pool) -> None:
    with Loader(pool.url, batch_size=2, shuffle=24, follow=3) as loader:
        with pytest.raises(TypeError):
            len(loader)
        assert len(list(loader)) == 12  # nothing newer: the epoch is whole
        steps = iter(loader)
        next(steps)
        fill_pool(pool.url, range(100, 110))
        assert len(list(steps)) == 2
        state = loader.state_dict()
        assert (state["epoch"], state["next_batch"], state["last"]) == (2, 0, 1)
        assert sorted(key for batch in loader for key in batch["__key__"]) == [
            f"{n:06d}" for n in range(100, 110)
        ]
    with Loader(f"{pool.url}@1", batch_size=2, follow=3) as loader:
        assert len(loader) == len(list(loader)) == 12


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_leave_a_generation_at_the_same_batch(pool, workers) -> None:
    ranks = Ranks(pool.url, 3, "m", follow=2, workers=workers)
    once = threading.Lock()

    def rotate() -> None:
        if once.acquire(blocking=False):
            fill_pool(pool.url, range(100, 112))

    found = ranks.all(lambda loader: [(rotate(), keys_of(batch))[1] for batch in loader])
    assert {len(batches) for batches in found} <= {2, 4}
    assert len({len(batches) for batches in found}) == 1
    states = ranks.all(lambda loader: loader.state_dict())
    assert states[0] == states[1] == states[2]
    assert ranks.epoch() == ([2] * 3, [f"{n:06d}" for n in range(100, 112)])
    ranks.close()


def test_a_state_saved_at_a_boundary_looks_there_again(pool) -> None:
    with Loader(pool.url, batch_size=2, shuffle=24, follow=3) as loader:
        steps = iter(loader)
        for _ in range(3):
            next(steps)
        state = loader.state_dict()
    check_resume(lambda: Loader(pool.url, batch_size=2, shuffle=24, follow=3), every=3)
    fill_pool(pool.url, range(100, 110))
    with Loader(pool.url, batch_size=2, shuffle=24, follow=3) as loader:
        loader.load_state_dict(state)
        assert list(loader) == []
        assert loader.stats()["epoch"] == 1
        assert len(list(loader)) == 5


def test_batches_run_on_over_generations(pool) -> None:
    with Loader(pool.url, batch_size=2, shuffle=24, follow=1, batches=6) as loader:
        generations = []
        for number, _ in enumerate(loader):
            generations.append(loader.stats()["generation"])
            if number == 1:
                fill_pool(pool.url, range(100, 110))
    assert generations == [1, 1, 2, 2, 2, 2]


def test_reuse_waits_for_a_newer_generation_after_so_many_epochs(pool) -> None:
    with Loader(pool.url, batch_size=2, shuffle=24, reuse=2, timeout_s=0.1) as loader:
        assert [len(list(loader)) for _ in range(2)] == [12, 12]
        state = loader.state_dict()
        with pytest.raises(PoolStarved, match="no generation after 1 after"):
            list(loader)
        fill_pool(pool.url, range(100, 110))
        assert [len(list(loader)) for _ in range(2)] == [5, 5]
        fill_pool(pool.url, range(200, 204))
        assert len(list(loader)) == 2
    other = fill_pool(str(Path(pool.url).parent / "other"), range(24))
    for _ in range(2):  # what was used before the state was saved counts
        with Loader(other.url, batch_size=2, shuffle=24, reuse=2, timeout_s=0.1) as loader:
            loader.load_state_dict(state)
            with pytest.raises(PoolStarved):
                next(iter(loader))


def test_a_generation_that_is_gone_before_it_was_used_up_is_followed_by_the_newest(pool) -> None:
    with Loader(pool.url, batch_size=2, reuse=3) as loader:
        list(loader)
        fill_pool(pool.url, range(100, 110))
        assert [len(list(loader)) for _ in range(3)] == [5, 5, 5]


@pytest.mark.parametrize("source", ["POOL@1", "follow", "rows"])
def test_reuse_needs_a_pool_that_moves(pool, source) -> None:
    options = {"follow": None} if source == "follow" else {}
    given = {"POOL@1": f"{pool.url}@1", "follow": pool.url, "rows": [{"x": 1}]}[source]
    with Loader(given, batch_size=2, reuse=2, **options) as loader, pytest.raises(UsageError, match="reuse="):
        next(iter(loader))


def test_ranks_that_select_stay_with_one_generation(pool) -> None:
    options = {"batch_size": 2, "rank": 0, "world_size": 2, "select": "True", "batches": 3}
    with Loader(pool.url, job="n", **options) as loader, pytest.raises(UsageError, match="POOL@n"):
        next(iter(loader))
    with Loader(f"{pool.url}@1", **options) as loader:
        assert len(list(loader)) == 3


@pytest.mark.parametrize(
    "options", [{"follow": 0}, {"follow": 1.5}, {"follow": True}, {"reuse": 0}, {"reuse": "2"}]
)
def test_follow_and_reuse_are_whole_numbers(options) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        Loader("x.tar", **options)
