"""The parts of a loader by themselves: read-ahead, strips, columns, fields."""

from __future__ import annotations

import logging
import threading
import traceback
import weakref

import numpy as np
import pytest
from loading import row

from wlshard import UsageError
from wlshard.stream.ahead import ReadAhead
from wlshard.stream.collate import collate, column
from wlshard.stream.data import data_of_rows
from wlshard.stream.fields import parse_fields
from wlshard.stream.order import Line, Order, Shape
from wlshard.stream.share import Share
from wlshard.stream.window import Strips, steps_of, windows

# --- read-ahead


class Paced:
    """A source that tells how far it was read, and can be held at a number."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.read = 0
        self.reached = threading.Condition()

    def __iter__(self):
        for number in range(self.count):
            with self.reached:
                self.read = number + 1
                self.reached.notify_all()
            yield [number]

    def wait_for(self, read: int) -> None:
        with self.reached:
            assert self.reached.wait_for(lambda: self.read >= read, timeout=20)


def test_read_ahead_gives_everything_in_order() -> None:
    ahead = ReadAhead(iter([[n] for n in range(1000)]), len, 10)
    found = []
    for item in ahead:
        found += item
        ahead.release(1)
    assert found == list(range(1000))
    assert list(ahead) == []
    ahead.close()


def test_read_ahead_stops_at_its_limit_and_goes_on_when_half_of_it_is_released() -> None:
    source = Paced(100)
    ahead = ReadAhead(iter(source), len, 5)
    assert next(ahead) == [0]
    source.wait_for(5)
    ahead._thread.join(0.05)  # were it to read on, it would do so now
    assert source.read == 5
    ahead.release(2)
    ahead._thread.join(0.05)
    assert source.read == 5
    ahead.release(1)
    source.wait_for(8)
    ahead.close()
    assert source.read == 8


def test_a_consumer_that_releases_nothing_still_gets_everything() -> None:
    ahead = ReadAhead(iter([[n] for n in range(50)]), len, 5)
    assert [item for [item] in ahead] == list(range(50))
    ahead.close()


def test_an_error_comes_after_what_was_read_before_it_with_its_traceback() -> None:
    def source():
        yield [1]
        raise OSError("the cable")

    ahead = ReadAhead(source(), len, 5)
    assert next(ahead) == [1]
    with pytest.raises(OSError, match="the cable") as caught:
        next(ahead)
    assert "in source" in "".join(traceback.format_exception(caught.value))
    with pytest.raises(StopIteration):
        next(ahead)
    ahead.close()


def test_a_thread_that_is_for_slow_sources_begins_once_several_reads_have_waited(monkeypatch) -> None:
    def source():
        nonlocal waits
        for number in range(40):
            here.append(threading.current_thread() is threading.main_thread())
            waits += number in (10, 20, 21)  # 20: two in more than sixteen, seldom enough
            yield [number]

    waits, here = 0, []
    monkeypatch.setattr("wlshard.stream.ahead._waits", lambda: waits)
    ahead = ReadAhead(source(), len, 1, only_if_slow=True)
    found = []
    for [item] in ahead:
        found.append(item)
        assert ahead.waited_s > 0
        ahead.release(1)
    assert found == list(range(40))
    assert here == [True] * 40

    waits, here = 0, []
    ahead = ReadAhead(iter(source()), len, 1, only_if_slow=True)
    monkeypatch.setattr("wlshard.stream.ahead._SELDOM", 1 << 30)
    assert [item for [item] in ahead] == list(range(40))
    assert here == [True] * 21 + [False] * 19
    ahead.close()


@pytest.mark.parametrize("limit", [0, 2])
def test_what_the_source_holds_goes_with_close(limit) -> None:
    class Block:
        pass

    def source():
        block = Block()
        held.append(weakref.ref(block))
        yield from range(100)

    held = []
    ahead = ReadAhead(source(), lambda _: 1, limit)
    assert next(ahead) == 0
    ahead.close()
    assert held[0]() is None


def test_close_ends_a_thread_that_waits_and_may_come_twice_or_first() -> None:
    ahead = ReadAhead(iter(Paced(100)), len, 2)
    next(ahead)
    ahead.close()
    ahead.close()
    assert not ahead._thread.is_alive()
    with pytest.raises(UsageError, match="closed"):
        next(ahead)
    ReadAhead(iter([]), len, 2).close()


def test_a_close_that_waits_for_a_read_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()

    def source():
        yield [1]
        go_on.wait()

    class Told(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            go_on.set()

    ahead = ReadAhead(source(), len, 5)
    next(ahead)
    monkeypatch.setattr("wlshard.stream.ahead.TELL_S", 0.01)
    told = Told()
    logging.getLogger("wlshard.stream.ahead").addHandler(told)
    ahead.close()
    logging.getLogger("wlshard.stream.ahead").removeHandler(told)
    assert "read under way" in caplog.text


def test_a_consumer_waiting_in_another_thread_hears_of_close() -> None:
    held = threading.Event()

    def source():
        yield [0]
        held.wait(20)
        yield [1]

    ahead = ReadAhead(source(), len, 5)
    next(ahead)
    heard = []

    def consume() -> None:
        try:
            next(ahead)
        except UsageError as error:
            heard.append(error)

    consumer = threading.Thread(target=consume)
    consumer.start()
    while not ahead._hungry:
        consumer.join(0.001)
    closer = threading.Thread(target=ahead.close)
    closer.start()
    consumer.join(20)
    held.set()
    closer.join(20)
    assert len(heard) == 1


def test_long_waiting_is_told(monkeypatch, caplog) -> None:
    monkeypatch.setattr("wlshard.stream.ahead.TELL_S", 0.001)
    told = threading.Event()
    monkeypatch.setattr("wlshard.stream.ahead.log.warning", lambda *_: told.set())

    def source():
        assert told.wait(20)
        yield [1]

    ahead = ReadAhead(source(), len, 5)
    assert next(ahead) == [1]
    assert ahead.waited_s > 0
    ahead.close()


# --- windows


class CountingShard:
    """Rows that note each read."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.seekable = True
        self.reads: list[tuple[int, int]] = []

    def read(self, first: int, count: int) -> list[dict]:
        self.reads.append((first, count))
        return [row(number) for number in range(first, first + count)]


def read_all(shape: Shape, samples: int, world: int = 1, sample_bytes: float | None = None, start: int = 0):
    shard = CountingShard(samples)
    data = data_of_rows([])
    data.shard = lambda _number: shard  # type: ignore[method-assign]
    data.sample_bytes, data.strip_bytes = sample_bytes, 2**20
    found = []
    for rank in range(world):
        order = Order(samples, shape, 0, 0)
        share = Share(samples, shape.batch, start=start, rank=rank, world=world)
        strips = Strips(data, order, Line([0], [samples]), skip=False, ahead=order.lanes % world == 0)
        for placed, _ in steps_of(share, windows(order, share, strips.read)):
            found += [(place, sample["n.index"]) for place, sample in placed]
    return shard, found


def test_each_strip_is_read_once_front_to_back_in_large_pieces() -> None:
    shard, found = read_all(Shape(4, 6, 8, 4), 3000, sample_bytes=2**20 / 50)
    assert sorted(number for _, number in found) == list(range(3000))
    assert all(place == number for place, number in found)
    assert sum(count for _, count in shard.reads) == 3000
    assert len(shard.reads) <= 24 * (-(-3000 // 24 // 50) + 1)
    assert max(count for _, count in shard.reads) == 50


def test_pieces_larger_than_the_read_ahead_are_read_one_by_one() -> None:
    shard, _ = read_all(Shape(4, 6, 8, 2), 480, sample_bytes=2**20)
    assert {count for _, count in shard.reads} == {4}


@pytest.mark.parametrize("start", [1, 5, 6, 12, 100, 371, 749])
def test_a_resume_reads_at_most_one_window_of_each_lane_again(start) -> None:
    shape, samples = Shape(4, 6, 8, 4), 3000
    _, whole = read_all(shape, samples)
    shard, found = read_all(shape, samples, sample_bytes=2**20 / 50, start=start)
    assert found == whole[4 * start :]
    assert 0 <= sum(count for _, count in shard.reads) - len(found) < 6 * 8


def test_ranks_that_divide_the_lanes_read_each_sample_once_but_for_the_last_step() -> None:
    shard, _ = read_all(Shape(4, 6, 8, 4), 960, world=3, sample_bytes=2**20 / 10)
    assert sum(count for _, count in shard.reads) == 960
    shard, _ = read_all(Shape(4, 6, 8, 4), 967, world=3, sample_bytes=2**20 / 10)
    assert 967 <= sum(count for _, count in shard.reads) <= 967 + 3 * 2 * 8


# --- columns


def test_columns_stack_only_what_agrees() -> None:
    stacked = column([np.zeros((2, 3), np.uint16), np.ones((2, 3), np.uint16)])
    assert (stacked.shape, stacked.dtype) == ((2, 2, 3), np.uint16)
    assert isinstance(column([np.zeros(2), np.zeros(3)]), list)
    assert isinstance(column([np.zeros(2, np.float32), np.zeros(2, np.float64)]), list)
    assert isinstance(column([np.array([None]), np.array([1])]), list)
    assert column([np.float32(1), np.float32(2)]).dtype == np.float32
    assert column([1, 2]).dtype == np.int64
    assert column([1, 2**63]) == [1, 2**63]
    assert column([True, False]).dtype == np.bool_
    assert column([1.5, 2.5]).dtype == np.float64
    assert column([1, 2.5]) == [1, 2.5]
    assert column(["a", "b"]) == ["a", "b"]
    assert column([{"a": 1}]) == [{"a": 1}]


@pytest.mark.parametrize(
    "dtype",
    [">f4", [("a", "u1"), ("b", ">f8")], np.dtype([("a", "u1"), ("b", "f8")], align=True), "M8[D]"],
)
def test_stacking_keeps_byte_order_and_padding(dtype) -> None:
    dtype = np.dtype(dtype)
    values = [np.zeros(3, dtype), np.ones(3, dtype)]
    stacked = column(values)
    assert (stacked.dtype, stacked.dtype.isalignedstruct) == (dtype, dtype.isalignedstruct)
    assert (stacked[0] == values[0]).all()
    assert (stacked[1] == values[1]).all()
    assert column([value[0] for value in values]).shape == (2,)


def test_tensors_stack_to_tensors() -> None:
    torch = pytest.importorskip("torch")
    assert column([torch.zeros(2), torch.ones(2)]).shape == (2, 2)
    assert isinstance(column([torch.zeros(2), torch.ones(3)]), list)


def test_tuples_dicts_and_single_values_collate() -> None:
    numbers, names = collate([(1, "a"), (2, "b")])
    assert (numbers.tolist(), names) == ([1, 2], ["a", "b"])
    assert collate([{"x": 1}, {"x": 2}])["x"].tolist() == [1, 2]
    assert collate([3, 4]).tolist() == [3, 4]


def test_fields_are_words_of_alternatives() -> None:
    assert parse_fields("jpg;PNG cls __key__") == [["jpg", "png"], ["cls"], ["__key__"]]
    assert parse_fields(["jpg;png", "cls"]) == [["jpg", "png"], ["cls"]]
    assert parse_fields(None) is None
    for nothing in ("", ";", []):
        with pytest.raises(UsageError, match="names no field"):
            parse_fields(nothing)
