"""torch's DataLoader, torchdata's and Lightning's loops over our data: the Loader's batches in its order."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from copy import copy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from loading import fill_pool, keys, write_shards
from processes import until
from torch.utils.data import DataLoader

from wlshard import Loader, PoolStarved, UsageError
from wlshard.torch import IterableDataset

EPOCHS = 3
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),  # torchdata says it
    # More workers than cores: what is tested is the division, not the speed.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


def dataset(folder: str, **options) -> IterableDataset:
    return IterableDataset(partial(Loader, folder, **{"batch_size": 4, "shuffle": 40, **options}))


def taken(batches) -> list[list[str]]:
    return [batch["__key__"] for batch in batches]


def expected(folder: str, epochs: int = EPOCHS, **options) -> list[list[list[str]]]:
    with Loader(folder, **{"batch_size": 4, "shuffle": 40, **options}) as loader:
        return [taken(loader) for _ in range(epochs)]


@pytest.fixture(autouse=True)
def dataloaders_end() -> Iterator[None]:
    """Wait for what ends by itself once a DataLoader is forgotten."""
    yield
    gc.collect()
    until(lambda: "QueueFeederThread" not in running_threads(), "the end of a queue's thread")


def running_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return write_shards(tmp_path / "x", 3, 58)


@pytest.mark.parametrize("persistent", [False, True], ids=["anew", "persistent"])
@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_a_dataloader_gives_the_loaders_batches_in_every_epoch(folder, workers, persistent) -> None:
    with closing(dataset(folder)) as data:
        batches = DataLoader(
            data, batch_size=None, num_workers=workers, persistent_workers=persistent and workers > 0
        )
        assert len(batches) == 15
        assert [taken(batches) for _ in range(EPOCHS)] == expected(folder)
        del batches


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_is_broken_off_is_followed_by_the_next(folder, workers) -> None:
    with closing(dataset(folder)) as data:
        batches = DataLoader(data, batch_size=None, num_workers=workers)
        next(iter(batches))
        assert taken(batches) == expected(folder)[1]


def test_workers_that_are_not_forked_know_the_rank_of_their_parent(folder, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    ranked = expected(folder, 2)
    with closing(dataset(folder)) as data:
        batches = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="spawn")
        assert [taken(batches) for _ in range(2)] == ranked


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("world", [1, 2])
def test_a_dataloader_that_makes_batches_itself_gives_each_sample_once(folder, world, workers) -> None:
    found, counts = [], []
    for rank in range(world):
        make = partial(Loader, folder, shuffle=40, rank=rank, world_size=world)
        with closing(IterableDataset(make)) as data:
            batches = taken(DataLoader(data, batch_size=4, num_workers=workers))
        counts.append(len(batches))
        found += [key for batch in batches for key in batch]
    assert sorted(found) == keys(58)
    assert len(set(counts)) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataloader_goes_on_where_a_loader_was_saved(folder, workers) -> None:
    whole = expected(folder)
    with Loader(folder, batch_size=4, shuffle=40) as loader:
        list(loader)
        steps = iter(loader)
        given = [next(steps)["__key__"] for _ in range(5)]
        state = json.loads(json.dumps(loader.state_dict()))
    with closing(dataset(folder)) as data:
        data.load_state_dict(state)
        batches = DataLoader(data, batch_size=None, num_workers=workers)
        assert given + taken(batches) == whole[1]
        assert taken(batches) == whole[2]


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("given", [0, 1, 7, 14, 15])
def test_torchdatas_stateful_dataloader_resumes_exactly(folder, workers, given) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    whole = expected(folder)
    with closing(dataset(folder)) as data:
        batches = stateful(data, batch_size=None, num_workers=workers)
        assert taken(batches) == whole[0]
        steps = iter(batches)
        found = [next(steps)["__key__"] for _ in range(given)]
        if given == len(whole[1]):
            assert next(steps, None) is None
        state = batches.state_dict()
        del steps, batches
    with closing(dataset(folder)) as data:
        batches = stateful(data, batch_size=None, num_workers=workers)
        batches.load_state_dict(state)
        if given < len(whole[1]):
            assert found + taken(batches) == whole[1]
        assert taken(batches) == whole[2]
        del batches


def test_a_loader_is_no_dataset_and_says_which_one_to_take(folder) -> None:
    with Loader(folder, batch_size=4) as loader:
        with pytest.raises(TypeError, match=r"IterableDataset of wlshard\.torch"):
            next(iter(DataLoader(loader, batch_size=None)))
        assert len(list(loader)) == 15


def numbers(batches) -> list[int]:
    return sorted(int(key) for batch in taken(batches) for key in batch)


@pytest.mark.parametrize("persistent", [False, True], ids=["anew", "persistent"])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("follow", ["epoch", None])
def test_workers_follow_a_pool_together(tmp_path, workers, persistent, follow) -> None:
    pool = fill_pool(str(tmp_path / "pool"), range(20))
    with closing(dataset(pool.url, follow=follow)) as data:
        batches = DataLoader(data, batch_size=None, num_workers=workers, persistent_workers=persistent)
        first = 0
        for rotates in (True, False, True):
            assert numbers(batches) == list(range(first, first + 20))
            if rotates:
                fill_pool(pool.url, range(first + 20, first + 40))
                first += 20 if follow else 0
        del batches
    assert pool.leases() == []


def test_a_worker_that_begins_later_reads_what_the_first_one_chose(tmp_path, monkeypatch) -> None:
    pool = fill_pool(str(tmp_path / "pool"), range(20))
    with closing(dataset(pool.url)) as data:
        found = []
        for worker in range(2):
            info = SimpleNamespace(id=worker, num_workers=2, seed=7 + worker)
            monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda info=info: info)
            found += copy(data)
            fill_pool(pool.url, range(20, 40))
    assert numbers(found) == list(range(20))


def test_workers_wait_for_fresh_samples_where_a_generation_is_used_up(tmp_path) -> None:
    pool = fill_pool(str(tmp_path / "pool"), range(20))
    with closing(dataset(pool.url, reuse=2, timeout_s=0.2)) as data:
        batches = DataLoader(data, batch_size=None, num_workers=2)
        assert [numbers(batches) for _ in range(2)] == [list(range(20))] * 2
        with pytest.raises(PoolStarved, match="no generation after 1"):
            taken(batches)
        with pytest.raises(PoolStarved, match="no generation after 1"):  # that is not forgotten
            taken(batches)
        fill_pool(pool.url, range(20, 40))
        assert numbers(batches) == list(range(20, 40))
        del batches


def test_workers_of_several_ranks_read_one_generation(tmp_path) -> None:
    pool = fill_pool(str(tmp_path / "pool"), range(20))
    ranks = [dataset(pool.url, rank=rank, world_size=2, job="one start") for rank in range(2)]
    batches = [DataLoader(data, batch_size=None, num_workers=2) for data in ranks]
    for first in (0, 20, 40):
        found = []
        for number, step in enumerate(zip(*map(iter, batches), strict=True)):
            if not number:
                fill_pool(pool.url, range(first + 20, first + 40))
            found += [int(key) for batch in step for key in batch["__key__"]]
        assert sorted(found) == list(range(first, first + 20))
    del batches
    for data in ranks:
        data.close()


class Bare(torch.utils.data.IterableDataset):
    """A dataset of the user's that makes a Loader."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __iter__(self):
        with Loader(self.url, batch_size=4) as loader:
            yield from loader


def test_workers_that_would_read_different_generations_are_told_what_to_do(tmp_path) -> None:
    url = fill_pool(str(tmp_path / "pool"), range(20)).url
    with pytest.raises(UsageError, match=r"wlshard\.torch\.IterableDataset"):
        taken(DataLoader(Bare(url), batch_size=None, num_workers=2))
    assert numbers(DataLoader(Bare(f"{url}@1"), batch_size=None, num_workers=2)) == list(range(20))
    with closing(dataset(url, follow=3)) as data:
        with pytest.raises(UsageError, match="num_workers=0"):
            taken(DataLoader(data, batch_size=None, num_workers=2))
        assert numbers(DataLoader(data, batch_size=None, num_workers=1)) == list(range(20))


def module(seen: list):
    """A Lightning module that learns nothing to speak of and keeps the keys of what it was given."""
    lightning = pytest.importorskip("lightning")

    class Seen(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def training_step(self, batch, number):
            seen.append(batch["__key__"])
            return self.weight**2

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Seen()


def trainer(**options):
    lightning = pytest.importorskip("lightning")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(**{"accelerator": "cpu", "enable_checkpointing": False, **quiet, **options})


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["Loader", "DataLoader"])
def test_lightning_trains_on_every_epoch(folder, kind) -> None:
    seen: list = []
    loader = Loader(folder, batch_size=4, shuffle=40)
    with closing(loader), closing(dataset(folder)) as data:
        batches = loader if kind == "Loader" else DataLoader(data, batch_size=None, num_workers=2)
        trainer(max_epochs=2).fit(module(seen), batches)
    # Lightning may call iter() more than once before it begins: which epochs, is not said.
    whole = expected(folder, 4)
    assert len(seen) == 30
    assert seen[:15] in whole
    assert seen[15:] in whole
    assert seen[:15] != seen[15:]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_goes_on_behind_the_step_of_its_checkpoint(folder, tmp_path, workers) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    checkpoints = pytest.importorskip("lightning.pytorch.callbacks").ModelCheckpoint
    seen: list = []

    def fit(max_steps: int, **options) -> None:
        with closing(dataset(folder)) as data:
            batches = stateful(data, batch_size=None, num_workers=workers)
            callback = checkpoints(tmp_path, "at", every_n_train_steps=20, save_top_k=-1)
            one = trainer(max_epochs=3, max_steps=max_steps, callbacks=[callback], enable_checkpointing=True)
            one.fit(module(seen), batches, **options)
            del one, batches

    fit(20)
    fit(-1, ckpt_path=tmp_path / "at.ckpt")
    assert seen == [batch for epoch in expected(folder) for batch in epoch]
