"""Sources mixed by weight: how much of each, none twice, covered and resumed."""

from __future__ import annotations

import json
from collections import Counter, UserList

import numpy as np
import pytest
from loading import fill_pool, row, write_shards

from wlshard import Loader, Mix, UsageError, samples
from wlshard.testing.coverage import check_coverage
from wlshard.testing.resume import check_resume, check_resume_over_worlds


def named(name: str, count: int) -> list:
    return [{**row(number), "__key__": f"{name}{number:04d}"} for number in range(count)]


A, B, C = named("a", 60), named("b", 31), named("c", 9)


def given(loader: Loader) -> list[str]:
    return [key for batch in loader for key in batch["__key__"]]


@pytest.mark.parametrize(
    ("weights", "takes"),
    [
        ((1, 1, 1), (9, 9, 9)),
        ((60, 31, 9), (60, 31, 9)),
        ((4, 2, 1), (36, 18, 9)),
        ((10, 0.1, 0.1), (60, 1, 1)),
    ],
)
def test_an_epoch_has_of_each_source_what_its_weight_says_and_none_twice(weights, takes) -> None:
    with Loader(Mix(list(zip((A, B, C), weights, strict=True))), batch_size=4, shuffle=48) as loader:
        length = len(loader)
        for _ in range(3):
            keys = given(loader)
            assert length == -(-sum(takes) // 4)
            assert len(set(keys)) == len(keys)
            assert tuple(Counter(key[0] for key in keys)[name] for name in "abc") == takes


def test_all_of_a_source_comes_before_any_comes_again_but_for_a_rest_that_is_no_whole_epoch() -> None:
    with Loader(Mix([(A, 2), (C, 1)]), batch_size=4, shuffle=48, seed=3) as loader:  # 18 of 60: three epochs
        turns = [[key for key in given(loader) if key[0] == "a"] for _ in range(9)]
    for first in (0, 3, 6):
        assert len({key for turn in turns[first : first + 3] for key in turn}) == 54
    assert len({key for turn in turns for key in turn}) == 60
    assert sorted(turns[0]) != sorted(turns[3])


def test_of_many_shards_another_order_begins_when_no_whole_epoch_is_left(tmp_path) -> None:
    folder = write_shards(tmp_path / "x", 10, 60)
    with Loader(Mix([(folder, 2), (C, 1)]), batch_size=4, shuffle=48, cache_dir=str(tmp_path)) as loader:
        turns = [[key for key in given(loader) if key[0] != "c"] for _ in range(9)]
    for first in (0, 3, 6):
        assert len({key for turn in turns[first : first + 3] for key in turn}) == 54
    assert len({tuple(sorted(turn)) for turn in turns}) == 9


def test_sources_are_mixed_within_a_batch(tmp_path) -> None:
    one, two = write_shards(tmp_path / "a", 7, 800), write_shards(tmp_path / "b", 4, 400)
    mix = Mix({one: 2, two: 1})
    with Loader(mix, batch_size=24, shuffle=1152, cache_dir=str(tmp_path)) as loader:
        shares = [np.mean(["/b/" in url for url in batch["__url__"]]) for batch in loader]
    assert len(shares) == 50
    assert np.mean(shares) == pytest.approx(1 / 3)
    assert np.std(shares) < 2 * np.sqrt(2 / 9 / 24)  # twice what drawing one by one would give


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mix_covers_and_resumes_for_any_world_and_workers(tmp_path, workers) -> None:
    folders = [
        write_shards(tmp_path / name, shards, count) for name, shards, count in [("x", 3, 40), ("y", 2, 13)]
    ]
    pool = fill_pool(str(tmp_path / "pool"), range(26))

    def transform(sample):
        return {
            **sample,
            "__key__": f"{'xyp'[sample['__url__'].count('/y/') + 2 * ('pool' in sample['__url__'])]}"
            + sample["__key__"],
        }

    def loader(rank: int = 0, world: int = 1, workers: int = 0) -> Loader:
        mix = Mix({folders[0]: 40, folders[1]: 13, f"{pool.url}@1": 26})
        options = {"batch_size": 4, "shuffle": 40, "transform": transform, "cache_dir": str(tmp_path)}
        return Loader(mix, **options, rank=rank, world_size=world, workers=workers)

    with loader() as whole:
        keys = given(whole)
    assert pool.served(1)[0].served == 26
    assert len(set(keys)) == 79
    worlds = (1, 2, 3, 4) if not workers else (1, 2)
    check_coverage(
        lambda rank, world: loader(rank, world, workers), keys, batch_size=4, worlds=worlds, epochs=2
    )
    if not workers:
        check_resume_over_worlds(loader, worlds=(1, 2, 3), every=4)
        turns = iter(number % 3 for number in range(1000))
        check_resume(lambda: loader(workers=next(turns)), every=6)


def test_a_resume_in_a_later_epoch_goes_on_in_the_same_order() -> None:
    mix = Mix([(A, 2), (C, 1)])
    check_resume(lambda: Loader(mix, batch_size=5, shuffle=48, seed=1), epochs=4, every=3)

    def halves(sample):
        return [sample["__key__"]] * 2

    options = {"batch_size": 4, "shuffle": 48, "transform": halves, "per_sample": 2}
    with Loader(Mix([(A, 2), (C, 1)]), **options) as loader:
        assert len(loader) == 14
        assert sorted(Counter(key for batch in loader for key in batch).values()) == [2] * 27


def test_what_cannot_be_mixed_is_refused(tmp_path) -> None:
    class Stream:
        def __iter__(self):
            return iter(A)

    pool = fill_pool(str(tmp_path / "pool"), range(6))
    for mix, options, message in [
        (Mix([(A, 1)]), {"shuffle": 0}, "shuffle="),
        (Mix([(Stream(), 1), (A, 1)]), {}, "wl-index"),
        (Mix([(UserList(), 1), (A, 1)]), {}, "no samples"),
        (Mix({pool.url: 1}), {}, "POOL@n"),
    ]:
        with Loader(mix, **{"batch_size": 4, "shuffle": 24, **options}) as loader:
            steps = iter(loader)
            with pytest.raises(UsageError, match=message):
                next(steps)
    with pytest.raises(UsageError, match="for a Loader"):
        next(iter(samples(Mix([(A, 1)]))))


def test_the_state_of_many_sources_and_ranks_is_small() -> None:
    many = Mix([([row(number) for number in range(n + 1)], n + 1) for n in range(100)])
    options = {
        "rank": 999,
        "world_size": 1000,
        "seed": 2**62,
        "per_sample": 3,
        "transform": lambda one: [one] * 3,
    }
    with Loader(many, batch_size=2, shuffle=10**6, **options) as loader:
        next(iter(loader))
        assert len(json.dumps(loader.state_dict())) < 4096


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({}, "source: weight"),
        (["a", "b"], "source: weight"),
        ({"a": 0}, "weight 0 of 'a'"),
        ({"a": -1}, "positive"),
        ({"a": float("nan")}, "positive"),
        ({"a": "1"}, "positive"),
        ({"a": True}, "positive"),
        ([(Mix({"a": 1}), 1)], "Mix in a Mix"),
    ],
)
def test_weights_are_positive_numbers(sources, message) -> None:
    with pytest.raises(UsageError, match=message):
        Mix(sources)
