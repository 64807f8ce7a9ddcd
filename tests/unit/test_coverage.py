"""Every sample once over the ranks, for worlds 1–8 and shards 1–7; and the oracle itself."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import pytest
from loading import keys, row, write_shards

from wlshard import Loader
from wlshard.testing.coverage import check_coverage


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [0, 1, 100])
def test_each_sample_comes_once_for_worlds_1_to_8_and_shards_1_to_7(tmp_path, shuffle, drop_last) -> None:
    for shards in range(1, 8):
        folder, batch = write_shards(tmp_path / str(shards), shards, 53), (3, 1, 7, 5)[shards % 4]
        check_coverage(
            lambda rank, world, folder=folder, batch=batch: Loader(
                folder, batch_size=batch, shuffle=shuffle, rank=rank, world_size=world, drop_last=drop_last,
                cache_dir=str(tmp_path / "cache"), decode=False,
            ),
            keys(53),
            batch_size=batch,
            drop_last=drop_last,
            epochs=2 if shards == 3 else 1,
        )  # fmt: skip


@pytest.mark.parametrize("samples", [1, 2, 7, 16])
def test_fewer_samples_than_ranks_repeat_one_for_each_rank_left_empty(samples) -> None:
    rows = [row(number) for number in range(samples)]
    check_coverage(
        lambda rank, world: Loader(rows, batch_size=4, shuffle=50, rank=rank, world_size=world),
        keys(samples),
        batch_size=4,
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_padding_is_counted(workers) -> None:
    rows = [row(number) for number in range(10)]
    padded = []
    for rank in range(4):
        with Loader(rows, batch_size=2, rank=rank, world_size=4, workers=workers) as loader:
            list(loader)  # 8, then 2 left for 4 ranks
            padded.append(loader.stats()["padded"])
    assert sum(padded) == 2


@pytest.mark.parametrize("shuffle", [0, 20])
def test_a_stream_of_unknown_length_covers_too(shuffle, caplog) -> None:
    class Rows:
        def __iter__(self):
            return (row(number) for number in range(41))

    caplog.set_level(logging.ERROR)
    for drop_last in (False, True):
        check_coverage(
            lambda rank, world, drop_last=drop_last: Unsized(
                Loader(
                    Rows(), batch_size=3, shuffle=shuffle, rank=rank, world_size=world, drop_last=drop_last
                )
            ),
            keys(41),
            batch_size=3,
            drop_last=drop_last,
            epochs=2,
        )


class Unsized:
    """A loader of a stream: it has no length."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.close = loader.close

    def __iter__(self):
        return iter(self.loader)


@pytest.mark.parametrize("shuffle", [0, 30])
def test_compressed_local_shards_cover_and_count(tmp_path, shuffle) -> None:
    plain = Path(write_shards(tmp_path / "plain", 3, 40))
    packed = tmp_path / "packed"
    packed.mkdir()
    for path in plain.glob("*.tar"):
        (packed / f"{path.stem}.tar.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    check_coverage(
        lambda rank, world: Loader(
            str(packed),
            batch_size=4,
            shuffle=shuffle,
            rank=rank,
            world_size=world,
            cache_dir=str(tmp_path / "c"),
        ),
        keys(40),
        batch_size=4,
        worlds=(1, 2, 3, 5),
        epochs=2,
    )


class Broken:
    """A loader of ten samples in batches of two that does one thing wrong."""

    def __init__(self, rank: int, world: int, fault: str) -> None:
        self.found = [[f"{n}", f"{n + 1}"] for n in range(0, 12, 2)][rank::world]
        if fault == "twice":
            self.found[0] = ["10", "10"]
        if fault == "missing" and rank == 0:
            self.found[-1] = ["0", "1"]
        if fault == "unequal" and rank == 0:
            self.found.pop()
        if fault == "stranger":
            self.found[0] = ["x", "y"]
        if fault == "short":
            self.found[0] = self.found[0][:1]

    def __iter__(self):
        return ((found,) for found in self.found)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("fault", ["twice", "missing", "unequal", "stranger", "short"])
def test_the_oracle_sees_each_fault(fault) -> None:
    names = [str(n) for n in range(12)]
    check_coverage(lambda rank, world: Broken(rank, world, ""), names, batch_size=2, worlds=[1, 2, 3])
    with pytest.raises(AssertionError, match="world 2, epoch 0"):
        check_coverage(lambda rank, world: Broken(rank, world, fault), names, batch_size=2, worlds=[2])
