"""What each command that reads shards says of each class of error: its exit code, and its line of JSON."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mapping import files, shard
from tars import END, member

LINES = (
    "cat {} cls 19", "extract {}", "dump --force {} -o out/{{key}}", "show {} 19", "info {}",
    "test {} --seconds 0.1", "index {}", "map -c 0 {} -o o.tar", "xargs -q -c true {} -o o.tar",
    "reshard {} -o o.tar", "reshard --shuffle {} -o o-%d.tar", "reshard --mix {} -o o.tgz",
)  # fmt: skip
INPUTS = {  # and the code of all commands
    "gone.tar": 10, "gone-{0..3}.tar": 10, "empty-folder": 10, "no-tar.tar": 20, "cut.tar": 20,
    "no-end.tar": 20, "twice.tar": 21, "comes-back.tar": 21, "ftp:x": 10, "nosuch://x/y.tar": 2,
}  # fmt: skip
USERS = {
    "map -c 1/0 in.tar -o o.tar": 23, "map -c ( in.tar -o o.tar": 2, "map -l gone.py in.tar -o o.tar": 10,
    "xargs -q -c false in.tar -o o.tar": 23, "extract -P 1/0 in.tar": 23, "dump -S 1/0 -o d/{key} in.tar": 23,
    "show -S 1/0 in.tar": 23, "reshard --sort 1/0 in.tar -o o.tar": 23, "reshard --sort ( in.tar -o o.tar": 2,
    "map -c _.json in.tar -o o.tar": 22, "reshard --sort json in.tar -o o.tar": 22, "info in.tar": 22,
    "extract -f json in.tar": 22, "test in.tar": 22, "extract -f nope in.tar": 10, "show -f nope in.tar": 10,
    "reshard --fields nope in.tar -o o.tar": 10, "reshard --drop nope in.tar -o o.tar": 10,
    "map -c _.nope in.tar -o o.tar": 23, "map -c 0 in.tar -o in.tar": 2, "xargs -c true in.tar -o in.tar": 2,
    "reshard in.tar -o in.tar": 2, "create list -o in.tar": 2, "index in.tar": 2, "create gone -o o.tar": 10,
    "create in.tar -o o.tar": 2, "create list -o o.zip": 2, "create --plan list -o o.tar": 2,
    "map -c 0 in.tar -o o.tar --engine nope": 2, "test --vs nope in.tar": 2,
    "reshard in.tar -o o.tar --slice x": 2, "map -c 0 in.tar": 2, "dump in.tar": 2, "reshard in.tar": 2,
    "create list": 2, "info in.tar --watch 1": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # its thread would outlive the test
    data = shard(Path("whole.tar"), 20).read_bytes()
    Path("whole.tar").unlink()
    Path("whole.idx").unlink()
    Path("empty-folder").mkdir()
    Path("no-tar.tar").write_bytes(b"no tar at all" * 100)
    Path("cut.tar").write_bytes(data[:-3000])
    Path("no-end.tar").write_bytes(data[: -len(END)])
    Path("twice.tar").write_bytes(member(b"k.cls", b"1") * 2 + END)
    Path("comes-back.tar").write_bytes(member(b"k.cls", b"1") + member(b"l.txt") + member(b"k.txt") + END)
    Path("in.tar").write_bytes(member(b"k.cls", b"1") + member(b"k.json", b"{") + END)
    Path("in.idx").write_text("v1.2 1\ncls 512 1 k.cls json 1536 1 k.json\n")
    Path("in.txt").write_text("1")
    Path("list").write_text("in.txt\n")
    return tmp_path


def call(line: str) -> Result:
    command, *args = line.split()
    return CliRunner().invoke(import_module(f"wlshard.cli.{command}").main, args)


def states() -> dict[str, int]:
    return {name: Path(name).stat().st_mtime_ns for name in files(Path()) if name not in ("out", "d")}


def check(line: str, code: int) -> None:
    """Call with and without --json; nothing that was there is changed, and no output is made."""
    before = states()
    plain = call(line)
    assert plain.exit_code == code, (line, plain.stderr)
    command = line.split()[0]
    assert f"\nwl-{command}: " in "\n" + plain.stderr, line
    if command != "cat":
        told = call(line + " --json")
        assert told.exit_code == code, (line, told.stderr)
        error = json.loads(told.stderr.splitlines()[-1])
        assert (error["type"], error["code"]) == ("error", code)
        assert set(error) == {"type", "code", "error", "message", "url", "member", "key", "offset"}
        assert error["message"].splitlines()[0] in plain.stderr
    assert states() == before, line


@pytest.mark.parametrize("line", LINES)
def test_bad_input_has_the_same_code_everywhere(line: str) -> None:
    for source, code in INPUTS.items():
        check(line.format(source), code)


@pytest.mark.parametrize("line", USERS)
def test_what_the_user_asks_for_in_vain(line: str) -> None:
    check(line, USERS[line])
