"""One index for a whole data set: a source everywhere, without a look at its shards, while it holds."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from wlshard import Loader, ShardWriter, samples
from wlshard.errors import NotFound, TarError, UsageError
from wlshard.shards.access import ShardAccess
from wlshard.shards.dataset import read_dataset, write_dataset
from wlshard.shards.expand import expand
from wlshard.shards.sought import samples_from
from wlshard.tar.index import ListedShard

SAMPLES = 40


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Four shards with indexes beside two of them."""
    with ShardWriter(f"{tmp_path}/x-%06d.tar", shard_samples=10) as writer:
        for number in range(SAMPLES):
            writer.write({"cls": number, "bin": bytes(number * 100)})
    for shard in writer.shards[2:]:
        Path(shard).with_suffix(".idx").unlink()
    return writer.shards


@pytest.fixture
def index(shards: list[str], tmp_path: Path) -> str:
    assert list(write_dataset(shards, f"{tmp_path}/all.idx")) == [10] * 4
    for path in tmp_path.glob("x-*.idx"):
        path.unlink()
    return f"{tmp_path}/all.idx"


def run(*words: object, code: int = 0) -> str:
    command = [sys.executable, "-m", f"wlshard.cli.{words[0]}", *map(str, words[1:])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def order(source: object, tmp_path: Path, **options: object) -> list[int]:
    with Loader(source, "cls", batch_size=4, shuffle=20, cache_dir=str(tmp_path / "c"), **options) as loader:
        return [label for (labels,) in loader for label in labels.tolist()]


def test_it_stands_for_the_shards(shards: list[str], index: str, tmp_path: Path) -> None:
    assert expand(index) == shards
    assert all(isinstance(shard, ListedShard) for shard in expand(index))
    assert [row["cls"] for row in samples(index)] == list(range(SAMPLES))
    assert order(index, tmp_path) == order(shards, tmp_path)
    assert order(index, tmp_path, workers=2, start_method="spawn") == order(shards, tmp_path)


def test_no_shard_is_looked_at_before_it_is_read(shards: list[str], index: str, tmp_path: Path) -> None:
    listed = expand(index)
    for shard in shards[:3]:
        os.unlink(shard)
    assert bytes(next(samples_from(listed, 33))["cls"]) == b"33"
    os.unlink(shards[3])
    with Loader(listed, "cls", batch_size=4, shuffle=20) as loader:
        assert len(loader) == 10
    for shard, again in zip(listed, pickle.loads(pickle.dumps(listed)), strict=True):
        with ShardAccess(again) as access:
            assert (again, access.samples, access.seekable) == (shard, 10, True)
    with pytest.raises(NotFound):
        order(listed, tmp_path)


def test_a_shard_that_changed_is_looked_at_itself_and_told(
    shards: list[str], index: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ShardWriter(f"{tmp_path}/new-%06d.tar") as writer:
        for number in range(7):
            writer.write({"cls": 1000 + number})
    os.replace(writer.shards[0], shards[1])
    with caplog.at_level(logging.WARNING):
        listed = expand(index)
    assert [isinstance(shard, ListedShard) for shard in listed] == [True, False, True, True]
    assert "1 shard changed since, looked at anew (x-000001.tar)" in caplog.text
    assert sorted(order(index, tmp_path)) == sorted([*range(10), *range(20, SAMPLES), *range(1000, 1007)])
    os.utime(shards[0], (1, 1))
    assert [isinstance(shard, ListedShard) for shard in expand(index)] == [False, False, True, True]


def test_one_that_is_damaged_or_another_is_refused(index: str, tmp_path: Path) -> None:
    data = Path(index).read_bytes()
    for cut in range(0, len(data), 7):
        Path(index).write_bytes(data[:cut])
        with pytest.raises((TarError, UsageError)):
            read_dataset(index)
    (tmp_path / "one.idx").write_bytes(b"v1.2 1\ncls 512 1 a.cls\n")
    with pytest.raises(UsageError, match="name the shards"):
        expand(f"{tmp_path}/one.idx")


def test_names_are_relative_where_they_can_be(shards: list[str], tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    list(write_dataset(shards[:2], f"{tmp_path}/all.idx"))
    list(write_dataset(shards[2:], f"{tmp_path}/moved/rest.idx"))
    assert expand(f"{tmp_path}/moved/rest.idx") == shards[2:]
    for path in [*shards[:2], f"{tmp_path}/all.idx"]:
        os.rename(path, tmp_path / "moved" / Path(path).name)
    assert [row["cls"] for row in samples(f"{tmp_path}/moved/all.idx")] == list(range(20))


def test_commands_write_and_take_it(shards: list[str], tmp_path: Path) -> None:
    output, pattern = tmp_path / "all.idx", f"{tmp_path}/x-{{000000..000003}}.tar"
    made = json.loads(run("index", pattern, "-o", output, "--json"))
    assert made == {"shards": 4, "samples": SAMPLES, "indexes": [str(output)]}
    assert "exists" in run("index", pattern, "-o", output, code=2)
    run("index", pattern, "-o", output, "--force")
    assert "-o names" in run("index", pattern, "-o", tmp_path / "x.txt", code=2)
    assert run("cat", output, "cls", 33) == "33"
    told = json.loads(run("info", output, "--json"))
    assert (told["shards"], told["samples"]) == (4, SAMPLES)
    assert told["bytes"] == sum(os.path.getsize(shard) for shard in shards)
    Path(shards[1]).write_bytes(Path(shards[1]).read_bytes()[:-2000])
    (tmp_path / "x-000001.idx").unlink(missing_ok=True)
    run("index", pattern, "-o", tmp_path / "other.idx", code=20)
    assert not (tmp_path / "other.idx").exists()
