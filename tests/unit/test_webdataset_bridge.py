"""Our samples in webdataset's pipelines, webdataset's pipelines in our workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from loading import keys
from torch.utils.data import DataLoader

from wlshard import Loader, ShardWriter, samples

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
    # webdataset leaves its shards open until they are forgotten
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <_io:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Two shards of ten digits each."""
    with ShardWriter(str(tmp_path / "x-%06d.tar"), shard_samples=10) as writer:
        for number in range(20):
            image = np.full((4, 5), number, np.uint8)
            writer.write({"__key__": f"{number:06d}", "png": image, "cls": number % 10})
    return str(tmp_path / "x-{000000..000001}.tar")


def test_our_samples_go_into_a_webdataset_pipeline_epoch_after_epoch(shards) -> None:
    pipeline = wds.DataPipeline(
        samples(shards, decode=False),
        wds.shuffle(100),
        wds.decode("l8"),
        wds.to_tuple("__key__", "png", "cls"),
        wds.batched(5),
    )
    for _ in range(2):
        found = list(pipeline)
        assert sorted(key for batch in found for key in batch[0]) == keys(20)
        for names, images, classes in found:
            assert images.tolist() == [np.full((4, 5), int(name)).tolist() for name in names]
            assert classes.tolist() == [int(name) % 10 for name in names]


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("workers", [0, 3])
def test_webdataset_divides_our_samples_among_its_workers(shards, workers) -> None:
    pipeline = wds.DataPipeline(
        samples(shards, fields="__key__ cls"), wds.split_by_worker, wds.batched(4, collation_fn=list)
    )
    found = DataLoader(pipeline, batch_size=None, num_workers=workers)
    assert sorted(key for batch in found for key, _ in batch) == keys(20)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("fluent", [False, True], ids=["pipeline", "fluent"])
def test_a_webdataset_pipeline_is_a_source_of_our_loader(shards, workers, fluent) -> None:
    if fluent:
        source = wds.WebDataset(shards, shardshuffle=False).decode("l8")
    else:
        source = wds.DataPipeline(wds.SimpleShardList(shards), wds.tarfile_to_samples(), wds.decode("l8"))
    with Loader(source, "__key__ png cls", batch_size=5, shuffle=10, workers=workers, seed=1) as loader:
        epochs = [list(loader) for _ in range(2)]
    with Loader(source, "__key__ png cls", batch_size=5, shuffle=10, seed=1) as loader:
        assert [names for names, _, _ in loader] == [names for names, _, _ in epochs[0]]
    for found in epochs:
        assert sorted(key for names, _, _ in found for key in names) == keys(20)
        for names, images, classes in found:
            assert images.dtype == np.uint8
            assert images[:, 0, 0].tolist() == [int(name) for name in names]
            assert classes.tolist() == [int(name) % 10 for name in names]


def test_ranks_and_resume_work_for_a_webdataset_pipeline(shards) -> None:
    def loader(rank: int) -> Loader:
        source = wds.WebDataset(shards, shardshuffle=False)
        return Loader(source, "__key__", batch_size=3, decode=False, rank=rank, world_size=2)

    found = []
    for rank in range(2):
        with loader(rank) as one:
            whole = [batch for (batch,) in one]
        with loader(rank) as one:
            given = next(iter(one))[0]
            state = one.state_dict()
        with loader(rank) as one:
            one.load_state_dict(state)
            assert [given, *(batch for (batch,) in one)] == whole
        found += [key for batch in whole for key in batch]
    assert sorted(found) == keys(20)
