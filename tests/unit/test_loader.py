"""The Loader: batches, epochs, lengths, what is told and what is refused."""

from __future__ import annotations

import copy
import gzip
import json
import logging
import pickle
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from loading import keys, row, write_shards

from wlshard import CodecError, GroupingError, Loader, NotFound, TarError, TooManyBadSamples, UsageError
from wlshard.place import Place

ROWS = [row(number) for number in range(20)]


def found(loader) -> list[list[str]]:
    return [batch["__key__"] for batch in loader]


# --- real shards


def test_photos_load_as_tuples_of_arrays(test_data, tmp_path) -> None:
    with Loader(
        f"{test_data}/photos-00000{{0..3}}.tar", "jpg;png cls json", batch_size=8, shuffle=200,
        drop_last=True,
        transform=lambda sample: (sample[0][:32, :32], *sample[1:]), cache_dir=str(tmp_path),
    ) as loader:  # fmt: skip
        assert len(loader) == 25
        classes = Counter()
        for jpg, cls, json in loader:
            assert (jpg.shape, jpg.dtype) == ((8, 32, 32, 3), np.uint8)
            assert (cls.shape, cls.dtype) == ((8,), np.int64)
            assert all(isinstance(value, dict) for value in json)
            classes.update(cls.tolist())
        assert classes == dict.fromkeys(range(10), 20)


@pytest.mark.parametrize("shuffle", [0, 40])
@pytest.mark.parametrize(
    ("name", "samples"), [("sample.tgz", 90), ("mpdata.tar", 100), ("compressed.tar", 3)]
)
def test_other_real_files_give_every_sample_once(test_data, tmp_path, name, samples, shuffle) -> None:
    with Loader(f"{test_data}/{name}", batch_size=7, shuffle=shuffle, cache_dir=str(tmp_path)) as loader:
        batches = found(loader)
        assert len(loader) == len(batches) == -(-samples // 7)
    flat = [key for batch in batches for key in batch]
    assert len(set(flat)) == len(flat) == samples
    assert shuffle or flat == sorted(flat)


def test_the_same_seed_gives_the_same_order_from_rows_shards_and_other_shards(tmp_path) -> None:
    def order(source, **options):
        with Loader(source, batch_size=3, shuffle=30, cache_dir=str(tmp_path / "c"), **options) as loader:
            return found(loader)

    one = write_shards(tmp_path / "one", 1, 20)
    assert order(ROWS) == order(one) == order(one)
    assert order(ROWS, seed=1) != order(ROWS)
    assert sorted(key for batch in order(ROWS) for key in batch) == keys(20)


# --- batches


def test_without_fields_a_batch_is_a_dict_of_columns() -> None:
    with Loader(ROWS, batch_size=4) as loader:
        batch = next(iter(loader))
    assert set(batch) == {"__key__", "n.index", "raw", "__url__"}
    assert batch["n.index"].tolist() == [0, 1, 2, 3]
    assert batch["n.index"].dtype == np.int64
    assert batch["raw"] == [b"\0\0\0", b"\1\1\1", b"\2\2\2", b"\3\3\3"]


def test_without_a_batch_size_single_samples_come_and_len_counts_them() -> None:
    with Loader(ROWS, "n.index", shuffle=30) as loader:
        assert len(loader) == 20
        assert sorted(loader) == [(number,) for number in range(20)]


def test_collate_fn_and_batch_transform_shape_the_batch() -> None:
    with Loader(ROWS, "n.index raw", batch_size=4, collate_fn=lambda samples: samples) as loader:
        assert next(iter(loader))[0] == (0, b"\0\0\0")
    with Loader(ROWS, "n.index raw", batch_size=4, batch_transform=[lambda n: n + 1, None]) as loader:
        numbers, raw = next(iter(loader))
        assert (numbers.tolist(), raw[0]) == ([1, 2, 3, 4], b"\0\0\0")
    with Loader(ROWS, "n.index raw", batch_size=4, batch_transform=len) as loader:
        assert next(iter(loader)) == 2
    with (
        Loader(ROWS, batch_size=4, batch_transform=[None]) as loader,
        pytest.raises(UsageError, match="list of 1"),
    ):
        next(iter(loader))


def test_samples_that_differ_in_fields_are_an_error_that_names_them() -> None:
    rows = [row(0), {**row(1), "extra": b""}]
    with Loader(rows, batch_size=2) as loader, pytest.raises(GroupingError, match="extra"):
        list(loader)


def test_a_missing_field_is_an_error_that_names_what_is_there() -> None:
    with Loader(ROWS, "jpg;png n.index", batch_size=2) as loader:
        with pytest.raises(NotFound, match=r"no field jpg or png; it has n.index, raw") as caught:
            list(loader)
        assert caught.value.key == "000000"


def test_a_transform_gets_its_rng_by_seed_epoch_and_sample_only() -> None:
    def noise(sample, rng):
        return sample["__key__"], rng.random()

    def epochs(world: int, batch_size: int, **options) -> list[dict]:
        gathered: list[dict] = [{}, {}]
        for rank in range(world):
            with Loader(
                ROWS, batch_size=batch_size, transform=noise, rank=rank, world_size=world, **options
            ) as loader:
                for epoch in range(2):
                    for names, values in loader:
                        gathered[epoch].update(zip(names, values.tolist(), strict=True))
        return gathered

    first = epochs(1, 4)
    assert first == epochs(2, 3) == epochs(3, 1)
    assert len(set(first[0].values()) | set(first[1].values())) == 40
    assert first != epochs(1, 4, seed=1)


def test_a_transform_that_fails_passes_its_error_with_the_sample() -> None:
    def fails(sample):
        return sample["nothing"]

    with Loader(ROWS, batch_size=2, transform=fails, on_error="skip") as loader:
        with pytest.raises(KeyError) as caught:
            list(loader)
        assert "of sample '000000'" in caught.value.__notes__[0]


# --- epochs


def test_each_iter_is_the_next_epoch_and_ends_the_one_before() -> None:
    with Loader(ROWS, batch_size=4, shuffle=40) as loader, Loader(ROWS, batch_size=4, shuffle=40) as other:
        first = found(loader)
        iterator = iter(loader)
        second = [next(iterator)["__key__"]]
        third = found(loader)
        with pytest.raises(UsageError, match="begun again"):
            next(iterator)
        expected = [found(other) for _ in range(4)]
        assert [first, second[0], third] == [expected[0], expected[1][0], expected[2]]
        assert found(loader) == expected[3]
        assert loader.stats()["epoch"] == 4


def test_epochs_are_chained_by_the_keyword_and_by_the_method() -> None:
    with Loader(ROWS, batch_size=8, shuffle=40) as loader:
        singly = [found(loader) for _ in range(4)]
    with Loader(ROWS, batch_size=8, shuffle=40, epochs=2) as loader:
        assert len(loader) == 6
        assert [found(loader), found(loader)] == [singly[0] + singly[1], singly[2] + singly[3]]
    with Loader(ROWS, batch_size=8, shuffle=40) as loader:
        assert found(loader.epochs(3)) == singly[0] + singly[1] + singly[2]
        endless = loader.epochs()
        assert [next(endless)["__key__"] for _ in range(3)] == singly[3]
        endless.close()


def test_batches_runs_on_over_epochs_and_from_iter_to_iter() -> None:
    with Loader(ROWS, batch_size=8, shuffle=40) as loader:
        singly = [batch for _ in range(4) for batch in found(loader)]
    with Loader(ROWS, batch_size=8, shuffle=40, batches=5) as loader:
        assert len(loader) == 5
        assert found(loader) + found(loader) == singly[:10]
        for number, batch in enumerate(loader, 10):
            assert batch["__key__"] == singly[number]
            break
        assert next(iter(loader))["__key__"] == singly[11]


def test_batches_of_data_that_gives_none_is_an_error_not_a_hang() -> None:
    with (
        Loader(ROWS, batch_size=50, drop_last=True, batches=2) as loader,
        pytest.raises(UsageError, match="without a batch"),
    ):
        list(loader)


def test_an_iterator_that_can_be_read_once_says_so_at_the_second_epoch() -> None:
    with Loader(iter(ROWS), batch_size=8) as loader:
        assert sum(len(batch) for batch in found(loader)) == 20
        with pytest.raises(UsageError, match="read once"):
            list(loader)


def test_rows_without_keys_are_numbered() -> None:
    with Loader([{"a.txt": b"x"}, {"a.txt": b"y"}], batch_size=2) as loader:
        assert found(loader) == [["000000000", "000000001"]]


# --- lengths


def test_len_is_told_before_during_and_after() -> None:
    with Loader(ROWS, batch_size=3) as loader:
        assert len(loader) == 7
        iterator = iter(loader)
        next(iterator)
        assert len(loader) == 7
        iterator.close()
        assert len(loader) == 7
    for world, drop_last, steps in [(2, False, 4), (2, True, 3), (7, False, 1), (7, True, 0)]:
        with Loader(ROWS, batch_size=3, rank=0, world_size=world, drop_last=drop_last) as loader:
            assert len(loader) == len(list(loader)) == steps


def test_a_stream_has_no_len_and_says_what_to_do() -> None:
    with Loader((row(n) for n in range(5)), batch_size=2) as loader:
        with pytest.raises(TypeError, match="batches="):
            len(loader)
        assert len(found(loader)) == 3
    with Loader((row(n) for n in range(5)), batch_size=2, batches=2) as loader:
        assert len(loader) == len(found(loader)) == 2


# --- places


def test_a_world_that_does_not_divide_the_lanes_is_told_once(caplog) -> None:
    with Loader(ROWS, batch_size=2, shuffle=24, rank=0, world_size=2) as loader:
        next(iter(loader))
        state = loader.state_dict()
    with Loader(ROWS, batch_size=2, shuffle=24, rank=0, world_size=5) as loader:
        loader.load_state_dict(state)
        list(loader)
        list(loader)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "5 ranks read each of the order's 24 lanes" in told[0]
    assert told[0].endswith("1, 2, 3, 4, 6, 8, 12, 24")


def test_rank_and_world_come_from_the_launcher_at_first_use(monkeypatch) -> None:
    loader = Loader(ROWS, batch_size=2)
    monkeypatch.setattr("wlshard.stream.course.detect_place", lambda *_: Place(1, 3))
    with loader:
        assert found(loader)[0] == ["000002", "000003"]


# --- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"shuffle": True}, "shuffle=True"),
        ({"shuffle": -1}, "shuffle=-1"),
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": 2, "batches": 2}, "one of them"),
        ({"collate_fn": list}, "batch_size"),
        ({"on_error": "ignore"}, "on_error='ignore'"),
        ({"follow": "batch"}, "follow='batch'"),
        ({"rank": 1}, "together"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"fields": " "}, "names no field"),
        ({"fields": 3}, "fields=3"),
        ({"fields": ["a", 3]}, "list of such words"),
        ({"decode": None}, "decode=None"),
        ({"batch_size": "4"}, "batch_size='4': give a whole number of 1 or more"),
        ({"batch_size": 4.0}, "batch_size=4.0"),
        ({"batches": 1.5}, "batches=1.5"),
        ({"shuffle": "100"}, "shuffle='100': give a whole number of 0 or more"),
        ({"shuffle": None}, "shuffle=None"),
        ({"seed": None}, "seed=None: give a whole number"),
        ({"seed": "x"}, "seed='x'"),
        ({"rank": "0", "world_size": 2}, "rank='0'"),
        ({"timeout_s": None}, "timeout_s=None: give seconds"),
        ({"timeout_s": -1}, "timeout_s=-1"),
        ({"transform": 3}, "transform=3 cannot be called"),
        ({"batch_transform": [None, 3], "batch_size": 2}, "batch_transform"),
        ({"collate_fn": "mean", "batch_size": 2}, "collate_fn='mean'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_once(options, message) -> None:
    with pytest.raises(UsageError, match=message):
        Loader(ROWS, **options)


def test_numbers_of_numpy_make_a_state_that_json_takes() -> None:
    numbers = {
        "batch_size": np.int64(3),
        "seed": np.int64(5),
        "shuffle": np.int64(36),
        "batches": np.int64(2),
    }
    with Loader(ROWS, **numbers, rank=np.int64(0), world_size=np.int64(2)) as loader:
        next(iter(loader))
        assert json.loads(json.dumps(loader.state_dict())) == loader.state_dict()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_loader_is_neither_copied_nor_pickled_and_says_what_to_do(duplicate) -> None:
    with Loader(ROWS, batch_size=2) as loader, pytest.raises(TypeError, match="hand over state_dict"):
        duplicate(loader)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("options", [{}, {"shuffle": 24}, {"drop_last": True}, {"rank": 1, "world_size": 2}])
@pytest.mark.parametrize("source", [lambda: ROWS, lambda: iter(ROWS)], ids=["list", "stream"])
def test_workers_of_a_torch_dataloader_take_the_steps_in_turn(monkeypatch, source, options, workers) -> None:
    with Loader(source(), batch_size=3, **options) as loader:
        alone = found(loader)
    worker = SimpleNamespace(id=0, num_workers=workers)
    monkeypatch.setitem(sys.modules, "torch.utils.data", SimpleNamespace(get_worker_info=lambda: worker))
    for number in range(workers):
        worker.id = number
        with Loader(source(), batch_size=3, **options) as loader:
            assert found(loader) == alone[number::workers]


@pytest.mark.parametrize("length", [{"batches": 4}, {"epochs": 4}])
def test_workers_of_a_torch_dataloader_give_one_epoch_at_a_time(monkeypatch, length) -> None:
    worker = SimpleNamespace(id=1, num_workers=2)
    monkeypatch.setitem(sys.modules, "torch.utils.data", SimpleNamespace(get_worker_info=lambda: worker))
    with Loader(ROWS, batch_size=3, **length) as loader, pytest.raises(UsageError, match="s=4 says"):
        next(iter(loader))


def test_a_source_of_no_kind_is_refused() -> None:
    with Loader(5) as loader, pytest.raises(UsageError, match="not 5"):  # type: ignore[arg-type]
        list(loader)
    with Loader([1, 2]) as loader, pytest.raises(UsageError, match="1 names no shard"):  # type: ignore[list-item]
        list(loader)
    with Loader(iter([1, 2])) as loader, pytest.raises(UsageError, match="dicts of fields"):
        list(loader)


def test_missing_shards_are_not_found_with_their_url(tmp_path) -> None:
    folder = write_shards(tmp_path / "x", 2, 10)
    with Loader([f"{folder}/x-0-0.tar", f"{folder}/absent.tar"]) as loader:
        with pytest.raises(NotFound) as caught:
            list(loader)
        assert "absent.tar" in str(caught.value)


def spoil(folder: str, name: str, at: int) -> None:
    path = Path(folder) / name
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("shuffle", [0, 30])
def test_a_damaged_header_is_an_error_or_costs_only_its_sample(tmp_path, shuffle) -> None:
    folder = write_shards(tmp_path / "x", 2, 20)  # a sample: two members of 1,024 bytes
    spoil(folder, "x-1-0.tar", 3 * 2048 + 150)
    with Loader(folder, batch_size=4, shuffle=shuffle) as loader, pytest.raises(TarError) as caught:
        list(loader)
    assert caught.value.url.endswith("x-1-0.tar")
    assert caught.value.offset is not None
    with Loader(folder, batch_size=4, shuffle=shuffle, on_error="skip") as loader:
        batches = found(loader)
        assert loader.stats()["skipped"] >= 1
    flat = sorted(key for batch in batches for key in batch)
    assert sorted(map(len, batches)) == [3, 4, 4, 4, 4]
    assert flat == [key for key in keys(20) if key != "000013"]


@pytest.mark.parametrize("shuffle", [0, 30])
@pytest.mark.parametrize("packed", [False, True])
def test_damage_found_by_a_scan_or_in_a_stream_is_counted_once_and_costs_no_other(
    tmp_path, shuffle, packed
) -> None:
    folder = write_shards(tmp_path / "x", 2, 20)
    spoil(folder, "x-1-0.tar", 9 * 2048 + 1024 + 150)  # in the last sample
    for path in Path(folder).iterdir():
        if path.suffix == ".tar" and packed:
            path.with_suffix(".tar.gz").write_bytes(gzip.compress(path.read_bytes()))
        if path.suffix == ".idx" or packed:
            path.unlink()
    with Loader(
        folder, batch_size=4, shuffle=shuffle, on_error="skip", cache_dir=str(tmp_path / "c")
    ) as loader:
        assert sorted(key for batch in found(loader) for key in batch) == keys(19)
        assert loader.stats()["skipped"] == 1


@pytest.mark.parametrize("batch_size", [None, 3])
def test_an_undecodable_field_is_an_error_or_leaves_its_batch_short(batch_size) -> None:
    rows = [{"__key__": str(n), "a.cls": b"x" if n == 4 else b"1"} for n in range(9)]
    with Loader(rows, batch_size=batch_size) as loader:
        with pytest.raises(CodecError) as caught:
            list(loader)
        assert caught.value.key == "4"
        assert loader.state_dict()["next_batch"] == (1 if batch_size else 4)  # before the batch that failed
    with Loader(rows, batch_size=batch_size, on_error="skip") as loader:
        got = list(loader)
        assert len(got) == (3 if batch_size else 8)
        assert loader.stats()["skipped"] == 1
        assert loader.stats()["samples"] == 8


def test_a_batch_without_a_good_sample_is_left_out() -> None:
    rows = [{"__key__": str(n), "a.cls": b"x" if n in (2, 3) else b"1"} for n in range(6)]
    with Loader(rows, batch_size=2, on_error="skip") as loader:
        assert found(loader) == [["0", "1"], ["4", "5"]]


@pytest.mark.parametrize("shuffle", [0, 24])
@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("bad", [{0, 1}, {2, 3, 4, 5, 6, 7}, {7, 10, 11}])
def test_ranks_that_skip_take_as_many_steps_and_resume_at_each(batch_size, bad, shuffle) -> None:
    rows = [{"__key__": str(n), "a.cls": b"x" if n in bad else b"1"} for n in range(12)]

    def rank(number: int, state: dict | None = None) -> tuple[list[dict], dict, list[str]]:
        states, flat = [], []
        options = {"batch_size": batch_size, "shuffle": shuffle, "on_error": "skip"}
        with Loader(rows, **options, rank=number, world_size=2) as loader:
            if state is not None:
                loader.load_state_dict(state)
            steps = len(loader)
            for batch in loader:
                states.append(loader.state_dict())
                flat += batch["__key__"] if batch_size else [batch["__key__"]]
            assert len(states) == steps
            return states, loader.stats(), flat

    (states, stats, one), (others, other_stats, other) = rank(0), rank(1)
    assert states == others
    assert set(one + other) == {str(n) for n in range(12) if n not in bad}
    assert stats["skipped"] + other_stats["skipped"] == len(bad)
    assert len(one + other) == 12 - len(bad) + stats["padded"] + other_stats["padded"]
    for state in states[:-2]:
        assert rank(0, state)[0][-1] == rank(1, state)[0][-1] == states[-1]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_hundred_bad_samples_in_a_row_are_too_many(workers) -> None:
    def rows(bad: int) -> list[dict]:
        return [{"__key__": str(n), "a.cls": b"1" if n % (bad + 1) == 0 else b"x"} for n in range(300)]

    options = {"on_error": "skip", "workers": workers}
    with Loader(rows(99), **options) as loader:
        assert len(list(loader)) == 3
    for batch_size in (None, 3):  # each of three workers meets fewer
        loader = Loader(rows(150)[:160], batch_size=batch_size, **options)
        with loader, pytest.raises(TooManyBadSamples, match=r"1\d\d .*in a row"):
            list(loader)


def test_a_good_sample_between_bad_ones_breaks_their_row() -> None:
    rows = [{"__key__": str(n), "a.cls": b"1" if n == 60 else b"x"} for n in range(121)]
    with Loader(rows, batch_size=121, on_error="skip") as loader:
        assert found(loader) == [["60"]]


def test_an_epoch_that_failed_before_its_first_batch_is_tried_again(tmp_path) -> None:
    path = Path(write_shards(tmp_path / "x", 1, 6)) / "x-0-0.tar"
    with (
        Loader(str(path), batch_size=2, shuffle=12) as loader,
        Loader(str(path), batch_size=2, shuffle=12) as other,
    ):
        next(iter(loader))
        path.rename(path.with_suffix(".away"))
        with pytest.raises(NotFound):
            next(iter(loader))
        path.with_suffix(".away").rename(path)
        assert found(loader) == [found(other), found(other)][1]


def test_after_an_error_the_next_iter_tries_again_or_goes_on(tmp_path) -> None:
    folder = write_shards(tmp_path / "x", 1, 6)
    path = Path(folder) / "x-0-0.tar"
    data = path.read_bytes()
    with Loader(folder, batch_size=2) as loader:
        path.unlink()
        with pytest.raises(NotFound):
            next(iter(loader))
        path.write_bytes(data)
        assert len(found(loader)) == 3
        assert loader.stats()["epoch"] == 1


@pytest.mark.parametrize(("shuffle", "drop_last"), [(0, False), (0, True), (30, False)])
def test_a_shard_cut_behind_its_last_member_is_an_error(tmp_path, shuffle, drop_last) -> None:
    folder = write_shards(tmp_path / "x", 1, 6)
    path = Path(folder) / "x-0-0.tar"
    path.write_bytes(path.read_bytes()[:-1024])
    with Loader(folder, batch_size=2, shuffle=shuffle, drop_last=drop_last) as loader:
        with pytest.raises(TarError) as caught:
            list(loader)
        assert caught.value.url == str(path)


def test_a_shard_that_grew_since_it_was_counted_is_an_error(tmp_path) -> None:
    folder, longer = write_shards(tmp_path / "x", 1, 6), write_shards(tmp_path / "y", 1, 9)
    with Loader(folder, batch_size=2) as loader:
        assert len(loader) == 3
        for name in ("x-0-0.tar", "x-0-0.idx"):
            (Path(longer) / name).replace(Path(folder) / name)
        with pytest.raises(TarError, match="goes on"):
            list(loader)


def test_a_compressed_shard_that_shrank_since_it_was_counted_is_an_error(tmp_path) -> None:
    whole, part = write_shards(tmp_path / "a", 1, 10), write_shards(tmp_path / "b", 1, 8)
    packed = tmp_path / "x.tar.gz"
    packed.write_bytes(gzip.compress((Path(whole) / "x-0-0.tar").read_bytes()))
    with Loader(str(packed), batch_size=4, cache_dir=str(tmp_path / "c")) as loader:
        assert len(loader) == 3
        packed.write_bytes(gzip.compress((Path(part) / "x-0-0.tar").read_bytes()))
        with pytest.raises(TarError, match="2 samples early"):
            list(loader)


# --- lifetime


def test_close_ends_everything_and_may_be_called_twice(tmp_path) -> None:
    loader = Loader(write_shards(tmp_path / "x", 1, 1000), batch_size=2, batches=3)
    list(loader)
    iterator = iter(loader)
    next(iterator)
    assert any("wlshard" in thread.name for thread in threading.enumerate())
    loader.close()
    loader.close()
    assert not any("wlshard" in thread.name for thread in threading.enumerate())
    with pytest.raises(UsageError, match="closed"):
        next(iterator)
    with pytest.raises(UsageError, match="closed"):
        next(iter(loader))


def test_an_abandoned_iterator_ends_its_thread(tmp_path) -> None:
    loader = Loader(write_shards(tmp_path / "x", 1, 1000), batch_size=2)
    for _ in loader:
        break
    assert not any("wlshard" in thread.name for thread in threading.enumerate())


@pytest.mark.parametrize("in_memory", [False, True])
def test_an_iterator_in_a_forked_process_is_an_error_not_a_hang_and_a_new_one_works(
    tmp_path, in_memory
) -> None:
    folder = write_shards(tmp_path / "x", 1, 5000)
    code = """
import os, sys
from wlshard import Loader, UsageError
loader = Loader([{"n": i} for i in range(5000)] if len(sys.argv) < 2 else sys.argv[1], batch_size=2)
iterator = iter(loader)
next(iterator)
child = os.fork()
if child == 0:
    try:
        list(iterator)
    except UsageError as error:
        print(error.message, sum(1 for _ in loader), flush=True)
else:
    os.waitpid(child, 0)
    print(1 + sum(1 for _ in iterator))
"""
    command = [sys.executable, "-W", "ignore", "-c", code, *([] if in_memory else [folder])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    told, rest = done.stdout.splitlines()
    assert told.startswith("this process was forked")
    assert told.endswith(" 2500")
    assert rest == "2500"


def test_stats_tell_what_came(tmp_path) -> None:
    folder = write_shards(tmp_path / "x", 2, 20, payload=100_000)
    with Loader(folder, batch_size=4, shuffle=12) as loader:
        assert loader.stats()["samples"] == 0
        for _ in loader:
            announced = loader.stats()["announced_bytes"]
        stats = loader.stats()
    assert (stats["samples"], stats["batches"], stats["epochs"], stats["epoch"]) == (20, 5, 1, 1)
    assert (stats["skipped"], stats["padded"], stats["generation"]) == (0, 0, None)
    assert stats["waited_s"] >= 0
    assert announced is not None
    assert 20 * 100_000 < stats["bytes"] < 21 * 103_000
    assert announced >= 12 * 4 * 100_000


@pytest.mark.parametrize("workers", [0, 2])
def test_stats_tell_reuse_and_what_the_time_went_into(tmp_path, workers) -> None:
    folder = write_shards(tmp_path / "x", 2, 20)
    with Loader(folder, batch_size=4, shuffle=12, workers=workers) as loader:
        assert loader.stats()["share"] == {"storage": 0, "making": 0, "consumer": 0}
        list(loader)
        for number, _ in enumerate(loader, 1):
            assert loader.stats()["reuse"] == pytest.approx(1 + number / 5)
        stats = loader.stats()
        assert stats["reuse"] == 2
        assert sum(stats["share"].values()) == pytest.approx(1, abs=0.01)
        assert min(stats["share"].values()) >= 0
        assert stats["ready"] == 0


def test_nothing_is_opened_before_first_use(tmp_path, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    with Loader(str(tmp_path / "absent"), batch_size=2) as loader:
        loader.state_dict()
        loader.stats()
        with pytest.raises(NotFound):
            len(loader)
