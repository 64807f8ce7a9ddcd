"""wl-gen as it is typed."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from processes import environ, hanging, lives

from wlshard.loader import samples
from wlshard.pool.pool import Pool

GEN = [sys.executable, "-P", "-c", "from wlshard.cli.gen import main; main()"]


def wl_gen(*args: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    words = [*GEN, *map(str, args)]
    return subprocess.run(words, env=environ(), capture_output=True, text=True, **settings)


def test_json_tells_what_was_made(tmp_path: Path) -> None:
    ended = wl_gen("generators:numbered", tmp_path / "p", "-P", 2, "--samples", 5, "--seed", 3, "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert {name: told[name] for name in told if name not in ("bytes", "seconds")} == {
        "generated": 5, "sealed": 5, "dropped": 0, "shards": 2, "restarts": 0, "seed": 3
    }  # fmt: skip
    assert told["bytes"] == sum(shard.bytes for shard in Pool(tmp_path / "p").buffer())
    assert told["seconds"] > 0


def test_without_json_stdout_stays_empty(tmp_path: Path) -> None:
    ended = wl_gen("generators:five", tmp_path / "p")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "5 samples generated, 5 sealed in 1 shard " in ended.stderr


def test_plain_shards_fields_and_arguments(tmp_path: Path) -> None:
    ended = wl_gen("generators:pairs", "-o", tmp_path / "x-%06d.tar", "--fields", "cls,txt")
    assert ended.returncode == 0, ended.stderr
    assert [s["txt"] for s in samples(str(tmp_path / "x-000000.tar"))] == [f"text {n}" for n in range(4)]
    ended = wl_gen(
        "generators:asks", "-o", tmp_path / "y-%d.tar", "--arg", "size=[1]", "--arg", "name=a b", "--gpus=2"
    )
    assert ended.returncode == 0, ended.stderr
    assert next(iter(samples(str(tmp_path / "y-0.tar"))))["json"] == [0, 1, "cuda:2", [1], "a b"]


def test_outputs_that_are_there_are_refused_and_with_force_replaced(tmp_path: Path) -> None:
    template = tmp_path / "x-%06d.tar"
    assert wl_gen("generators:numbered", "-o", template, "--samples", 6, "--shard-samples", 2).returncode == 0
    refused = wl_gen("generators:five", "-o", template, "--json")
    assert refused.returncode == 2
    assert json.loads(refused.stderr.splitlines()[-1])["url"].endswith("x-000000.tar")
    assert wl_gen("generators:five", "-o", template, "--force").returncode == 0
    assert sorted(path.name for path in tmp_path.glob("x-*")) == ["x-000000.idx", "x-000000.tar"]


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["generators:five"], 2, "name either a POOL or -o"),
        (["generators:five", "p", "-o", "x-%d.tar"], 2, "name either a POOL or -o"),
        (["generators:five", "x-%d.tar"], 2, "say -o x-%d.tar"),
        (["generators:five", "-o", "p"], 2, "shards are named by a template"),
        (["generators:five", "-o", "x.tar"], 2, "write it like x-%06d.tar"),
        (["generators:five", "p", "--shard-bytes", "many"], 2, "write it like 256M"),
        (["generators:five", "p", "--arg", "size"], 2, "write it like size=64"),
        (["generators:five", "-o", "x-%d.tar", "--cap", "3"], 2, "a cap is for a pool"),
        (["five", "p"], 2, "MODULE:FUNCTION"),
        (["nix:five", "p"], 10, "there is no module nix"),
        (["generators:five", "memory://p"], 2, "name a folder"),
        (["generators:nothing", "p"], 23, "ended without yielding a sample"),
        (["generators:unencodable", "p"], 22, "cannot encode object"),
    ],
)
def test_what_is_wrong_is_told_once_with_its_code(
    tmp_path: Path, args: list[str], code: int, told: str
) -> None:
    ended = wl_gen(*args, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_on_a_terminal_warnings_have_lines_of_their_own(tmp_path: Path) -> None:
    screen, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    words = [*GEN, "generators:quits", str(tmp_path / "p"), "--samples", "2"]
    subprocess.run(words, env=environ(), stderr=terminal, check=True)
    os.close(terminal)
    lines = os.read(screen, 65536).decode().split("\n")
    os.close(screen)
    assert any("0/2" in line for line in lines)
    (warned,) = (line for line in lines if "failed" in line and "traceback" in line)
    assert warned.rstrip().rpartition("\r")[2].startswith("generators:quits failed")


def test_who_cannot_go_on_tells_which_worker_it_was_and_what_is_sealed(tmp_path: Path) -> None:
    ended = wl_gen("generators:first_only", tmp_path / "p", "-P", 2, "--arg", f"folder={tmp_path}", "--json")
    assert ended.returncode == 23
    *_, sealed, error = ended.stderr.splitlines()
    assert sealed == "what was whole is sealed: 2 samples in 1 shard"
    assert "in worker 1 of 2" in json.loads(error)["message"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_seals_ends_all_and_still_tells_what_was_made(tmp_path: Path, number: int) -> None:
    words = [
        *GEN,
        "generators:blocking",
        str(tmp_path / "p"),
        "-P",
        "2",
        "--arg",
        f"folder={tmp_path}",
        "--json",
    ]
    with subprocess.Popen(
        words, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        pids = hanging(tmp_path, 2)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert json.loads(out)["sealed"] == 6
    assert not any(map(lives, pids))
    assert Pool(tmp_path / "p").rotate().promoted.samples == 6
