"""wl-xargs, as a shell sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import processes
import pytest
from mapping import PARALLEL, contents, done, files, run, shard


@pytest.mark.parametrize("parallel", PARALLEL)
def test_a_command_that_does_nothing_copies(parallel: list[str], tmp_path: Path) -> None:
    data = shard(tmp_path / "in.tar", 40).read_bytes()
    done("xargs", *parallel, "-c", "true", "in.tar", "-o", "out.tar", cwd=tmp_path)
    assert (tmp_path / "out.tar").read_bytes() == data


@pytest.mark.parametrize("parallel", PARALLEL)
def test_files_added_removed_and_changed_become_the_sample(parallel: list[str], tmp_path: Path) -> None:
    before = contents(shard(tmp_path / "in.tar", 30))
    shell = (
        "rm sample.json; tr 0-9 a-j < sample.cls > sample.txt; printf x >> sample.raw.bin; mkdir d; : > plain"
    )
    done("xargs", *parallel, "-c", shell, "in.tar", "-o", "out.tar", cwd=tmp_path)
    letters = bytes.maketrans(b"0123456789", b"abcdefghij")
    assert contents(tmp_path / "out.tar") == [
        (key, {"cls": f["cls"], "raw.bin": f["raw.bin"] + b"x", "txt": f["cls"].translate(letters)})
        for key, f in before
    ]


def test_another_base_is_a_further_sample(tmp_path: Path) -> None:
    shard(tmp_path / "in.tar", 2)
    shell = "cp sample.cls small.cls; cp sample.cls a.CLS; rm sample.json sample.raw.bin"
    done("xargs", "-s", "-", "-c", shell, "in.tar", "-o", "out.tar", cwd=tmp_path)
    keys = ["k0000", "k0000-a", "k0000-small", "k0001", "k0001-a", "k0001-small"]
    assert contents(tmp_path / "out.tar") == [(key, {"cls": key[4:5].encode()}) for key in keys]


def test_a_command_that_removes_all_drops_the_sample(tmp_path: Path) -> None:
    shard(tmp_path / "in.tar", 4)
    done("xargs", "-c", "[ $WL_INDEX = 2 ] || rm sample.*", "in.tar", "-o", "out.tar", cwd=tmp_path)
    assert [key for key, _ in contents(tmp_path / "out.tar")] == ["k0002"]


def test_the_environment_names_the_sample_and_stdout_is_no_data(tmp_path: Path) -> None:
    data = shard(tmp_path / "in.tar", 3).read_bytes()
    shell = 'echo "$WL_KEY $WL_URL $WL_INDEX $(cat)"'
    ended = run("xargs", "-c", shell, "-", "-o", "-", cwd=tmp_path, stdin=data)
    assert ended.stdout == data
    assert ended.stderr.decode().splitlines()[:3] == [f"k000{n} - {n} " for n in range(3)]


def test_scripts_and_their_interpreter(tmp_path: Path) -> None:
    shard(tmp_path / "in.tar", 2)
    (tmp_path / "s.sh").write_text("[[ -f sample.cls ]] && rm sample.json")
    (tmp_path / "s.py").write_text("import os; os.remove('sample.cls')")
    done("xargs", "-S", "s.sh", "in.tar", "-o", "a.tar", cwd=tmp_path)
    done(
        "xargs", "-S", "s.py", "--interpreter", f"{sys.executable} -I", "in.tar", "-o", "b.tar", cwd=tmp_path
    )
    done("xargs", "-S", "true", "in.tar", "-o", "c.tar", cwd=tmp_path)
    assert [sorted(contents(tmp_path / f"{c}.tar")[0][1]) for c in "abc"] == [
        ["cls", "raw.bin"],
        ["json", "raw.bin"],
        ["cls", "json", "raw.bin"],
    ]


def test_fields_base_include_and_exclude(tmp_path: Path) -> None:
    shard(tmp_path / "in.tar", 2)
    done("xargs", "-b", "it", "-f", "cls,json", "-c", "cp it.cls it.a; cp it.cls it.b", "-E", r"\.b$",
         "in.tar", "-o", "a.tar", cwd=tmp_path)  # fmt: skip
    done("xargs", "-I", r"\.(cls|json)$", "-c", "true", "in.tar", "-o", "b.tar", cwd=tmp_path)
    assert sorted(contents(tmp_path / "a.tar")[0][1]) == ["a", "cls", "json"]
    assert sorted(contents(tmp_path / "b.tar")[0][1]) == ["cls", "json"]
    done("xargs", "-f", "cls png", "-c", "true", "in.tar", "-o", "c.tar", cwd=tmp_path)
    told = done("xargs", "-f", "cls,png", "-F", "error", "-c", "true", "in.tar", "-o", "d.tar",
                cwd=tmp_path, code=21)  # fmt: skip
    assert "no field 'png'" in told


@pytest.mark.parametrize(("count", "keys"), [("2", [0, 1]), ("1,3", [1, 2]), ("(3,9)", [3])])
def test_count(count: str, keys: list[int], tmp_path: Path) -> None:
    shard(tmp_path / "in.tar", 4)
    done("xargs", "--count", count, "-c", "true", "in.tar", "-o", "out.tar", cwd=tmp_path)
    assert [key for key, _ in contents(tmp_path / "out.tar")] == [f"k{n:04d}" for n in keys]


@pytest.mark.parametrize("parallel", PARALLEL)
@pytest.mark.parametrize(("policy", "code"), [("abort", 23), ("skip", 3), ("ignore", 3)])
def test_the_exit_status_counts(policy: str, code: int, parallel: list[str], tmp_path: Path) -> None:
    before = contents(shard(tmp_path / "in.tar", 10))
    shell = "echo >> sample.cls; [ $WL_INDEX != 3 ]"
    told = done(
        "xargs", *parallel, "-e", policy, "-c", shell, "in.tar", "-o", "out.tar", cwd=tmp_path, code=code
    )
    assert "k0003" in told
    assert "exit code 1" in told
    if policy == "abort":
        assert files(tmp_path) == ["in.idx", "in.tar"]
        return
    found = dict(contents(tmp_path / "out.tar"))
    assert found.get("k0003") == (dict(before)["k0003"] if policy == "ignore" else None)
    assert found["k0004"]["cls"] == b"4\n"
    line = json.loads((tmp_path / "out.failed.jsonl").read_text())
    assert (line["key"], line["number"]) == ("k0003", 3)


def test_many_shards(tmp_path: Path) -> None:
    for n in range(3):
        shard(tmp_path / f"in-{n}.tar", 4, first=4 * n)
    done("xargs", "-P", "2", "-c", "rm sample.json", "in-*.tar", "-o", "out-%d.tar", cwd=tmp_path)
    assert [key for key, _ in contents(tmp_path / "out-2.tar")] == ["k0008", "k0009", "k0010", "k0011"]


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["in.tar", "-o", "o.tar"], 2, "no command"),
        (["-c", "true", "-S", "x", "in.tar", "-o", "o.tar"], 2, "no command"),
        (["-c", "true", "-E", "(", "in.tar", "-o", "o.tar"], 2, "regular expression"),
        (["-c", "true", "-b", "a.b", "in.tar", "-o", "o.tar"], 2, "base"),
        (["-c", "true", "--count", "x", "in.tar", "-o", "o.tar"], 2, "START,STOP"),
        (["-S", "in.tar", "--interpreter", "no-such-program", "in.tar", "-o", "o.tar"], 2, "cannot run"),
        (["-c", "true", "-f", "no", "-F", "error", "in.tar", "-o", "o.tar"], 21, "[url in.tar, key k0000]"),
        (["-c", "no-such-program", "in.tar", "-o", "o.tar"], 23, "exit code 127"),
        (["-c", "kill -9 $$", "in.tar", "-o", "o.tar"], 23, "exit code 137"),
    ],
)
def test_what_makes_no_sense_is_told(args: list[str], code: int, told: str, tmp_path: Path) -> None:
    shard(tmp_path / "in.tar", 3)
    assert told in done("xargs", *args, cwd=tmp_path, code=code)
    assert files(tmp_path) == ["in.idx", "in.tar"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_when_it_is_stopped_its_commands_end_and_their_folders_go(number: int, tmp_path: Path) -> None:
    shard(tmp_path / "in.tar", 4)
    (tmp_path / "work").mkdir()
    pids = f"{tmp_path}/pids.$WL_INDEX"
    shell = f"sleep 600 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; wait"
    command = [sys.executable, "-P", "-m", "wlshard.cli.xargs", "-P", "2", "-w", "work", "-c", shell]
    with subprocess.Popen(
        [*command, "in.tar", "-o", "out.tar"], cwd=tmp_path, env=processes.environ(), stderr=subprocess.PIPE
    ) as child:
        paths = processes.until(lambda: list(tmp_path.glob("pids.?")), "a command")
        os.kill(child.pid, number)
        told = child.stderr
        assert told is not None
        assert b"Traceback" not in told.read()
        assert child.wait() == (130 if number == signal.SIGINT else -number)
    processes.gone([int(pid) for path in paths for pid in path.read_text().split()])
    processes.until(lambda: not files(tmp_path / "work"), "the end of the folders")
    assert not (tmp_path / "out.tar").exists()


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    shard(tmp_path / "in.tar", 1)
    left = tmp_path / "work" / f"wl-xargs-{os.getuid()}-abc" / "sample"
    left.mkdir(parents=True)
    (left / "sample.cls").write_text("x")
    done("xargs", "-w", "work", "-c", "true", "in.tar", "-o", "out.tar", cwd=tmp_path)
    assert files(tmp_path / "work") == []
