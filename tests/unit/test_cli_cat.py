"""wl-cat, as a shell sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from wlshard.pool.pool import Pool
from wlshard.pool.writer import ShardWriter
from wlshard.shards.writer import RollingWriter, TemplateTarget

HEAVY = (
    "torch",
    "numpy",
    "fsspec",
    "webdataset",
    "multiprocessing",
    "asyncio",
    "urllib.request",
    "wlshard.pool",
)


def cat(*args: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "wlshard.cli.cat", *map(str, args)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


def got(*args: object, stdin: bytes = b"") -> bytes:
    done = cat(*args, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Five samples in three shards, the second without its index."""
    with RollingWriter(TemplateTarget(f"{tmp_path}/x-%06d.tar"), shard_samples=2) as out:
        for number in range(5):
            out.write({"__key__": f"k{number}", "cls": number, "raw.bin": bytes([number, 0, 10, 255])})
    paths = [Path(shard) for shard in out.shards]
    paths[1].with_suffix(".idx").unlink()
    return paths


def test_it_writes_the_first_sample_unless_told_to_skip(shards: list[Path]) -> None:
    assert got(shards[0], "raw.bin") == b"\x00\x00\x0a\xff"
    assert got(shards[0], "raw.bin", 1) == b"\x01\x00\x0a\xff"


@pytest.mark.parametrize("number", range(5))
def test_it_counts_on_over_shards_with_and_without_index(number: int, shards: list[Path]) -> None:
    assert got(f"{shards[0].parent}/x-{{000000..000002}}.tar", "__key__", number) == f"k{number}".encode()


def test_with_an_index_only_the_sample_asked_for_is_read(shards: list[Path]) -> None:
    data = bytearray(shards[0].read_bytes())
    data[0:512] = b"\xaa" * 512  # the first header
    shards[0].write_bytes(data)
    assert got(shards[0], "cls", 1) == b"1"
    assert cat(shards[0], "cls").returncode == 20


def test_alternatives_names_and_upper_case(shards: list[Path]) -> None:
    assert got(shards[0], "png;CLS;raw.bin") == b"0"
    assert got(shards[0], "__url__") == str(shards[0]).encode()


def test_stdin_is_a_shard(shards: list[Path]) -> None:
    assert got("-", "cls", 1, stdin=shards[2].read_bytes() * 0 + shards[1].read_bytes()) == b"3"


def test_a_pool_and_a_folder_are_sources(shards: list[Path], tmp_path: Path) -> None:
    assert got(shards[0].parent, "cls", 4) == b"4"
    pool = Pool(f"{tmp_path}/pool").create()
    assert cat(tmp_path / "pool", "cls").returncode == 10
    with ShardWriter(pool) as out:
        out.write({"cls": 8})
    pool.rotate()
    assert got(tmp_path / "pool", "cls") == b"8"
    assert got(f"{tmp_path}/pool@1", "cls") == b"8"


def test_select_finds_the_first_sample_of_which_it_is_true(shards: list[Path]) -> None:
    everything = f"{shards[0].parent}/x-*.tar"
    assert got(everything, "raw.bin", "-S", '_["cls"] > 2') == b"\x03\x00\x0a\xff"
    assert got(everything, "cls", 4, "-S", "_.cls > 2") == b"4"
    assert got("-", "cls", "--select", "_.cls == 1", stdin=shards[0].read_bytes()) == b"1"
    done = cat(everything, "cls", "-S", "_.cls == 7")
    assert (done.returncode, done.stdout) == (10, b"")
    assert b"-S" in done.stderr


def test_shuffle_draws_a_sample(shards: list[Path]) -> None:
    everything = f"{shards[0].parent}/x-*.tar"
    drawn = [got(everything, "cls", n, "--shuffle", 3, "--seed", 1) for n in range(5)]
    assert sorted(drawn) == [b"0", b"1", b"2", b"3", b"4"]
    assert cat(everything, "cls", 5, "--shuffle", 3).returncode == 10


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["x-000000.tar", "cls", "2"], 10, b"there are 2"),
        (["x-000001.tar", "cls", "2"], 10, b"there are 2"),
        (["x-*.tar", "cls", "5"], 10, b"there are 5"),
        (["x-000000.tar", "png"], 10, b"it has cls, raw.bin"),
        (["none.tar", "cls"], 10, b"none.tar"),
        (["none-*.tar", "cls"], 10, b"none-*.tar"),
        (["x-000000.tar", "cls", "-1"], 2, b"-1"),
        (["x-000000.tar", "cls", "one"], 2, b"one"),
        (["x-000000.tar"], 2, b"FIELD"),
        (["x-000000.idx", "cls"], 2, b"name the shards"),
    ],
)
def test_what_is_not_there_ends_with_its_exit_code(
    args: list[str], code: int, told: bytes, shards: list[Path], tmp_path: Path
) -> None:
    done = cat(f"{tmp_path}/{args[0]}", *args[1:])
    assert (done.returncode, done.stdout) == (code, b"")
    assert told in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(f"{tmp_path}/x-%06d.tar")) as out:
        out.write({"bin": bytes(3_000_000)})
    command = [sys.executable, "-m", "wlshard.cli.cat", out.shards[0], "bin"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.read(10) == bytes(10)
        child.stdout.close()
        assert child.stderr.read() == b""


@pytest.mark.parametrize("skip", ["0", "1"])
def test_one_field_of_a_local_shard_loads_nothing_heavy(skip: str, shards: list[Path]) -> None:
    code = (
        "import sys, json\nfrom wlshard.cli.cat import main\n"
        f"try: main([{str(shards[0])!r}, 'cls', {skip!r}])\n"
        f"except SystemExit: print('\\n', json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    value, modules = shown.stdout.split("\n")[:2]
    assert (value, json.loads(modules)) == (skip, [])


def test_real_files(test_data: Path) -> None:
    assert got(test_data / "sample.tgz", "png", 89).startswith(b"\x89PNG")
    assert got(test_data / "photos-000002.tar", "jpg", 3).startswith(b"\xff\xd8")
    assert got(test_data / "mpdata.tar", "__key__", 99) == b"000099"
    assert got(f"{test_data}/photos-{{000000..000003}}.tar", "__key__", 199) == b"photo00199"
