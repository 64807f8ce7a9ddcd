"""Workers: the same batches as without, memory that is the consumer's while it looks, and what goes wrong."""

from __future__ import annotations

import faulthandler
import gc
import gzip
import os
import signal
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from loading import fill_pool, keys, row, write_shards
from processes import gone, lives

from wlshard import (
    CodecError,
    Loader,
    PerformanceWarning,
    ShardWriter,
    TarError,
    UsageError,
    UserCodeError,
    WorkerDied,
    clock,
)
from wlshard.stream.data import data_of_rows, data_of_shards
from wlshard.stream.epoch import Epoch, Plan
from wlshard.stream.order import shape_of
from wlshard.stream.recipe import Step
from wlshard.stream.share import Share
from wlshard.testing.coverage import check_coverage
from wlshard.testing.resume import check_resume, check_resume_over_worlds
from wlshard.testing.values import same

ROWS = [row(number) for number in range(40)]
LOCK = threading.Lock()


def image(sample: dict) -> dict:
    return {**sample, "image": np.full((5, 3), sample["n.index"], np.float32)}


def batches(source, workers: int, epochs: int = 2, **options) -> list:
    with Loader(source, **{"batch_size": 4, **options}, workers=workers) as loader:
        return [batch for _ in range(epochs) for batch in loader]


def pids(loader: Loader) -> list[int]:
    return [worker.pid for worker in loader._hands._workers]


# --- the order


@pytest.mark.parametrize("shuffle", [0, 20, 300])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_the_order_is_the_same_for_any_number_of_workers(tmp_path, shuffle, batch_size) -> None:
    folder = write_shards(tmp_path / "x", 3, 90)
    options = {"batch_size": batch_size, "shuffle": shuffle, "transform": image, "cache_dir": str(tmp_path)}
    expected = batches(folder, 0, **options)
    for workers in (1, 2, 3, 7):
        assert same(batches(folder, workers, **options), expected), workers


@pytest.mark.parametrize(
    "options", [{"fields": "raw;bin"}, {"fields": "bin n.cls"}, {}, {"batch_size": None}]
)
def test_undecoded_fields_of_any_size_are_bytes(tmp_path, options) -> None:
    sizes = [0, 0, 0, 0, 1, 0, 511, 70_000, 3, 3, 3, 3, 1 << 17, 1 << 18, 1 << 17, 1 << 17, 5]
    with ShardWriter(f"{tmp_path}/x-%d.tar", shard_samples=6) as out:
        for number, size in enumerate(sizes):
            out.write({"__key__": f"{number:04d}", "bin": bytes([number]) * size, "n.cls": number})
    for shuffle in (0, 20):
        expected = batches(f"{tmp_path}/x-*.tar", 0, decode=False, shuffle=shuffle, **options)
        for workers in (1, 2):
            found = batches(f"{tmp_path}/x-*.tar", workers, decode=False, shuffle=shuffle, **options)
            assert repr(found) == repr(expected)  # a view equals the bytes that it shows


def test_a_transform_sees_bytes_whatever_its_truth(tmp_path) -> None:
    class Kinds(list):
        def __call__(self, sample: dict) -> str:
            return type(sample["raw"]).__name__

    folder = write_shards(tmp_path / "x", 1, 8)
    assert (
        batches(folder, 1, epochs=1, decode=False, transform=Kinds(), cache_dir=str(tmp_path))
        == [["bytes"] * 4] * 2
    )


def test_undecoded_views_of_samples_in_memory_come_as_their_bytes() -> None:
    table = np.arange(24, dtype=np.uint8).reshape(4, 6)
    views = memoryview(table), memoryview(table)[::2], memoryview(table[0])[::2], memoryview(table.T)
    views += memoryview(np.array(7.0)), memoryview(table[0].view(">u2")), memoryview(b"")
    for view in views:
        rows = [{"__key__": f"{n}", "__url__": "", "x": view, "y": [bytes(n), view][n % 2]} for n in range(8)]
        for batch_size in (None, 4):
            expected, found = (batches(rows, n, decode=False, batch_size=batch_size) for n in (0, 1))
            assert repr(found) == repr(expected)


def test_arrays_without_elements_arrive(tmp_path) -> None:
    rows = [{"__key__": f"{n}", "__url__": "", "x": np.empty((0, 3), np.int16)} for n in range(8)]
    assert same(batches(rows, 1), batches(rows, 0))
    assert same(batches(rows, 2, fields="x x"), batches(rows, 0, fields="x x"))


class InTurn:
    """The steps of so many workers, each made by the one whose it is, without processes."""

    def __init__(self, urls: list[str], workers: int, batch: int, shuffle: int, **plan) -> None:
        shape = shape_of(batch, shuffle, plan["world"], True)
        plan = Plan(shape=shape, seed=0, epoch=0, start=0, skip=False, workers=workers, **plan)
        data = data_of_shards(urls, None, "raise")
        self.workers = [
            Epoch(data, replace(plan, worker=worker), lambda placed, *_: Step([row for _, row in placed], 1))
            for worker in range(workers)
        ]

    def __len__(self) -> int:
        return self.workers[0].share.steps

    def __iter__(self):
        for step in range(len(self)):
            found = self.workers[self.workers[0].worker_of(step)].step()
            yield ([sample["__key__"] for sample in found.value],)
        assert all(worker.step() is None for worker in self.workers)

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [0, 40, 200])
def test_the_steps_of_all_workers_cover_for_any_world_and_shards(tmp_path, shuffle, workers) -> None:
    for shards in range(1, 8):
        folder = write_shards(tmp_path / str(shards), shards, 53)
        urls = sorted(str(path) for path in Path(folder).glob("*.tar"))
        drop_last, batch = shards % 2 == 0, (3, 1, 7, 5)[shards % 4]
        check_coverage(
            lambda rank, world, urls=urls, drop_last=drop_last, batch=batch: InTurn(
                urls, workers, batch, shuffle, rank=rank, world=world, drop_last=drop_last
            ),
            keys(53),
            batch_size=batch,
            drop_last=drop_last,
        )


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_each_sample_comes_once_for_any_world_and_workers(tmp_path, workers) -> None:
    folder = write_shards(tmp_path / "x", 2 * workers, 53)
    check_coverage(
        lambda rank, world: Loader(
            folder, batch_size=3, shuffle=50, rank=rank, world_size=world, workers=workers, decode=False
        ),
        keys(53),
        batch_size=3,
        worlds=(1, 2, 5),
    )


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [0, 60])
def test_a_loader_with_workers_resumes_at_every_step(tmp_path, shuffle, workers) -> None:
    folder = write_shards(tmp_path / "x", 3, 18)
    counts = iter(
        [workers] + [(workers + 1) % 4, workers] * 100
    )  # saved with some workers, restored with others
    check_resume(
        lambda: Loader(
            folder,
            batch_size=4,
            shuffle=shuffle,
            workers=next(counts),
            transform=image,
            cache_dir=str(tmp_path),
        )
    )


def test_the_world_size_and_the_workers_may_change_together(tmp_path) -> None:
    folder = write_shards(tmp_path / "x", 4, 75)
    check_resume_over_worlds(
        lambda rank, world: Loader(
            folder,
            batch_size=2,
            shuffle=200,
            rank=rank,
            world_size=world,
            workers=world,
            cache_dir=str(tmp_path),
        ),
        worlds=(1, 3),
        every=6,
    )


def test_compressed_shards_are_decoded_by_all_workers_in_order(tmp_path) -> None:
    plain = Path(write_shards(tmp_path / "plain", 3, 40))
    packed = tmp_path / "packed"
    packed.mkdir()
    for path in plain.glob("*.tar"):
        (packed / f"{path.stem}.tar.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    for shuffle in (0, 20):
        options = {"shuffle": shuffle, "cache_dir": str(tmp_path / "c"), "transform": made_by}
        expected = batches(str(packed), 0, **options)
        found = batches(str(packed), 3, **options)
        assert [batch["__key__"] for batch in found] == [batch["__key__"] for batch in expected]
        assert len({pid for batch in found for pid in batch["pid"].tolist()}) == 3


def made_by(sample: dict) -> dict:
    return {**sample, "pid": os.getpid()}


def test_samples_that_only_stream_come_from_one_worker_which_is_said(caplog) -> None:
    class Rows:
        def __iter__(self):
            return (row(number) for number in range(17))

    for shuffle in (0, 12):
        found = batches(Rows(), 3, shuffle=shuffle, transform=made_by)
        expected = batches(Rows(), 0, shuffle=shuffle)
        assert [batch["__key__"] for batch in found] == [batch["__key__"] for batch in expected]
        assert len({pid for batch in found for pid in batch["pid"].tolist()}) == 1
    assert "one of the 3 workers" in caplog.text


def test_a_pool_is_followed(tmp_path) -> None:
    pool = fill_pool(str(tmp_path / "pool"), range(40))
    with Loader(pool, batch_size=4, shuffle=20, workers=2) as loader:
        assert sorted(key for batch in loader for key in batch["__key__"]) == keys(40)
        fill_pool(pool.url, range(40, 60))
        assert sorted(key for batch in loader for key in batch["__key__"]) == keys(60)[40:]


# --- what travels


class Pair:
    """An object of the user's."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pair) and same(self.value, other.value)

    __hash__ = None  # type: ignore[assignment]


def many_kinds(sample: dict) -> dict:
    n = sample["n.index"]
    return {
        "text": "ä" * n, "bytes": bytes(n), "ragged": np.arange(n), "many": np.full(3, n, ">f4"), "n": n,
        "big": 2**70 + n, "nested": {"a": [np.ones(n)]}, "object": np.array([n, "x", None], dtype=object),
        "none": None,
        "date": np.datetime64(n, "D"), "empty": np.zeros((0, 3)), "flag": n > 3, "own": Pair(np.eye(2) * n),
        "pairs": np.zeros(2, [("a", "u1"), ("b", ">f8")]), "fortran": np.asfortranarray(np.full((3, 4), n)),
    }  # fmt: skip


@pytest.mark.parametrize("batch_size", [None, 4])
def test_strings_ragged_fields_and_objects_come_as_they_are(batch_size) -> None:
    expected, found = (
        batches(ROWS, workers, transform=many_kinds, batch_size=batch_size) for workers in (0, 2)
    )
    for one, other in zip(found, expected, strict=True):
        for name in other:
            if name in ("object", "own"):
                assert str(one[name]) == str(other[name]) or one[name] == other[name]
            else:
                assert same(one[name], other[name]), name


def test_fields_that_are_no_arrays_are_counted_and_warned_of_once() -> None:
    def ragged(sample: dict) -> tuple:
        n = sample["n.index"]
        return n, np.zeros(n % 3 + 1), f"{n}"

    def only_image(sample: dict) -> dict:
        return {name: value for name, value in image(sample).items() if name != "raw"}

    def warned(**options) -> str:
        with warnings.catch_warnings(record=True) as caught, Loader(ROWS, workers=2, **options) as loader:
            warnings.simplefilter("always")
            assert len(list(loader)) == 10
            lists.append(loader.stats()["pickled"])
        assert [one.category for one in caught] in ([], [PerformanceWarning])
        assert all(one.filename == __file__ for one in caught)
        return str(caught[0].message) if caught else ""

    lists: list[int] = []
    assert "field 1 (ndarray (1,), …), 2 (str): a list" in warned(batch_size=4, transform=ragged)
    assert "field raw (bytes): a list" in warned(batch_size=4, transform=image)
    assert "field raw;n (bytes): a list" in warned(fields="n.index raw;n __key__", batch_size=4)
    assert lists == [10, 10, 10]
    assert not warned(batch_size=4, transform=only_image)  # keys are no field
    assert lists.pop() == 0
    # asked for:
    assert not warned(batch_size=4, transform=ragged, collate_fn=lambda samples: (samples,))
    assert not warned(fields="raw", batch_size=4, decode=False)
    assert lists == [10] * 5


def test_tensors_travel_as_tensors() -> None:
    torch = pytest.importorskip("torch")

    def tensors(sample: dict) -> tuple:
        n = sample["n.index"]
        return torch.full((2, 3), n), torch.full((2,), n).bfloat16(), torch.ones(n), torch.full((2, 3), n).T

    for one, other in zip(
        batches(ROWS, 2, transform=tensors), batches(ROWS, 0, transform=tensors), strict=True
    ):
        assert same(one, other)


def readonly(array):
    array.flags.writeable = False
    return array


PADDED = np.dtype({"names": ["a", "b"], "formats": ["u1", ">f8"], "offsets": [3, 8], "itemsize": 24})
LAYOUTS = {
    "made in place": lambda a, b: (a, b),
    "one of them": lambda a, b: (b,),
    "none": lambda a, b: (),
    "the same twice": lambda a, b: (a, a, b),
    "views": lambda a, b: (a[1:], b[:, ::2], a.T, b[::-1]),
    "in Fortran's order": lambda a, b: (np.asfortranarray(a), b),
    "of its own": lambda a, b: (a * 2, b + 1),
    "without dimensions, or elements": lambda a, b: (np.array(a[0, 0]), b[:0], a[:, :0]),
    "read-only": lambda a, b: (readonly(a), b),
    "other bytes' order": lambda a, b: (a.astype(">i4"), b.astype("<U7")),
    "a structure": lambda a, b: (np.zeros(4, PADDED), np.zeros((4, 2), [("x", "f4"), ("y", "u2", (2,))])),
    "times and bools": lambda a, b: (a.astype("M8[s]"), b > 1),
    "masked": lambda a, b: (np.ma.masked_array(a, a > 1), b),
    "not aligned": lambda a, b: (np.frombuffer(bytes(41), np.uint8)[1:].view(np.float64), a, b),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tuple_of_arrays_comes_as_it_was_made(layout) -> None:
    def make(batch):
        return LAYOUTS[layout](*batch)

    rows = [(np.full(5, n, np.int32), np.full((6, 2), n, np.float32)) for n in range(24)]
    rows = [{"__key__": str(n), "a": a, "b": b} for n, (a, b) in enumerate(rows)]
    options = {"fields": "a b", "batch_transform": make}
    expected, came = batches(rows, 0, **options), batches(rows, 2, **options)
    assert same(came, expected)
    for one, other in zip(came, expected, strict=True):
        assert [array.dtype for array in one] == [array.dtype for array in other]
        assert [array.flags.writeable for array in one] == [array.flags.writeable for array in other]
        assert len(set(map(id, one))) == len(set(map(id, other)))


def test_batches_that_grow_or_are_large_fit() -> None:
    def growing(sample: dict) -> tuple:
        n = sample["n.index"]
        return n, np.full((n // 4 + 1) * 20_000, n, np.uint16), np.full(300_000 * (n > 30), n)

    found = batches(ROWS, 2, transform=growing)
    assert same(found, batches(ROWS, 0, transform=growing))
    (huge,) = batches(ROWS[:1], 1, epochs=1, transform=lambda _: (np.full(60_000_000, 7, np.uint8),))
    assert huge[0].shape == (1, 60_000_000)
    assert (huge[0] == 7).all()


def test_each_array_begins_on_64_bytes_and_is_the_consumers_to_write() -> None:
    for batch in batches(ROWS, 2, transform=image):
        assert batch["image"].ctypes.data % 64 == 0
        batch["image"] += 1


# --- slots


@pytest.fixture
def one_by_one(monkeypatch) -> None:
    """Have each step travel by itself, as large ones do."""
    monkeypatch.setattr("wlshard.workers.slots.FILL_BYTES", 1)


def test_all_batches_may_be_kept(one_by_one) -> None:
    with Loader(ROWS, batch_size=2, transform=image, workers=2, epochs=5) as loader:
        kept = list(loader)
        assert loader.stats()["slots_left"] >= 90
    gc.collect()
    assert same(kept, batches(ROWS, 0, 5, batch_size=2, transform=image))


@pytest.mark.parametrize("workers", [1, 2])
def test_slots_are_used_again_when_nothing_looks_at_them_any_more(workers, one_by_one) -> None:
    with Loader(ROWS, batch_size=2, transform=image, workers=workers, epochs=20) as loader:
        for _ in loader:
            pass
        assert loader.stats()["slots_left"] == 0
        made = max(number for worker in loader._hands._workers for number in worker._slots)
        assert made <= 4  # the first ones grew


def test_the_last_two_messages_of_a_worker_may_be_looked_at_without_a_new_slot_for_each() -> None:
    rows = [{"x": np.full(5 << 20, n, np.uint8)} for n in range(12)]
    with Loader(rows, "x", batch_size=1, workers=1) as loader:
        last: deque[np.ndarray] = deque(maxlen=2)
        for number, (batch,) in enumerate(loader):
            last.append(batch)
            assert [int(one[0, 0]) for one in last] == [max(0, number - 1), number][-len(last) :]
        assert loader.stats()["slots_left"] == 0


def test_batches_that_grow_while_all_are_kept_never_wait_for_each_other() -> None:
    """A worker may have fewer large slots than small ones."""
    sizes = [1, 5, 5, 5, 20, 20, 5, 20, 40, 1, 40]
    rows = [{"x": np.full(size << 20, n, np.uint8)} for n, size in enumerate(sizes)]
    with Loader(rows, "x", batch_size=1, workers=1, timeout_s=10) as loader:
        kept = [batch for (batch,) in loader]
    assert [(batch.nbytes >> 20, int(batch[0, -1])) for batch in kept] == [
        (s, n) for n, s in enumerate(sizes)
    ]


@pytest.mark.parametrize("part", ["slice", "tensor", "memoryview", "closure"])
def test_whatever_still_looks_at_a_batch_keeps_it(part, one_by_one) -> None:
    take = {
        "slice": lambda array: array[1:, ::2],
        "memoryview": lambda array: memoryview(array)[:1],
        "closure": lambda array: lambda: array,
        "tensor": lambda array: pytest.importorskip("torch").from_numpy(array)[0].view(3, 5),
    }[part]
    with Loader(ROWS, batch_size=2, transform=image, workers=1, epochs=3) as loader:
        kept = []
        for number, batch in enumerate(loader):
            if number in (0, 7, 8, 9):
                kept.append((take(batch["image"]), batch["image"].copy()))
            del batch
    for view, copy in kept:
        assert same(
            np.asarray(view() if part == "closure" else view),
            np.asarray(take(copy)() if part == "closure" else take(copy)),
        )


def test_an_array_that_goes_in_another_thread_gives_its_slot_back(one_by_one) -> None:
    with Loader(ROWS, batch_size=2, transform=image, workers=1, epochs=10) as loader:
        for batch in loader:
            held = [batch]
            del batch
            thread = threading.Thread(target=held.clear)
            thread.start()
            thread.join()
        assert loader.stats()["slots_left"] == 0


def test_batches_outlive_their_loader() -> None:
    with Loader(ROWS, batch_size=2, transform=image, workers=2) as loader:
        first = next(iter(loader))
    gc.collect()
    assert first["image"][1, 0, 0] == 1


def test_what_a_transform_keeps_of_a_batch_stays_as_it_was(one_by_one) -> None:
    kept: list = []

    def remember(batch: dict) -> dict:
        kept.append(batch["image"])
        return {**batch, "firsts": [float(array[0, 0, 0]) for array in kept]}

    with Loader(ROWS, batch_size=4, transform=image, batch_transform=remember, workers=1) as loader:
        for batch in loader:
            firsts = batch["firsts"]
    assert firsts == list(range(0, 40, 4))


# --- state and statistics


def test_a_state_tells_what_was_given_not_what_was_read_ahead() -> None:
    with Loader(ROWS, batch_size=2, workers=2) as loader:
        iterator = iter(loader)
        for given in range(1, 4):
            next(iterator)
            assert loader.state_dict()["next_batch"] == given
        stats = loader.stats()
    assert (stats["samples"], stats["batches"]) == (6, 3)
    assert {"read_s", "make_s", "idle_s", "reader_s", "store_s"} <= set(stats["workers"])


def test_damage_is_counted_once_however_many_workers(tmp_path) -> None:
    rows = [{"__key__": str(n), "a.cls": b"x" if n in (4, 5, 11) else b"1"} for n in range(12)]
    with Loader(rows, batch_size=2, on_error="skip", workers=3) as loader:
        assert [batch["__key__"] for batch in loader] == [
            ["0", "1"],
            ["2", "3"],
            ["6", "7"],
            ["8", "9"],
            ["10"],
        ]
        assert loader.stats()["skipped"] == 3
    folder = Path(write_shards(tmp_path / "x", 2, 20))
    data = bytearray((folder / "x-1-0.tar").read_bytes())
    data[9 * 2048 + 1024 + 150] ^= 0xFF
    (folder / "x-1-0.tar").unlink()
    (folder / "x-1-0.tar.gz").write_bytes(gzip.compress(data))
    with Loader(
        str(folder), batch_size=4, on_error="skip", workers=3, cache_dir=str(tmp_path / "c")
    ) as loader:
        assert sorted(key for batch in loader for key in batch["__key__"]) == keys(19)
        assert loader.stats()["skipped"] == 1


def test_what_was_read_ahead_of_a_broken_off_epoch_does_not_come_in_the_next(one_by_one) -> None:
    with (
        Loader(ROWS, batch_size=2, shuffle=30, workers=2) as loader,
        Loader(ROWS, batch_size=2, shuffle=30) as other,
    ):
        for stop in (1, 2, 3, 5, 8, 13):
            for number, (one, expected) in enumerate(zip(loader, other, strict=True), 1):
                assert same(one, expected)
                if number == stop:
                    break
        assert same(list(loader), list(other))


def test_a_worker_keeps_nothing_of_the_steps_that_others_make() -> None:
    share = Share(20, 2)
    share.mine = lambda step: step % 3 == 1
    assert list(share.steps_here()) == list(share.batches()) == [1, 4, 7]
    assert [batch for batch in range(10) if share.part(batch)] == [1, 4, 7]


# --- errors


def test_a_worker_lets_go_of_what_it_held_of_an_epoch_broken_off() -> None:
    made: list[weakref.ref] = []

    class Rows(Sequence):
        def __len__(self) -> int:
            return 200

        def __getitem__(self, some: slice) -> list[dict]:
            arrays = [np.zeros(1) for _ in range(*some.indices(200))]
            made.extend(map(weakref.ref, arrays))
            return [{"x": array} for array in arrays]

    plan = Plan(shape_of(2, 100, 1, True), 0, 0, 0, 0, 1, drop_last=False, skip=False, workers=2)
    gc.disable()
    try:
        epoch = Epoch(data_of_rows(Rows()), plan, lambda placed, *_: Step(len(placed), 1))
        assert epoch.step().value == 2
        epoch.close()
        assert len(made) > 2
        assert not any(array() is not None for array in made)
    finally:
        gc.enable()


def test_an_error_comes_typed_in_its_place_with_the_workers_traceback() -> None:
    rows = [{"__key__": str(n), "a.cls": b"x" if n == 9 else b"1"} for n in range(12)]
    with Loader(rows, batch_size=2, workers=2) as loader:
        found = []
        with pytest.raises(CodecError) as caught:
            found.extend(batch["__key__"] for batch in loader)
        assert caught.value.key == "9"
        assert "in worker 0" in caught.value.__notes__[-1]
        assert "decode" in caught.value.__notes__[-1]
        assert len(found) == loader.state_dict()["next_batch"] == 4
        assert len(pids(loader)) == 2  # they are alive and go on
        with pytest.raises(CodecError):
            list(loader)


class Odd(Exception):
    """An error that cannot be pickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def test_an_error_that_cannot_travel_is_told_in_its_words() -> None:
    def fails(_sample: dict) -> None:
        raise Odd(1, 2)

    def eof(_sample: dict) -> None:
        raise EOFError("mine")

    with (
        Loader(ROWS, batch_size=2, workers=1, transform=fails) as loader,
        pytest.raises(UserCodeError) as caught,
    ):
        list(loader)
    assert caught.value.message == "Odd: 1 and 2"
    assert "raise Odd(1, 2)" in caught.value.__notes__[-1]
    with (
        Loader(ROWS, batch_size=2, workers=1, transform=eof) as loader,
        pytest.raises(EOFError, match="mine"),
    ):
        list(loader)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "signal 9 .SIGKILL.*dmesg"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "signal 11 .SIGSEGV.*workers=0"),
        (lambda: os._exit(3), "exit code 3"),
    ],
)
def test_a_worker_that_dies_is_an_error_that_says_how_and_where(tmp_path, end, words) -> None:
    folder = write_shards(tmp_path / "x", 2, 20)

    def dies(sample: dict) -> dict:
        if sample["n.index"] == 13:
            faulthandler.disable()  # pytest's, which tells of signals at length
            end()
        return sample

    with Loader(folder, batch_size=2, workers=2, transform=dies) as loader:
        with pytest.raises(WorkerDied, match=words) as caught:
            list(loader)
        assert caught.value.url == f"{folder}/x-1-0.tar"
        assert caught.value.key == "000013"
        assert caught.value.code == 41
        assert pids(loader) == []


def test_a_shard_made_shorter_while_it_is_read_is_an_error(tmp_path) -> None:
    with ShardWriter(str(tmp_path / "x-%d.tar"), shard_samples=100) as writer:
        for n in range(100):
            writer.write({"x.npy": np.full(2**20, n, np.uint8)})

    def quiet(sample: tuple) -> tuple:
        faulthandler.disable()
        return sample

    def read(loader: Loader) -> None:
        for batch in loader:
            assert (batch[0] == batch[0][:, :1]).all()
            os.truncate(tmp_path / "x-0.tar", 2**22)

    with Loader(str(tmp_path), "x.npy", batch_size=4, workers=1, transform=quiet) as loader:
        with pytest.raises((WorkerDied, TarError)) as caught:
            read(loader)
        assert caught.value.url == f"{tmp_path}/x-0.tar"


def test_after_a_death_the_next_iter_goes_on_with_new_workers() -> None:
    rows = [row(number) for number in range(4000)]
    with Loader(rows, batch_size=2, workers=2) as loader:
        iterator = iter(loader)
        first = [next(iterator)["__key__"] for _ in range(3)]
        before = pids(loader)
        os.kill(before[1], signal.SIGKILL)
        with pytest.raises(WorkerDied):
            first.extend(batch["__key__"] for batch in iterator)
        gone(before)
        state = loader.state_dict()
        with Loader(rows, batch_size=2, workers=1) as other:
            other.load_state_dict(state)
            rest = [batch["__key__"] for batch in other]
        assert sum(1 for _ in loader) == 2000  # the next epoch, by new workers
    assert [key for batch in first + rest for key in batch] == keys(4000)


def test_a_worker_that_hangs_is_told_and_then_an_error(monkeypatch, caplog) -> None:
    monkeypatch.setattr("wlshard.workers.crew.LEAST_TIMEOUT_S", 2.0)
    monkeypatch.setattr("wlshard.workers.crew.TELL_S", 0.05)
    never, writer = os.pipe()
    with Loader(ROWS, batch_size=2, workers=2, timeout_s=0, transform=lambda _: os.read(never, 1)) as loader:
        iterator = iter(loader)
        with pytest.raises(WorkerDied, match="gave nothing for 2 s: see what its transform waits for"):
            next(iterator)
    for end in (never, writer):
        os.close(end)
    assert "waiting for worker 0 (process" in caplog.text


def test_a_worker_that_a_signal_has_stopped_is_an_error_long_before_the_timeout() -> None:
    rows = [row(number) for number in range(4000)]
    with Loader(rows, batch_size=2, workers=2) as loader:
        iterator = iter(loader)
        next(iterator)
        stopped = pids(loader)
        os.kill(stopped[0], signal.SIGSTOP)
        with pytest.raises(WorkerDied, match=r"worker 0 .*SIGSTOP.* has stopped it"):
            list(iterator)
        gone(stopped)


def test_the_time_that_all_were_stopped_is_not_waited(monkeypatch) -> None:
    """As by ^Z, and `fg` an hour later."""
    monkeypatch.setattr("wlshard.workers.crew.LOOK_S", 0.01)
    wait, go_on = os.pipe()

    class Leaps:
        calls, time, sleep = 0, time.time, time.sleep

        def monotonic(self) -> float:
            self.calls += threading.current_thread() is threading.main_thread()
            if self.calls == 20:
                os.write(go_on, b".")
            return time.monotonic() + 3600 * (self.calls > 15)

    def waits(sample: dict) -> dict:
        os.read(wait, 1)
        return sample

    with Loader(ROWS[:1], batch_size=1, workers=1, transform=waits) as loader, clock.use(Leaps()):
        assert next(iter(loader))["n.index"].tolist() == [0]
    for end in (wait, go_on):
        os.close(end)


def test_a_cv2_that_has_run_threads_in_the_parent_works_in_forked_workers() -> None:
    cv2 = pytest.importorskip("cv2")
    noise = np.random.default_rng(0).integers(0, 255, (375, 500, 3), np.uint8)
    cv2.GaussianBlur(noise, (0, 0), 0.8)
    cv2.resize(noise, (1000, 1000))

    def small(sample: dict) -> tuple:
        return sample["n.index"], cv2.resize(noise, (100, 100))

    assert same(batches(ROWS, 2, transform=small), batches(ROWS, 0, transform=small))


# --- lifetime


def test_close_ends_the_workers_and_may_come_twice_and_during_an_epoch() -> None:
    loader = Loader(ROWS, batch_size=2, workers=2)
    iterator = iter(loader)
    next(iterator)
    started = pids(loader)
    assert all(map(lives, started))
    loader.close()
    loader.close()
    assert not any(map(lives, started))
    with pytest.raises(UsageError, match="closed"):
        next(iterator)


def test_a_worker_busy_in_user_code_does_not_hold_up_close(tmp_path) -> None:
    wait = os.pipe()

    def hangs(sample: dict) -> dict:
        if sample["n.index"] == 10:
            os.read(wait[0], 1)
        return sample

    with Loader(ROWS, batch_size=2, workers=2, transform=hangs) as loader:
        next(iter(loader))
    for end in wait:
        os.close(end)


def test_nothing_is_started_before_first_use_and_workers_stay_from_epoch_to_epoch() -> None:
    with Loader(ROWS, batch_size=2, workers=2) as loader:
        assert len(loader) == 20
        assert pids(loader) == []
        list(loader)
        first = pids(loader)
        for _ in loader:
            break
        list(loader)
        assert pids(loader) == first


def test_loaders_that_come_and_go_leave_nothing(tmp_path) -> None:
    folder = write_shards(tmp_path / "x", 1, 8)
    fds = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with Loader(folder, batch_size=2, workers=2) as loader:
            next(iter(loader))
    assert len(os.listdir("/proc/self/fd")) == fds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers=-1"),
        ({"workers": "2"}, "workers='2'"),
        ({"workers": 2, "start_method": "thread"}, "start_method='thread'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_once(options, message) -> None:
    with pytest.raises(UsageError, match=message):
        Loader(ROWS, **options)


def test_memory_shards_are_for_one_process(memory_url) -> None:
    fill_pool(memory_url, range(10))
    with (
        Loader(memory_url, batch_size=2, workers=1) as loader,
        pytest.raises(UsageError, match="one process"),
    ):
        list(loader)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"transform": partial(print, LOCK)}, "transform"),
        ({"collate_fn": partial(print, LOCK)}, "collate_fn"),
        ({"batch_transform": [None, partial(print, LOCK)]}, "batch_transform"),
        ({"source": [{"x": LOCK}]}, "source"),
    ],
)
def test_what_cannot_be_sent_to_a_spawned_worker_is_named(options, name) -> None:
    source = options.pop("source", ROWS)
    with (
        Loader(source, batch_size=2, workers=1, start_method="spawn", **options) as loader,
        pytest.raises(UsageError, match=f"^{name}="),
    ):
        list(loader)


PAST_CACHE = "glibc.cpu.x86_non_temporal_threshold=0xc0000"


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (None, PAST_CACHE),
        ("glibc.malloc.check=0", f"glibc.malloc.check=0:{PAST_CACHE}"),
        ("glibc.cpu.x86_non_temporal_threshold=0x200000", "glibc.cpu.x86_non_temporal_threshold=0x200000"),
    ],
)
def test_a_worker_that_is_a_new_program_copies_past_the_cache_where_nobody_said_otherwise(
    monkeypatch, given, seen
) -> None:
    if given is None:
        monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    else:
        monkeypatch.setenv("GLIBC_TUNABLES", given)
    with Loader([{"n": 0}], batch_size=1, transform=tunables, workers=1, start_method="spawn") as loader:
        ((found,),) = loader
    assert found.partition("GLIBC_TUNABLES=")[2].startswith(f"{seen}:")
    assert os.environ.get("GLIBC_TUNABLES") == given


def tunables(_sample: dict) -> str:
    """Read them as the process got them; the C library has made zeros of the colons between them."""
    with open("/proc/self/environ") as file:
        return file.read().replace("\0", ":")
