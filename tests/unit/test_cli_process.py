"""What a shell, a terminal or an operator does to running commands: streams, signals, folders that go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
from mapping import contents, files, run, shard
from processes import environ, until

LOOKING = ("cat in.tar cls", "extract in.tar", "info in.tar", "show in.tar", "index -")
WRITING = ("map -c 0 in.tar -o {}", "map -P 2 -c 0 in.tar -o {}", "xargs -c true in.tar -o {}",
           "reshard in.tar -o {}")  # fmt: skip
STDIN = ("cat - cls", "extract -", "info -", "show -", "index -", "dump -o out/{key} -",
         "test -", "reshard - -o o.tgz", "reshard --sort key - -o o-%d.tar",
         "map -c 0 - -o o.tar", "map -P 2 -c 0 - -o o.tar.gz", "xargs -c true - -o o.tar")  # fmt: skip


def words(line: str) -> list[str]:
    command, *rest = line.split()
    return [sys.executable, "-P", "-m", f"wlshard.cli.{command}", *rest]


def shell(line: str, cwd: Path, redirect: str) -> subprocess.CompletedProcess[bytes]:
    script = ["sh", "-c", f'exec "$@" {redirect}', "sh", *words(line)]
    return subprocess.run(script, cwd=cwd, env=environ(), capture_output=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shard(tmp_path / "in.tar", 5)
    return tmp_path


@pytest.mark.parametrize("line", [*LOOKING, *(line.format("-") for line in WRITING)])
def test_a_stdout_that_takes_nothing_is_told_and_a_stderr_that_takes_nothing_is_not(
    line: str, folder: Path
) -> None:
    good = shell(line, folder, "< in.tar")
    for redirect, what in ((">&-", b"Bad file"), ("> /dev/full", b"No space")):
        done = shell(line, folder, f"< in.tar {redirect}")
        assert done.returncode == 12
        assert b"cannot write the output: " + what in done.stderr
        assert b"Traceback" not in done.stderr
    for redirect in ("2>&-", "2< /dev/null"):
        done = shell(line, folder, f"< in.tar {redirect}")
        assert (done.returncode, done.stdout) == (good.returncode, good.stdout), redirect
    assert good.returncode == 0


@pytest.mark.parametrize("line", STDIN)
def test_a_stdin_that_is_closed_or_empty_is_told_and_leaves_nothing(line: str, folder: Path) -> None:
    before = files(folder)
    for redirect, code in (("<&-", 12), ("< /dev/null", 20)):
        done = shell(line, folder, redirect)
        assert (done.returncode, done.stdout) == (code, b"")
        assert b"Traceback" not in done.stderr
    assert files(folder) == before


STALLED = ("cat - cls 39", "show - 39", *(line for line in STDIN if line[:4] not in ("cat ", "show")),
           "test - --shuffle-quality", "info - --verify", "create - -o c.tar")  # fmt: skip
ENDED = ("index -", "dump -o out/{key} -", "test -", *STDIN[-3:])


@pytest.mark.parametrize(
    ("line", "number"),
    [*product(STALLED, [signal.SIGINT]), *product(ENDED, [signal.SIGTERM, signal.SIGHUP])],
)
def test_a_signal_while_its_writer_stalls_ends_it_quietly_and_leaves_nothing(
    line: str, number: signal.Signals, folder: Path
) -> None:
    data, before = shard(folder / "big.tar", 40).read_bytes(), files(folder)
    if line.startswith("create"):
        data = b"big.tar\n" * 20_000
    reader, writer = os.pipe()
    with subprocess.Popen(
        words(line), cwd=folder, env=environ(), stdin=reader, stderr=subprocess.PIPE
    ) as child:
        os.close(reader)
        os.write(writer, data[:-1024])  # more than a pipe holds: it reads by now
        child.send_signal(number)
        assert child.stderr is not None
        told = child.stderr.read()
        os.close(writer)
        assert child.wait() == (130 if number == signal.SIGINT else -number)
    assert told == b""
    assert [name for name in files(folder) if name != "out"] == before


def test_control_c_while_modules_are_imported_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    env = environ() | {"PYTHONPATH": f"{tmp_path}:{environ()['PYTHONPATH']}"}
    done = subprocess.run(words("info x"), env=env, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_a_signal_that_is_ignored_stays_so(folder: Path) -> None:
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGHUP)\ndef transform(s): return s\n"
    (folder / "t.py").write_text(code)
    script = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *words("map -l t.py in.tar -o o.tar")]
    assert subprocess.run(script, cwd=folder, env=environ(), capture_output=True).returncode == 0
    assert len(contents(folder / "o.tar")) == 5


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
def test_several_at_once_on_one_output_leave_one_whole_shard(force: Sequence[str], folder: Path) -> None:
    lines = ["map -c 0 in.tar -o o.tar", "xargs -c true in.tar -o o.tar"] * 2
    running = [
        subprocess.Popen([*words(line), *force], cwd=folder, env=environ(), stderr=subprocess.PIPE)
        for line in lines
    ]
    told = [child.communicate()[1] for child in running]
    codes = [child.returncode for child in running]
    assert 0 in codes
    assert set(codes) <= {0, 2, 12}, told
    assert (folder / "o.tar").read_bytes() == (folder / "in.tar").read_bytes()
    assert (folder / "o.idx").read_bytes() == (folder / "in.idx").read_bytes()
    assert files(folder) == ["in.idx", "in.tar", "o.idx", "o.tar"]


@pytest.mark.parametrize("line", WRITING)
def test_an_output_may_be_the_input(line: str, folder: Path) -> None:
    before = contents(folder / "in.tar")
    assert run(*line.format("in.tar").split(), cwd=folder).returncode == 2
    assert run(*line.format("in.tar").split(), "--force", cwd=folder).returncode == 0
    assert contents(folder / "in.tar") == before
    assert files(folder) == ["in.idx", "in.tar"]


@pytest.mark.parametrize("line", WRITING)
def test_after_kill_9_there_is_no_output_and_the_next_run_makes_it(line: str, folder: Path) -> None:
    reader, writer = os.pipe()
    stopped = line.format("o.tar").replace("in.tar", "-", 1)
    with subprocess.Popen(words(stopped), cwd=folder, env=environ(), stdin=reader) as child:
        os.close(reader)
        until(lambda: (folder / "o.tar.partial").exists(), "scratch")
        child.kill()
    os.close(writer)
    assert files(folder) == ["in.idx", "in.tar", "o.tar.partial"]
    assert run(*line.format("o.tar").split(), cwd=folder).returncode == 0
    assert files(folder) == ["in.idx", "in.tar", "o.idx", "o.tar"]


def test_a_folder_that_is_gone_or_refuses(folder: Path) -> None:
    gone = folder / "gone"
    gone.mkdir()
    script = ["sh", "-c", 'rmdir ../gone; exec "$@"', "sh", *words("map -c 0 in.tar -o o-%d.tar")]
    done = subprocess.run(script, cwd=gone, env=environ(), capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (10, False)
    for where in ("in.tar", "/proc"):
        done = run("xargs", "-w", where, "-c", "true", "in.tar", "-o", "o.tar", cwd=folder)
        assert done.returncode in (10, 11, 12), done.stderr
        assert b"Traceback" not in done.stderr
    assert files(folder) == ["in.idx", "in.tar"]


NAMES = (
    "a b.tar",
    "new\nline.tar",
    "./-dash.tar",
    "x{1}.tar",
    "q[1].tar",
    "@03.tar",
    "\x1b[31m.tar",
    "caf\udce9.tar",
)


@pytest.mark.parametrize("name", [*NAMES, "ünï.tar"])
def test_files_of_any_name_in_a_poor_locale(name: str, folder: Path) -> None:
    os.rename(folder / "in.tar", folder / name)
    for line in ("show", "index --force"):
        env = environ() | {"LC_ALL": "C"}
        done = subprocess.run([*words(line), name], cwd=folder, env=env, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert b"\x1b" not in done.stdout + done.stderr


def test_the_users_code_finds_pythons_own_garbage_collector(folder: Path) -> None:
    """A lazier one suits us; but in what user code leaves in cycles there may be volumes."""
    code = "import gc; _['txt'] = repr(gc.get_threshold())"
    done = run("map", "-c", code, "in.tar", "-o", "out.tar", cwd=folder)
    assert done.returncode == 0
    usual = subprocess.check_output([sys.executable, "-c", "import gc; print(gc.get_threshold(), end='')"])
    assert {fields["txt"] for _, fields in contents(folder / "out.tar")} == {usual}
