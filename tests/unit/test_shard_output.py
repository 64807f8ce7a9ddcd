"""OutputShard: one shard by name, whole or absent, compressed by its name."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from wlshard.errors import GroupingError, UsageError
from wlshard.shards.output import OutputShard, is_there
from wlshard.shards.packing import open_stdout
from wlshard.shards.reader import read_samples

SAMPLES = [{"__key__": f"k{n}", "bin": bytes([n]) * 700, "cls": n} for n in range(9)]


def written(url: str, **keywords: bool) -> list[str]:
    with OutputShard(url, **keywords) as out:
        for sample in SAMPLES:
            out.write(sample)
    return sorted(os.listdir(os.path.dirname(url)))


@pytest.mark.parametrize(
    ("name", "unpack"),
    [("x.tar", "cat"), ("x.tgz", "gzip -dc"), ("x.tar.gz", "gzip -dc"), ("x.tar.zst", "cat")],
)
def test_the_name_says_how_it_is_packed(name: str, unpack: str, tmp_path: Path) -> None:
    names = written(f"{tmp_path}/{name}")
    assert names == (["x.idx", "x.tar"] if name == "x.tar" else [name])
    got = [(s["__key__"], bytes(s["bin"])) for s in read_samples(f"{tmp_path}/{name}")]
    assert got == [(s["__key__"], s["bin"]) for s in SAMPLES]
    if not name.endswith("zst"):
        tar = subprocess.run([*unpack.split(), name], cwd=tmp_path, capture_output=True, check=True).stdout
        assert tar.endswith(bytes(1024))
        assert not tar.endswith(bytes(1024 + 512 + 512))


@pytest.mark.parametrize("name", ["x.tar", "x.tgz"])
def test_an_exception_leaves_nothing(name: str, tmp_path: Path) -> None:
    def twice() -> None:
        with OutputShard(f"{tmp_path}/{name}") as out:
            out.write(SAMPLES[0])
            out.write(SAMPLES[0])

    with pytest.raises(GroupingError, match="in the shard already"):
        twice()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["x.tar", "x.tgz"])
def test_an_empty_one_is_published_too(name: str, tmp_path: Path) -> None:
    with OutputShard(f"{tmp_path}/{name}"):
        pass
    assert is_there(f"{tmp_path}/{name}")
    assert list(read_samples(f"{tmp_path}/{name}")) == []


@pytest.mark.parametrize("name", ["x.tar", "x.tgz"])
def test_what_is_there_is_refused_unless_forced(name: str, tmp_path: Path) -> None:
    before = written(f"{tmp_path}/{name}")
    with pytest.raises(UsageError, match="exists"):
        written(f"{tmp_path}/{name}")
    assert written(f"{tmp_path}/{name}", force=True) == before


def test_a_compressed_output_leaves_the_index_of_its_plain_neighbour_alone(tmp_path: Path) -> None:
    written(f"{tmp_path}/x.tar")
    assert written(f"{tmp_path}/x.tgz") == ["x.idx", "x.tar", "x.tgz"]
    assert written(f"{tmp_path}/x.tgz", force=True) == ["x.idx", "x.tar", "x.tgz"]


@pytest.mark.parametrize("name", ["x.zip", "x.tar.xz", "x"])
def test_another_ending_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.tar"):
        written(f"{tmp_path}/{name}")
    assert not os.listdir(tmp_path)


def test_a_sample_needs_a_key(tmp_path: Path) -> None:
    with pytest.raises(GroupingError, match="__key__"), OutputShard(f"{tmp_path}/x.tar") as out:
        out.write({"cls": 1})


def test_stdout_is_for_the_shard_alone_while_it_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    with open_stdout() as draft:
        draft.write([b"abc", memoryview(b"de")])
        with pytest.raises(AssertionError):
            draft.write([b"x"], at=0)
        os.write(1, b"said")
    os.write(1, b"f")
    assert capfd.readouterr() == ("abcdef", "said")
