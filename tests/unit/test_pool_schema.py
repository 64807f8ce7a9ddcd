"""A pool's first shard decides what samples are like; what is not like that is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from pools import Interrupting
from processes import environ

from wlshard import GroupingError, Pool, ShardWriter
from wlshard.pool.schema import read_schema


@pytest.fixture
def pool(memory_url):
    return Pool(memory_url).create()


def image(size=4, dtype=np.uint8):
    return np.zeros((size, size), dtype)


def write(pool, *samples, **settings):
    with ShardWriter(pool, **settings) as writer:
        for sample in samples:
            writer.write(sample)


def test_the_first_shard_fixes_fields_dtypes_and_shapes(pool):
    write(pool, {"img.npy": image(), "cls": 1}, {"img.npy": image(), "cls": np.int64(2)})
    assert json.loads(pool.store.read("schema.json")) == {
        "format": 1,
        "fields": {
            "cls": {"type": "int", "shape": None, "optional": False},
            "img.npy": {"type": "uint8", "shape": [4, 4], "optional": False},
        },
    }
    write(pool, {"cls": 3, "img.npy": image()})
    assert pool.rotate().promoted.samples == 3


@pytest.mark.parametrize(
    "other",
    [
        {"img.npy": image(5), "n.json": 1},
        {"img.npy": image(dtype=np.float32), "n.json": 1},
        {"img.npy": np.zeros((4, 4, 1), np.uint8), "n.json": 1},
        {"img.npy": image(), "n.json": 1.5},
        {"img.npy": image(), "n.json": "cat"},
        {"img.npy": image()},
        {"img.npy": image(), "n.json": 1, "txt": "new"},
        {"label.npy": image(), "n.json": 1},
    ],
)
def test_a_sample_that_is_not_like_them_is_refused_with_both_shown(pool, other):
    write(pool, {"img.npy": image(), "n.json": 1})
    with ShardWriter(pool) as writer:
        writer.write({"img.npy": image(), "n.json": 7})
        with pytest.raises(GroupingError) as caught:
            writer.write({"__key__": "odd", **other})
        writer.write({"img.npy": image(), "n.json": 8})
    assert "there {img.npy: uint8 4×4, n.json: int}" in caught.value.message
    assert caught.value.key == "odd"
    assert pool.rotate().promoted.samples == 3


def test_a_sample_is_refused_however_many_of_its_fields_or_types_were_taken_before(pool):
    with ShardWriter(pool, shard_samples=2) as writer:
        for sample in ({"cls": 1, "json": "a"}, {"cls": 2}, {"cls": 3, "json": "b"}, {"cls": 4}):
            writer.write(sample)
        for other in ({"json": "c"}, {"cls": 6, "txt": "d"}, {"cls": 8, "json": 9}):
            with pytest.raises(GroupingError):
                writer.write(other)
        writer.write({"cls": 10})
    assert writer.samples == 5


def test_any_schema_lets_it_in(pool):
    write(pool, {"img.npy": image(), "cls": 1})
    write(pool, {"txt": "x"}, any_schema=True)
    assert pool.rotate().promoted.samples == 2


def test_what_varies_in_the_first_shard_may_vary_later(pool):
    write(
        pool,
        {"img.npy": image(4), "x.json": 1, "a.txt": "a"},
        {"img.npy": np.zeros((4, 6), np.uint8), "x.json": [1]},
        {"img.npy": image(4), "x.json": 1, "b.txt": "b"},
    )
    schema = read_schema(pool.store)
    assert str(schema) == "{a.txt: str?, b.txt: str?, img.npy: uint8 4×?, x.json: any}"
    write(pool, {"img.npy": np.zeros((4, 9), np.uint8), "x.json": {}})
    with pytest.raises(GroupingError):
        write(pool, {"img.npy": image(5), "x.json": 1})


def test_bytes_stand_for_anything(pool):
    write(pool, {"img.npy": image(), "cls": 1})
    write(pool, {"img.npy": b"whatever", "cls": memoryview(b"1")})
    assert pool.rotate().promoted.samples == 2


def test_of_two_first_shards_one_decides_and_the_other_is_refused_whole(pool):
    write_first = lambda: write(Pool(pool.url), {"cls": 1})  # noqa: E731
    store = Interrupting(pool.store, lambda op: op.name == "schema.json" and op.kind == "create", write_first)
    writer = ShardWriter(Pool(pool.url, store=store))
    writer.write({"txt": "x"})
    for _ in range(2):
        with pytest.raises(GroupingError, match=r"here {txt: str}, there {cls: int}"):
            writer.close()
    writer._abandon()  # as if this process died now: nothing is left to be salvaged
    assert list(pool.store.drafts()) == []
    assert pool.rotate().promoted.samples == 1


def test_of_two_first_shards_that_are_alike_both_are_sealed(pool):
    write_first = lambda: write(Pool(pool.url), {"cls": 1})  # noqa: E731
    store = Interrupting(pool.store, lambda op: op.name == "schema.json" and op.kind == "create", write_first)
    write(Pool(pool.url, store=store), {"cls": 2})
    assert pool.rotate().promoted.samples == 2


def test_wl_gen_is_refused_with_21_or_lets_anything_in(tmp_path):
    pool = Pool(tmp_path / "p").create()
    write(pool, {"cls": 1})
    command = [sys.executable, "-P", "-c", "from wlshard.cli.gen import main; main()", "generators:five"]
    done = subprocess.run([*command, pool.url], env=environ(), capture_output=True, text=True)
    assert done.returncode == 21
    assert "generators:five, sample 0" in done.stderr
    assert "here {json: dict}, there {cls: int}" in done.stderr
    done = subprocess.run([*command, pool.url, "--schema", "any"], env=environ(), capture_output=True)
    assert done.returncode == 0
    assert pool.rotate().promoted.samples == 6
