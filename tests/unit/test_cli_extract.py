"""wl-extract, as a shell sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wlshard.pool.pool import Pool
from wlshard.pool.writer import ShardWriter
from wlshard.shards.writer import RollingWriter, TemplateTarget


def extract(*args: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "wlshard.cli.extract", *map(str, args)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


def lines(*args: object, stdin: bytes = b"") -> list[str]:
    done = extract(*args, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().split("\n")[:-1]


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Eight samples in two shards."""
    with RollingWriter(TemplateTarget(f"{tmp_path}/x-%06d.tar"), shard_samples=4) as out:
        for number in range(8):
            sample: dict[str, Any] = {"__key__": f"k{number}", "cls": number, "json": {"n": number}}
            if number % 2:
                sample["txt"] = "tab\tand\nline\\ \x1b[2J ü"
            else:
                sample["npy"] = np.array([[1.5, np.nan]], np.float32)
            out.write(sample)
    return f"{tmp_path}/x-{{000000..000001}}.tar"


def test_a_line_a_sample_with_a_column_a_field(shards: str) -> None:
    assert lines("-f", "__key__ cls", shards) == [f"k{i}\t{i}" for i in range(8)]
    assert lines(shards) == [f"k{i}" for i in range(8)]


def test_count_and_skip_are_kept(shards: str) -> None:
    assert lines("-c", 3, "-s", 2, shards) == ["k2", "k3", "k4"]
    assert lines("-c", 0, shards) == []
    assert lines("-s", 6, shards) == ["k6", "k7"]
    assert lines("-s", 60, shards) == []


def test_with_an_index_what_is_skipped_is_not_read(shards: str, tmp_path: Path) -> None:
    data = bytearray((tmp_path / "x-000000.tar").read_bytes())
    data[:512] = b"\xaa" * 512
    (tmp_path / "x-000000.tar").write_bytes(data)
    assert lines("-s", 2, shards)[0] == "k2"
    assert extract(shards).returncode == 20


def test_values_that_would_break_a_line_are_escaped(shards: str) -> None:
    assert lines("-f", "txt;npy cls", "-c", 2, shards) == [
        "[[1.5,null]]\t0",
        "tab\\tand\\nline\\\\ \\x1b[2J ü\t1",
    ]


def test_json_is_one_object_a_line(shards: str) -> None:
    made = [json.loads(line) for line in lines("-f", "__key__ json txt;npy npy", "-F", "json", shards)]
    assert len(made) == 8
    assert made[0] == {"__key__": "k0", "json": {"n": 0}, "txt;npy": [[1.5, None]], "npy": [[1.5, None]]}
    assert made[1] == {
        "__key__": "k1",
        "json": {"n": 1},
        "txt;npy": "tab\tand\nline\\ \x1b[2J ü",
        "npy": None,
    }
    assert lines("-f", "cls", "--json", "-c", 1, shards) == ['{"cls":0}']


def test_bytes_are_base64(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(f"{tmp_path}/x-%06d.tar")) as out:
        out.write({"bin": b"\x00\xff\n"})
    assert lines("-f", "bin", out.shards[0]) == ["AP8K"]
    assert lines("-f", "bin", "-F", "json", out.shards[0]) == ['{"bin":"AP8K"}']


def test_select_is_asked_after_skip_and_before_count(shards: str) -> None:
    assert lines("-S", '_["cls"] % 3 == 0', "-s", 1, shards) == ["k3", "k6"]
    assert lines("-S", '"npy" in _ and np.nanmax(_.npy) > 1', "-c", 2, shards) == ["k0", "k2"]
    assert lines("-S", "any(_.cls == n for n in (1, 2))", shards) == ["k1", "k2"]


def test_proc_may_change_and_add(shards: str) -> None:
    assert lines("-P", "_['cls'] *= 2\n_.sum = _.cls + 1", "-f", "cls sum", "-c", 2, shards) == [
        "0\t1",
        "2\t3",
    ]


def test_a_shuffle_gives_each_sample_once_in_another_order(shards: str) -> None:
    mixed = lines("--shuffle", 5, "--seed", 3, shards)
    assert mixed == lines("--shuffle", 5, "--seed", 3, shards)
    assert mixed != sorted(mixed) == lines(shards)
    assert lines("--shuffle", 5, "--seed", 3, "-s", 6, shards) == mixed[6:]


def test_stdin_and_a_pool_are_sources(shards: str, tmp_path: Path) -> None:
    assert lines("-", stdin=(tmp_path / "x-000001.tar").read_bytes()) == ["k4", "k5", "k6", "k7"]
    pool = Pool(f"{tmp_path}/pool").create()
    assert extract(tmp_path / "pool").returncode == 10
    with ShardWriter(pool) as out:
        out.write({"cls": 8})
    pool.rotate()
    assert lines("-f", "cls", tmp_path / "pool") == ["8"]


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["-f", "__key__ clss"], 10, b"'clss'"),
        (["-S", "_["], 2, b"never closed"),
        (["-S", "1/0"], 23, b"ZeroDivisionError"),
        (["-S", '_["nope"]'], 23, b"there are: cls json npy"),
        (["-S", "exit(0)"], 23, b"key k0"),
        (["-S", "np.arange(2) > 0"], 23, b"neither true nor false"),
        (["-P", "_.cls.x = 1"], 23, b"AttributeError"),
        (["-F", "csv"], 2, b"csv"),
        (["-c", "-1"], 2, b"-1"),
        (["-f", " "], 2, b"names no field"),
        (["-f", "png", "-d", "bogus"], 10, b"png"),
    ],
)
def test_errors_end_with_their_exit_code(args: list[str], code: int, told: bytes, shards: str) -> None:
    done = extract(*args, shards)
    assert done.returncode == code
    assert told in done.stderr


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(f"{tmp_path}/x-%06d.tar")) as out:
        for _ in range(20):
            out.write({"txt": "x" * 100_000})
    command = [sys.executable, "-m", "wlshard.cli.extract", "-f", "txt", out.shards[0]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.read(3) == b"xxx"
        child.stdout.close()
        assert child.stderr.read() == b""


def test_real_files(test_data: Path) -> None:
    made = lines("-f", "__key__ cls", f"{test_data}/photos-*.tar")
    assert (len(made), made[199]) == (200, "photo00199\t9")
    digits = lines("-f", "__key__ png", "-F", "json", "-d", "stored", "-c", 1, test_data / "sample.tgz")
    assert np.array(json.loads(digits[0])["png"]).shape == (28, 28)
