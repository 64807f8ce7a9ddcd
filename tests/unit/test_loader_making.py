"""What a loader makes of samples: tensors, several of each, and only those that are wanted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from loading import fill_pool, keys, row, write_shards

from wlshard import CursorMismatch, Loader, ShardWriter, UsageError, UserCodeError
from wlshard.stream.order import Order, shape_of
from wlshard.testing.coverage import check_coverage
from wlshard.testing.resume import check_resume, check_resume_over_worlds
from wlshard.testing.values import same

ROWS = [row(number) for number in range(40)]


# --- converters


@pytest.fixture
def pictures(tmp_path) -> str:
    with ShardWriter(str(tmp_path / "p-%d.tar"), shard_samples=6) as writer:
        for number in range(11):
            image = np.full((4, 6, 3), number, np.uint8)
            image[:, :, 1] += 100
            image[1] += 50
            mask = image[:, :, 0].copy()
            fields = {"png": image, "mask.pgm": mask, "cls": number, "txt": str(number)}
            writer.write({**fields, "npy": np.arange(4, dtype=np.uint16), "x.npy": np.arange(4)})
    return str(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["plain", "transform", "collate_fn"])
def test_torch_gives_tensors_with_channels_first(pictures, workers, how) -> None:
    torch = pytest.importorskip("torch")
    seen = []

    def look(sample):
        seen.append([type(value) for value in sample])
        return sample

    def collate(samples):
        return tuple(torch.stack(column) for column in list(zip(*samples, strict=True))[:3]), None

    options = {"transform": look} if how == "transform" else {}
    options |= {"collate_fn": collate} if how == "collate_fn" else {}
    fields = "png mask.pgm npy cls txt"
    with (
        Loader(
            pictures, fields, batch_size=4, converters="torch", decode="stored", workers=workers, **options
        ) as loader,
        Loader(pictures, fields, batch_size=4, decode="stored") as plain,
    ):
        for ours, arrays in zip(loader, plain, strict=True):
            png, mask, npy = ours[0] if how == "collate_fn" else ours[:3]
            assert png.dtype == mask.dtype == torch.uint8
            assert png.shape[1:] == (3, 4, 6)
            assert mask.shape[1:] == (1, 4, 6)
            assert np.array_equal(png.numpy(), arrays[0].transpose(0, 3, 1, 2))
            assert np.array_equal(mask.numpy()[:, 0], arrays[1])
            assert npy.dtype == torch.uint16
            png += 1  # the consumer's to write
            if how != "collate_fn":
                assert ours[3].tolist() == arrays[3].tolist()
                assert ours[3].dtype == torch.int64
                assert ours[4] == arrays[4]
    if how == "transform" and not workers:
        assert seen[0] == [torch.Tensor, torch.Tensor, torch.Tensor, int, str]


def test_torch_converts_single_samples_lists_and_what_is_left_of_a_batch(pictures) -> None:
    torch = pytest.importorskip("torch")
    with Loader(pictures, "png npy cls", converters="torch") as loader:
        png, npy, cls = next(iter(loader))
    assert (png.shape, npy.tolist(), cls) == ((3, 4, 6), [0, 1, 2, 3], 0)
    rows = [{"ragged": np.zeros(n), "text": np.array(["a"]), "swapped": np.zeros(2, ">i4")} for n in (1, 2)]
    for shapes in (slice(None), slice(1)):
        with Loader(rows[shapes], batch_size=2, converters="torch") as loader:
            (batch,) = loader
        assert all(isinstance(one, torch.Tensor) for one in batch["ragged"])
        assert isinstance(batch["text"], np.ndarray)
        assert isinstance(batch["swapped"], np.ndarray)


def test_batch_transforms_get_tensors_and_read_only_arrays_are_copied_first(pictures) -> None:
    torch = pytest.importorskip("torch")

    def twice(sample):
        sample["x.npy"] += 1  # a view of the shard's bytes, were it not copied
        return sample["x.npy"].to(torch.int32)

    options = {"batch_size": 4, "converters": "torch", "transform": twice}
    with Loader(pictures, **options, batch_transform=lambda batch: batch.float()) as loader:
        assert next(iter(loader)).tolist() == [[1.0, 2.0, 3.0, 4.0]] * 4
        assert next(iter(loader))[0].tolist() == [1.0, 2.0, 3.0, 4.0]


# --- several samples of each


def patches(sample, rng):
    for part in range(3):
        yield {"key": f"{sample['__key__']}/{part}", "noise": rng.random()}


def halves(sample):
    return [f"{sample['__key__']}/{part}" for part in range(2)]


ALL = [f"{key}/{part}" for key in keys(40) for part in range(3)]


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize(("shuffle", "batch_size"), [(0, 4), (30, 4), (300, 6), (50, None)])
def test_each_part_comes_once_and_len_is_exact(tmp_path, workers, shuffle, batch_size) -> None:
    folder = write_shards(tmp_path / "x", 3, 40)
    options = {"batch_size": batch_size, "shuffle": shuffle, "transform": patches, "per_sample": 3}
    with Loader(folder, **options, workers=workers, cache_dir=str(tmp_path)) as loader:
        count = len(loader)
        found = [batch for _ in range(2) for batch in loader]
    with Loader(folder, **options, cache_dir=str(tmp_path)) as loader:
        assert same(found, [batch for _ in range(2) for batch in loader])
    assert len(found) == 2 * count
    assert count == (30 if batch_size == 4 else 20 if batch_size == 6 else 120)
    given = [key for batch in found[:count] for key in (batch["key"] if batch_size else [batch["key"]])]
    assert sorted(given) == ALL
    if shuffle:
        assert given != ALL


@pytest.mark.parametrize("shuffle", [0, 40])
def test_parts_cover_and_resume_for_other_worlds_and_workers(tmp_path, shuffle) -> None:
    folder = write_shards(tmp_path / "x", 3, 20)
    options = {"batch_size": 4, "shuffle": shuffle, "transform": patches, "per_sample": 3, "seed": 2}

    def loader(rank: int, world: int, workers: int = 0) -> Loader:
        return Loader(
            folder, **options, rank=rank, world_size=world, workers=workers, cache_dir=str(tmp_path)
        )

    class Keys:
        """A loader of batches of keys."""

        def __init__(self, rank, world):
            self.loader = loader(rank, world)
            self.close, self.state_dict = self.loader.close, self.loader.state_dict
            self.load_state_dict = self.loader.load_state_dict

        def __len__(self):
            return len(self.loader)

        def __iter__(self):
            return ((batch["key"],) for batch in self.loader)

    check_coverage(Keys, ALL[:60], batch_size=4, worlds=(1, 2, 3, 4), epochs=2)
    check_resume_over_worlds(Keys, worlds=(1, 2, 3), every=3)
    workers = iter([0, *(n % 4 for n in range(1000))])
    check_resume(lambda: loader(0, 1, next(workers)), every=4)


def test_a_sample_is_made_once_however_its_parts_are_mixed(tmp_path) -> None:
    folder = write_shards(tmp_path / "x", 3, 600)
    made = []

    def count(sample):
        made.append(sample["__key__"])
        return halves(sample)

    for shuffle, batch, most in [(0, 8, 600), (0, 5, 600), (96, 8, 660), (960, 8, 630), (480, 5, 640)]:
        made.clear()
        options = {"batch_size": batch, "shuffle": shuffle, "transform": count, "per_sample": 2}
        with Loader(folder, **options, cache_dir=str(tmp_path)) as loader:
            assert sum(map(len, loader)) == 1200
        assert len(set(made)) == 600
        assert len(made) <= most, (shuffle, batch)


@pytest.mark.parametrize("unit", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("samples", "batch", "shuffle"), [(60, 4, 0), (60, 4, 30), (300, 6, 200), (299 * 30, 8, 900)]
)
def test_strips_are_cut_between_whole_groups_but_for_the_last(samples, batch, shuffle, unit) -> None:
    samples = samples // unit * unit
    order = Order(samples, shape_of(batch, shuffle, 1, True, unit, 16), 0, 0)
    covered = []
    for lane in range(min(order.lanes, order.batches)):
        for window in range(-(-order.lane_samples(lane) // order.window)):
            pieces = order.pieces(lane, window)
            assert sum(count for _, count in pieces) == order.window_samples(lane, window)
            covered += [place for first, count in pieces for place in range(first, first + count)]
            if shuffle:
                assert all(count % unit == 0 for _, count in pieces[:-1])
    assert sorted(covered) == list(range(samples))


@pytest.mark.parametrize(
    "transform", [lambda _: [1], lambda _: 5, lambda _: {}, lambda sample: iter(range(3))]
)
def test_a_transform_that_yields_another_number_is_an_error_with_its_sample(transform) -> None:
    with Loader(ROWS, transform=transform, per_sample=2) as loader:
        with pytest.raises(UserCodeError, match="per_sample=2") as caught:
            next(iter(loader))
        assert "'000000'" in caught.value.__notes__[0]


def test_a_stream_and_a_bad_sample_have_parts_too() -> None:
    class Rows:
        def __iter__(self):
            return (row(number) for number in range(7))

    with Loader(Rows(), batch_size=4, transform=halves, per_sample=2) as loader:
        assert [key for batch in loader for key in batch] == [k for n in range(7) for k in halves(row(n))]
    check_resume(lambda: Loader(Rows(), batch_size=3, shuffle=6, transform=halves, per_sample=2))
    rows = [row(number) | ({"n.cls": b"x"} if number == 2 else {}) for number in range(5)]
    with Loader(rows, batch_size=4, transform=halves, per_sample=2, on_error="skip") as loader:
        assert sum(map(len, loader)) == 8
        assert loader.stats()["skipped"] == 2


@pytest.mark.parametrize("shuffle", [0, 8])
def test_parts_of_compressed_shards_resume_in_the_middle_of_a_sample(tmp_path, shuffle) -> None:
    for path in Path(write_shards(tmp_path / "plain", 2, 20)).glob("*.tar"):
        (tmp_path / f"{path.stem}.tar.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    options = {"batch_size": 4, "shuffle": shuffle, "transform": patches, "per_sample": 3}
    assert check_resume(lambda: Loader(str(tmp_path), **options, cache_dir=str(tmp_path / "c")), every=2) > 10


def test_another_per_sample_is_a_mismatch() -> None:
    with Loader(ROWS, batch_size=4, transform=halves, per_sample=2) as loader:
        next(iter(loader))
        state = loader.state_dict()
    with (
        Loader(ROWS, batch_size=4) as other,
        pytest.raises(CursorMismatch, match="per_sample=2, here it is 1"),
    ):
        other.load_state_dict(state)


# --- select


def every_third(sample) -> bool:
    return sample["n.index"] % 3 == 0


@pytest.mark.parametrize("select", [every_third, '_["n.index"] % 3 == 0', "np.mod(_['n.index'], 3) == 0"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_filled_with_the_samples_selected(tmp_path, select, workers) -> None:
    folder = write_shards(tmp_path / "x", 3, 40)
    options = {"batch_size": 4, "cache_dir": str(tmp_path), "select": select, "workers": workers}
    with Loader(folder, **options) as loader:
        assert [batch["n.index"].tolist() for batch in loader] == [
            [0, 3, 6, 9], [12, 15, 18, 21], [24, 27, 30, 33], [36, 39],
        ]  # fmt: skip
        with pytest.raises(TypeError, match="select"):
            len(loader)
    with Loader(folder, **options, shuffle=100, drop_last=True) as loader:
        assert [len(batch["__key__"]) for batch in loader] == [4, 4, 4]
        assert loader.stats()["samples"] == 12


def test_the_order_of_what_is_selected_is_the_same_for_any_number_of_workers(tmp_path) -> None:
    folder = write_shards(tmp_path / "x", 3, 90)
    options = {"batch_size": 4, "shuffle": 60, "select": every_third, "cache_dir": str(tmp_path)}

    def all_of(workers: int) -> list:
        with Loader(folder, **options, workers=workers) as loader:
            return [batch for _ in range(2) for batch in loader]

    expected = all_of(0)
    assert sorted(key for batch in expected[:8] for key in batch["__key__"]) == keys(90)[::3]
    for workers in (1, 2, 3):
        assert same(all_of(workers), expected)


@pytest.mark.parametrize("shuffle", [0, 48])
@pytest.mark.parametrize("batch_size", [4, None])
def test_what_is_selected_resumes_at_every_step(tmp_path, shuffle, batch_size) -> None:
    folder = write_shards(tmp_path / "x", 3, 60)
    workers = iter([0, *(n % 4 for n in range(1000))])
    options = {
        "batch_size": batch_size,
        "shuffle": shuffle,
        "select": every_third,
        "cache_dir": str(tmp_path),
    }
    assert check_resume(lambda: Loader(folder, **options, workers=next(workers)), every=2) > 5
    check_resume(lambda: Loader(ROWS, batch_size=3, select=every_third, batches=4, shuffle=24), epochs=3)
    check_resume(
        lambda: Loader(ROWS, batch_size=5, select=every_third, transform=halves, per_sample=2, shuffle=24)
    )


def test_ranks_take_equal_steps_by_batches_and_resume_each_by_its_own_state() -> None:
    def loader(rank: int, **options) -> Loader:
        given = {"batch_size": 2, "shuffle": 24, "select": every_third, "rank": rank, "world_size": 3}
        return Loader(ROWS, **given | options)

    with loader(0) as no_end, pytest.raises(UsageError, match="batches="):
        next(iter(no_end))
    found, states = [], []
    for rank in range(3):
        with loader(rank, batches=7) as one:
            batches = []
            for batch in one:
                batches.append(batch["__key__"])
                states.append((rank, len(batches), json.loads(json.dumps(one.state_dict()))))
            found.append(batches)
            assert one.stats()["epochs"] >= 2
            assert all(len(set(batch)) == len(batch) for batch in batches)
    assert [len(batches) for batches in found] == [7] * 3
    for rank, given, state in states:
        with loader(rank, batches=7) as one:
            one.load_state_dict(state)
            assert [batch["__key__"] for batch in one] == found[rank][given:] or given == 7
    with loader(1, batches=7) as other:
        other.load_state_dict(states[0][2])
        with pytest.raises(CursorMismatch, match="place=0/3, here it is 1/3: with select="):
            next(iter(other))
    with loader(0, batches=7, world_size=2) as fewer:
        fewer.load_state_dict(states[0][2])
        with pytest.raises(CursorMismatch, match="place=0/3, here it is 0/2: with select= each of"):
            next(iter(fewer))


def test_each_selected_sample_comes_once_an_epoch_over_the_ranks(tmp_path) -> None:
    folder = write_shards(tmp_path / "x", 3, 61)
    for world in (1, 2, 3, 4):
        given = []
        for rank in range(world):
            options = {"rank": rank, "world_size": world, "batches": 50, "select": every_third}
            with Loader(folder, batch_size=2, shuffle=30, **options, cache_dir=str(tmp_path)) as loader:
                for batch in loader:
                    if loader.state_dict()["epoch"]:
                        break
                    given += batch["__key__"]
        assert sorted(given) == keys(61)[::3]


def test_a_selection_that_fails_or_takes_nothing_is_told(tmp_path) -> None:
    with Loader(ROWS, batch_size=4, select="_.nothing > 2") as loader:
        with pytest.raises(AttributeError) as caught:
            next(iter(loader))
        assert "in select, of sample '000000'" in caught.value.__notes__[0]
    with Loader(ROWS, batch_size=4, select="False") as loader:
        assert list(loader) == []
    with (
        Loader(ROWS, batch_size=4, select="False", batches=3) as loader,
        pytest.raises(UsageError, match="takes"),
    ):
        list(loader)
    pool = fill_pool(str(tmp_path / "pool"), range(20))
    rows = [{**row(number), **({"n.cls": b"x"} if number == 2 else {"n.cls": 1})} for number in range(9)]
    with Loader(rows, batch_size=4, select="_['n.cls'] == 1", on_error="skip") as loader:
        assert [len(batch["__key__"]) for batch in loader] == [4, 4]
        assert loader.stats()["skipped"] == 1
    with Loader(pool, batch_size=4, select=every_third) as loader:
        assert [len(batch["__key__"]) for batch in loader] == [4, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"converters": "jax"}, "converters='jax'"),
        ({"converters": None}, "converters=None"),
        ({"per_sample": 0}, "per_sample=0: give a whole number of 1 or more"),
        ({"per_sample": 2}, "per_sample= needs a transform="),
        ({"select": 3}, "select=3"),
        ({"select": "_.cls <"}, "is no Python"),
        ({"spans": 0}, "spans=0"),
        ({"spans": "many"}, "spans='many'"),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_refused_at_once(options, message) -> None:
    with pytest.raises(UsageError, match=message):
        Loader(ROWS, **options)


def test_spans_is_part_of_the_order() -> None:
    def order(spans: int) -> list:
        with Loader(ROWS * 10, batch_size=8, shuffle=960, spans=spans) as loader:
            return [batch["__key__"] for batch in loader]

    assert order(16) != order(32)
    assert sorted(key for batch in order(32) for key in batch) == sorted(keys(40) * 10)
    check_resume(lambda: Loader(ROWS, batch_size=8, shuffle=960, spans=32))
