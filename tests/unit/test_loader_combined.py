"""What a Loader's arguments do together: the same batches for any number of workers, each sample once."""

from __future__ import annotations

import gzip
import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from loading import fill_pool, keys, row, write_shards

from wlshard import Loader, Mix
from wlshard.testing.values import keys_of, same

SAMPLES = 43
COUNTED = ("samples", "batches", "epochs", "padded", "skipped", "bytes", "reuse", "generation")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict:
    """The same samples wherever a Loader finds them, and some of them with others."""
    folder = tmp_path_factory.mktemp("sources")
    plain = write_shards(folder / "plain", 5, SAMPLES)
    for path in Path(plain).glob("*.tar"):
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    pool = fill_pool(str(folder / "pool"), range(SAMPLES))
    other = fill_pool(str(folder / "other"), range(100, 100 + SAMPLES))
    return {
        "shards": plain,
        "packed": str(folder / "*.tar.gz"),
        "rows": [row(number) for number in range(SAMPLES)],
        "pool": pool.url,
        "mix": Mix({plain: 2, f"{other.url}@1": 1}),
        "cache_dir": str(folder),
    }


def thirds(sample) -> bool:
    return sample["n.index"] % 3 != 1


def halves(sample, rng):
    """Make two samples of one."""
    for part in range(2):
        drawn = rng.integers(256, size=4, dtype=np.uint8)
        yield {"__key__": f"{sample['__key__']}/{part}", "drawn": drawn, "raw": sample["raw"]}


def drawn(sample, rng):
    return {**sample, "drawn": rng.integers(256, size=(int(sample["n.index"]) % 2 + 1, 4), dtype=np.uint8)}


@st.composite
def arguments(draw) -> tuple[str, dict]:
    source = draw(st.sampled_from(["shards", "packed", "rows", "pool", "mix"]))
    least = 1 if source == "mix" else 0
    options: dict = {
        "batch_size": draw(st.sampled_from([None, 1, 3, 5, 8, 100])),
        "shuffle": draw(st.sampled_from([0, 1, 24, 100][least:])),
        "seed": draw(st.integers(0, 3)),
        "drop_last": draw(st.booleans()),
        "converters": draw(st.sampled_from(["numpy", "torch"])),
        "on_error": draw(st.sampled_from(["raise", "skip"])),
        **draw(st.sampled_from([{}, {"transform": drawn}, {"transform": halves, "per_sample": 2}])),
        **draw(st.sampled_from([{}, {"select": thirds}, {"select": "_['n.index'] % 3 != 1"}])),
    }
    if options["batch_size"] is not None and draw(st.booleans()):
        options["collate_fn"] = tuple_of
    if source == "pool":
        options |= draw(st.sampled_from([{}, {"reuse": 4}, {"follow": 2}, {"follow": None}]))
    options |= draw(st.sampled_from([{}, {}, {"epochs": 2}, {"batches": 2}, {"batches": 9}]))
    if source != "pool" and ("select" not in options or "batches" in options) and draw(st.booleans()):
        options |= {"world_size": (world := draw(st.integers(2, 3))), "rank": draw(st.integers(0, world - 1))}
    if "batches" in options and options["batch_size"] == 100:
        options["drop_last"] = False  # else there would be none
    return source, options


def tuple_of(samples: list) -> tuple:
    return tuple(sample["__key__"] for sample in samples), np.stack([np.arange(3) for _ in samples])


@given(chosen=arguments(), workers=st.integers(1, 3), others=st.integers(0, 3), data=st.data())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=[Phase.generate]
)
def test_workers_give_what_one_process_gives_and_go_on_with_it(sources, chosen, workers, others, data):
    name, options = chosen

    def loader(count: int) -> Loader:
        return Loader(sources[name], workers=count, cache_dir=sources["cache_dir"], **options)

    with closing(loader(0)) as one:
        expected = [list(one)]
        counted = {name: one.stats()[name] for name in COUNTED}
        expected.append(list(one))
    if not {"batches", "epochs", "rank"} & options.keys() and not options["drop_last"]:
        for epoch in expected:
            check_epoch(epoch, name, options)
    stop = data.draw(st.integers(0, len(expected[1])), label="batches before the stop")
    with closing(loader(workers)) as many:
        assert same(list(many), expected[0])
        assert {name: many.stats()[name] for name in COUNTED} == counted
        steps = iter(many)
        assert same([next(steps) for _ in range(stop)], expected[1][:stop])
        state = json.loads(json.dumps(many.state_dict()))
    with closing(loader(others)) as again:
        again.load_state_dict(state)
        assert same(list(again), expected[1][stop:])


def test_what_is_made_of_a_sample_of_a_mix_is_not_divided_between_epochs(sources) -> None:
    options: dict = {"batch_size": 5, "shuffle": 1, "drop_last": True, "transform": halves, "per_sample": 2}
    with closing(Loader(sources["mix"], **options)) as loader:
        _, whole = list(loader), list(loader)
    with closing(Loader(sources["mix"], **options)) as loader:
        list(loader)
        found = [next(iter(loader))]
        state = loader.state_dict()
    with closing(Loader(sources["mix"], workers=3, **options)) as loader:
        loader.load_state_dict(state)
        assert same([*found, *loader], whole)


def check_epoch(epoch: list, name: str, options: dict) -> None:
    """Each sample that was selected came once, each part of it; of a mix, none came twice."""
    found = [key for batch in epoch for key in keys_of(batch)]
    assert len(set(found)) == len(found)
    if name != "mix":
        wanted = [key for n, key in enumerate(keys(SAMPLES)) if "select" not in options or n % 3 != 1]
        ends = [f"/{part}" for part in range(options["per_sample"])] if "per_sample" in options else [""]
        assert set(found) == {key + end for key in wanted for end in ends}
