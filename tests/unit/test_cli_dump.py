"""wl-dump, as a shell sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tars import END, member

from wlshard.shards.writer import RollingWriter, TemplateTarget


def dump(folder: Path, *args: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "wlshard.cli.dump", *map(str, args)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, cwd=folder)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Four samples in two shards."""
    with RollingWriter(TemplateTarget(f"{tmp_path}/in/x-%06d.tar"), shard_samples=2) as out:
        for number in range(4):
            sample: dict[str, Any] = {"__key__": f"d/k{number}", "cls": number}
            sample["b.png" if number % 2 else "bin"] = bytes([number, 0])
            out.write(sample)
    return f"{tmp_path}/in/x-*.tar"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_all_fields_of_all_samples_byte_for_byte(shards: str, out: Path) -> None:
    done = dump(out, "-o", "sub/{key}", shards, "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == {"samples": 4, "files": 8, "bytes": 12}
    assert files(out) == {
        **{f"sub/d/k{n}.cls": b"%d" % n for n in range(4)},
        **{f"sub/d/k{n}.{'b.png' if n % 2 else 'bin'}": bytes([n, 0]) for n in range(4)},
    }


def test_index_fields_count_and_skip(shards: str, out: Path) -> None:
    assert dump(out, "-o", "p-{index:04d}", "-f", "bin;b.png", "-c", 2, "-s", 1, shards).returncode == 0
    assert files(out) == {"p-0001.b.png": b"\1\0", "p-0002.bin": b"\2\0"}


def test_select_and_a_name_for_one(shards: str, out: Path) -> None:
    assert dump(out, "-o", "one", "-f", "cls", "-c", 1, "-S", "_.cls == 2", shards).returncode == 0
    assert files(out) == {"one.cls": b"2"}
    done = dump(out, "-o", "all", "-f", "cls", shards)
    assert done.returncode == 2
    assert b"alike" in done.stderr


def test_a_dash_is_stdin_and_stdout(shards: str, out: Path) -> None:
    data = Path(shards.replace("*", "000000")).read_bytes()
    done = dump(out, "-o", "-", "-", "--json", stdin=data)
    assert (done.returncode, done.stdout) == (0, b"\0\0" + b"0" + b"\1\0" + b"1")
    assert b"4 files" in done.stderr
    assert files(out) == {}
    assert dump(out, "-o", "-", "-f", "cls", shards).stdout == b"0123"


def test_what_is_there_is_replaced_only_by_force(shards: str, out: Path) -> None:
    (out / "0.cls").write_bytes(b"mine")
    done = dump(out, "-o", "{index}", "-f", "cls", shards)
    assert (done.returncode, files(out)) == (2, {"0.cls": b"mine"})
    assert b"0.cls" in done.stderr
    assert dump(out, "-o", "{index}", "-f", "cls", "--force", shards).returncode == 0
    assert files(out)["0.cls"] == b"0"


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_samples_with_one_name_do_not_overwrite_each_other(force: list[str], out: Path) -> None:
    for name in ("a.tar", "b.tar"):
        (out.parent / name).write_bytes(member(b"k.cls", name.encode()) + END)
    done = dump(out, "-o", "{key}", *force, out.parent / "a.tar", stdin=b"")
    assert done.returncode == 0
    done = dump(out, "-o", "{key}", *force, f"{out.parent}/[ab].tar")
    assert done.returncode == 2
    assert files(out) == {"k.cls": b"a.tar"}


@pytest.mark.parametrize(
    ("name", "template"),
    [
        (b"../x.cls", "{key}"),
        (b"a/../../x.cls", "{key}"),
        (b"/tmp/wl-dump-must-not-write.cls", "{key}"),
        (b"/tmp/wl-dump-must-not-write.cls", "sub/{key}"),
        (b"a//x.cls", "{key}"),
        (b"a/./x.cls", "{key}"),
        (b"../x.cls", "sub/{key}"),
    ],
)
def test_a_key_cannot_lead_out(name: bytes, template: str, out: Path) -> None:
    done = dump(out, "-o", template, "-", stdin=member(name, b"evil") + END)
    assert (done.returncode, done.stdout) == (21, b"")
    assert files(out.parent) == {}
    assert not Path("/tmp/wl-dump-must-not-write.cls").exists()


def test_a_link_cannot_lead_out(out: Path) -> None:
    elsewhere = out.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.cls").write_bytes(b"precious")
    (out / "d").symlink_to(elsewhere)
    (out / "x.cls").symlink_to(elsewhere / "x.cls")
    for force in ([], ["--force"]):
        done = dump(out, "-o", "{key}", *force, "-", stdin=member(b"d/new.cls", b"evil") + END)
        assert done.returncode == 2
        assert b"link" in done.stderr
    assert dump(out, "-o", "{key}", "-", stdin=member(b"x.cls", b"evil") + END).returncode == 2
    assert dump(out, "-o", "{key}", "--force", "-", stdin=member(b"x.cls", b"new") + END).returncode == 0
    assert files(elsewhere) == {"x.cls": b"precious"}
    assert (out / "x.cls").read_bytes() == b"new"


def test_the_folder_of_the_template_may_lie_anywhere(shards: str, out: Path) -> None:
    assert dump(out, "-o", "../other/f-{index}", "-f", "cls", "-c", 2, shards).returncode == 0
    assert sorted(files(out.parent / "other")) == ["f-0.cls", "f-1.cls"]


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        ([], 2, b"-o"),
        (["-o", "{nope}"], 2, b"nope"),
        (["-o", "{index"], 2, b"template"),
        (["-o", "{key:d}"], 2, b"template"),
        (["-o", "http://host/{key}"], 2, b"this machine"),
        (["-o", "{key}", "-f", "jpg"], 10, b"'jpg'"),
        (["-o", "{key}", "-f", "__key__"], 2, b"wl-extract"),
        (["-o", "{key}", "-S", "1/0"], 23, b"ZeroDivisionError"),
    ],
)
def test_errors_end_with_their_exit_code(
    args: list[str], code: int, told: bytes, shards: str, out: Path
) -> None:
    done = dump(out, *args, shards)
    assert (done.returncode, done.stdout) == (code, b"")
    assert told in done.stderr
    assert files(out) == {}


def test_real_files(test_data: Path, out: Path) -> None:
    assert dump(out, "-o", "{key}", test_data / "sample.tgz").returncode == 0
    assert len(files(out)) == 180
    assert files(out)["10.png"].startswith(b"\x89PNG")
