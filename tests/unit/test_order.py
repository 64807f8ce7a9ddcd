"""The epoch's order, held against a model that builds the whole epoch as lists."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlshard import seeds
from wlshard.stream.order import Line, Order, Shape, shape_of, shard_order
from wlshard.stream.share import Part, Share


def model_epoch(samples: int, batch: int, lanes: int, window: int, strips: int, seed: int, epoch: int):
    """All batches of an epoch, made by dealing lists: no closed forms, no arithmetic shared with the code."""
    batch_sizes = []
    left = samples
    while left:
        batch_sizes.append(min(batch, left))
        left -= batch_sizes[-1]
    lane_batches = {lane: list(range(len(batch_sizes)))[lane::lanes] for lane in range(lanes)}
    # windows of a lane: w samples at a time, then each window's size dealt over the strips
    lane_windows = {}
    for lane, numbers in lane_batches.items():
        todo = sum(batch_sizes[i] for i in numbers)
        sizes = []
        while todo:
            sizes.append(min(window, todo))
            todo -= sizes[-1]
        lane_windows[lane] = sizes

    def cut(size: int) -> list[int]:
        edges = [(strip * size) // strips for strip in range(strips + 1)]
        return [high - low for low, high in pairwise(edges)]

    line = iter(range(samples))
    strip_content = {}
    for strip in range(strips):
        for lane in seeds.permutation(lanes, seed, epoch, strip):
            length = sum(cut(size)[strip] for size in lane_windows[lane])
            strip_content[lane, strip] = [next(line) for _ in range(length)]
    assert next(line, None) is None, "the bands cover the line"
    batches: dict[int, list[int]] = {}
    for lane, sizes in lane_windows.items():
        queue = list(lane_batches[lane])
        for number, size in enumerate(sizes):
            found = []
            for strip, piece in enumerate(cut(size)):
                found += [strip_content[lane, strip].pop(0) for _ in range(piece)]
            draw = random.Random(seeds.seed_of(seed, epoch, lane, number)).random
            keyed = sorted((draw(), at) for at in range(size))
            mixed = [found[at] for _, at in keyed]
            while mixed:
                batches[queue.pop(0)] = [mixed.pop(0) for _ in range(min(batch, len(mixed)))]
        assert not queue
    assert not any(strip_content.values())
    return [batches[i] for i in range(len(batch_sizes))]


def computed_epoch(samples: int, shape: Shape, seed: int, epoch: int) -> list[list[int]]:
    order = Order(samples, shape, seed, epoch)
    found = []
    for number in range(order.batches):
        lane, window, first = order.locate(number)
        assert order.batch_at(lane, window, first) == number
        places = [p for place, count in order.pieces(lane, window) for p in range(place, place + count)]
        permuted = order.permutation(lane, window)
        assert len(permuted) == len(places) == order.window_samples(lane, window)
        found.append([places[at] for at in permuted[first : first + shape.batch]])
    return found


shapes = st.builds(
    lambda batch, lanes, per_window, strips: Shape(batch, lanes, batch * per_window, strips),
    st.integers(1, 7),
    st.integers(1, 26),
    st.integers(1, 5),
    st.integers(1, 17),
)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 700), shapes, st.integers(-(2**70), 2**70), st.integers(0, 5))
def test_the_order_is_the_one_that_dealing_lists_gives(samples, shape, seed, epoch) -> None:
    model = model_epoch(samples, shape.batch, shape.lanes, shape.window, shape.strips, seed, epoch)
    assert computed_epoch(samples, shape, seed, epoch) == model
    assert sorted(place for found in model for place in found) == list(range(samples))


def test_without_lanes_batch_i_is_samples_ib_to_ib_plus_b() -> None:
    assert computed_epoch(10, Shape(4), 1, 2) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert list(shard_order(4, Shape(4), 1, 2)) == [0, 1, 2, 3]


def test_how_much_is_read_at_a_time_is_no_part_of_an_order_without_lanes() -> None:
    order = Order(103, Shape(4), 0, 0, grain=5)
    assert order.locate(7) == (0, 1, 8)
    assert order.pieces(0, 1) == [(20, 20)]
    assert order.pieces(0, 5) == [(100, 3)]


def test_epochs_and_seeds_give_other_orders_and_shard_orders() -> None:
    shape = shape_of(4, 200, 1, seekable=True)
    orders = {str(computed_epoch(300, shape, seed, epoch)) for seed in range(3) for epoch in range(3)}
    lines = {str(shard_order(20, shape, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == len(lines) == 9


def test_a_lane_and_a_step_touch_places_far_apart() -> None:
    shape = shape_of(8, 1000, 1, seekable=True)
    order = Order(96_000, shape, 0, 0)
    for lane in range(order.lanes):
        places = [place for place, _ in order.pieces(lane, 3)]
        assert places == sorted(places)
        bands = [place * shape.strips // 96_000 for place in places]
        assert bands == list(range(shape.strips))


def test_the_default_shape_holds_what_shuffle_says() -> None:
    assert shape_of(32, 1000, 4, seekable=True) == Shape(32, 48, 64, 16)
    assert shape_of(1, 12, 1, seekable=True) == Shape(1, 12, 1, 1)
    assert shape_of(32, 1, 1, seekable=True) == Shape(32, 12, 32, 16)
    assert shape_of(32, 1000, 4, seekable=False) == Shape(32, 1, 992, 1)
    assert shape_of(32, 0, 4, seekable=True) == Shape(32)


@given(st.lists(st.integers(0, 9), max_size=12), st.data())
def test_spans_of_the_line_are_its_samples_in_order(counts, data) -> None:
    order = data.draw(st.permutations(range(len(counts))))
    line = Line(order, counts)
    flat = [(shard, i) for shard in order for i in range(counts[shard])]
    start = data.draw(st.integers(0, len(flat)))
    count = data.draw(st.integers(0, len(flat) - start))
    found = [(shard, first + i) for shard, first, here in line.spans(start, count) for i in range(here)]
    assert found == flat[start : start + count]
    assert all(here > 0 for _, _, here in line.spans(start, count))


def served(samples, batch, start, world, drop_last) -> list[list[list[tuple[int, int]]]]:
    """By rank and step, the (batch, place in the batch) of each sample."""
    found = []
    for rank in range(world):
        share = Share(samples, batch, start=start, rank=rank, world=world, drop_last=drop_last)
        steps = []
        for step in range(share.steps):
            parts = share.step(step)
            assert all(share.part(part.batch) == part and part.samples > 0 for part in parts)
            steps.append([(part.batch, part.first + i) for part in parts for i in range(part.samples)])
        found.append(steps)
    return found


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 200), st.integers(1, 9), st.integers(0, 12), st.integers(1, 9), st.booleans())
def test_each_sample_is_served_once_over_the_ranks(samples, batch, start, world, drop_last) -> None:
    ranks = served(samples, batch, start, world, drop_last)
    left = [(place // batch, place % batch) for place in range(min(start * batch, samples), samples)]
    rest = len(left) % (batch * world)
    assert {len(steps) for steps in ranks} == {
        len(left) // (batch * world) if drop_last else -(-len(left) // (batch * world))
    }
    for step, turn in enumerate(zip(*ranks, strict=True)):
        base = step * batch * world
        together = [pair for found in turn for pair in found]
        if base + batch * world <= len(left):
            assert together == left[base : base + batch * world]
            assert all(len(found) == batch for found in turn)
        else:  # the last step, unequal: shares in order, one repeated for a rank that would have none
            assert min(len(found) for found in turn) >= 1
            assert max(len(found) for found in turn) - min(len(found) for found in turn) <= 1
            if rest >= world:
                assert together == left[base:]
            assert set(together) == set(left[base:])
    counts = Counter(pair for steps in ranks for found in steps for pair in found)
    padded = sum(
        Share(samples, batch, start=start, rank=rank, world=world, drop_last=drop_last).padded
        for rank in range(world)
    )
    assert sum(counts.values()) - len(counts) == padded
    assert padded == (world - rest if 0 < rest < world and not drop_last else 0)


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 6))
def test_part_and_step_agree_for_every_batch(samples, batch, world) -> None:
    for rank in range(world):
        share = Share(samples, batch, rank=rank, world=world)
        named = {part.batch: part for step in range(share.steps) for part in share.step(step)}
        assert {b: p for b in range(-3, 70) if (p := share.part(b)) is not None} == named


def test_the_global_sequence_is_the_same_for_every_world() -> None:
    shape = Shape(3, 12, 6, 4)
    model = computed_epoch(200, shape, 5, 1)
    flat = [place for found in model for place in found]
    for world in range(1, 9):
        shares = [Share(200, 3, rank=rank, world=world) for rank in range(world)]
        given_out = [
            model[part.batch][part.first + i]
            for step in range(shares[0].steps)
            for share in shares
            for part in share.step(step)
            for i in range(part.samples)
        ]
        assert list(dict.fromkeys(given_out)) == flat  # padding repeats a neighbour's sample


def test_a_share_after_the_end_has_no_steps() -> None:
    assert Share(10, 4, start=3).steps == 0
    assert Share(10, 4, start=30, world=2).steps == 0
    assert Share(0, 4).steps == 0


def test_the_last_step_of_a_rank_names_parts_of_two_batches() -> None:
    share = Share(11, 4, rank=1, world=3)  # 11 left over 3 ranks: 0-2, 3-6, 7-10
    assert share.step(0) == [Part(0, 3, 1), Part(1, 0, 3)]


@pytest.mark.parametrize("samples", [0, 1, 5])
def test_fewer_samples_than_lanes_leave_lanes_empty(samples) -> None:
    order = Order(samples, Shape(2, 12, 4, 4), 0, 0)
    assert sum(order.lane_samples(lane) for lane in range(12)) == samples
