"""How commands end: exit codes, what stands on stderr, closed pipes, the launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from wlshard import errors
from wlshard.cli.entry import EXIT_CODES, Command, command
from wlshard.cli.options import json_option

ROOT = Path(__file__).resolve().parents[2]


def failing(error: BaseException) -> Command:
    @command("wl-fail", example="wl-fail --json")
    @json_option
    def main(as_json: bool) -> None:
        """Fail."""
        raise error

    return main


def invoke(main: Command, *args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def all_errors() -> list[type[errors.WlshardError]]:
    return [errors.WlshardError, *errors.WlshardError.__subclasses__()]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_each_error_ends_with_its_code_and_says_what_and_where(kind: type[errors.WlshardError]) -> None:
    result = invoke(failing(kind("it broke: mend it", url="x.tar", offset=512)))
    assert (result.exit_code, result.stdout) == (kind.code, "")
    assert result.stderr == "wl-fail: it broke: mend it [url x.tar, offset 512]\n"


def test_json_makes_the_error_the_last_line_of_stderr() -> None:
    result = invoke(failing(errors.TarError("cut", url="x.tar", member="a.txt", offset=7)), "--json")
    assert result.exit_code == 20
    assert json.loads(result.stderr.splitlines()[-1]) == {
        "type": "error",
        "code": 20,
        "error": "TarError",
        "message": "cut",
        "url": "x.tar",
        "member": "a.txt",
        "key": None,
        "offset": 7,
    }


@pytest.mark.parametrize("error", [RuntimeError("boom"), MemoryError("boom")])
def test_an_unexpected_error_is_1_with_its_traceback_and_asks_for_a_report(error: Exception) -> None:
    result = invoke(failing(error))
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "report it" in result.stderr.splitlines()[-1]
    assert json.loads(invoke(failing(error), "--json").stderr.splitlines()[-1])["code"] == 1


def test_a_wrong_option_is_2_with_the_usage() -> None:
    result = invoke(failing(RuntimeError()), "--nonsense")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--nonsense" in result.stderr
    assert "Usage: wl-fail" in result.stderr


def test_a_wrong_option_with_json_is_json() -> None:
    result = invoke(failing(RuntimeError()), "--json", "--nonsense")
    told = json.loads(result.stderr.splitlines()[-1])
    assert (told["code"], told["error"]) == (2, "UsageError")


def test_json_behind_a_double_dash_is_the_consumers() -> None:
    result = invoke(failing(RuntimeError()), "--", "--json")
    assert not result.stderr.splitlines()[-1].startswith("{")


def test_an_interrupt_is_130_and_quiet() -> None:
    result = invoke(failing(KeyboardInterrupt()))
    assert (result.exit_code, result.output) == (130, "")


def test_what_the_function_returns_is_the_exit_code() -> None:
    @command("wl-skip", example="wl-skip")
    def main() -> int:
        return 3

    assert invoke(main).exit_code == 3


def test_help_ends_with_the_example_and_every_exit_code() -> None:
    shown = invoke(failing(RuntimeError()), "--help").output
    assert shown.index("Fail.") < shown.index("Example:") < shown.index("Exit codes:")
    assert "wl-fail --json" in shown
    for kind in all_errors():
        assert f"{kind.code} " in EXIT_CODES
    assert EXIT_CODES.split()[-1] in shown


def test_a_click_exception_is_a_usage_error() -> None:
    assert invoke(failing(click.FileError("x", "cannot"))).exit_code == 2


WRITES = """
import sys
from wlshard.cli.entry import command
@command("wl-out", example="wl-out")
def main():
    for _ in range(100_000):
        print("data")
main()
"""


def test_a_closed_pipe_is_quiet() -> None:
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run([sys.executable, "-c", WRITES], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_full_output_is_a_typed_error() -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run([sys.executable, "-c", WRITES], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 12
    assert ended.stderr.startswith("wl-out: cannot write the output: No space left")
    assert ended.stderr.count("\n") == 1


def test_a_closed_stdout_is_told_by_who_has_something_to_say() -> None:
    for says, code in ((WRITES, 12), (WRITES.replace("100_000", "0"), 0)):
        run = ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, says]
        ended = subprocess.run(run, capture_output=True)
        assert ended.returncode == code
        assert ended.stderr.startswith(b"wl-out: cannot write the output: Bad file") == bool(code)


def test_a_closed_stderr_does_no_harm() -> None:
    says = WRITES.replace('print("data")', "print(sys.stderr.isatty(), file=sys.stderr)")
    run = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, says]
    ended = subprocess.run(run, capture_output=True)
    assert (ended.returncode, ended.stdout) == (0, b"")


def test_what_a_locale_cannot_say_is_escaped() -> None:
    says = WRITES.replace('"data"', '"2×3"').replace("100_000", "1")
    ended = subprocess.run(
        [sys.executable, "-c", says], env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"2\\xd73\n", b"")


@pytest.mark.parametrize("name", ["wl-cat", "wl-gen", "wl-info", "wl-rotate", "wl-run"])
def test_every_command_has_its_launcher(name: str) -> None:
    assert os.readlink(ROOT / "bin" / name) == "launch"


def test_the_launcher_works_from_another_folder_and_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "wl-gen").symlink_to(ROOT / "bin" / "wl-gen")
    (tmp_path / "wlshard").mkdir()  # a folder of this name must not be taken for the package
    (tmp_path / "wlshard" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    folder = Path(sys.executable).parent
    environ = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    ended = subprocess.run(["./wl-gen", "--help"], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("Usage: wl-gen")


def test_the_launcher_under_an_unknown_name_lists_the_commands(tmp_path: Path) -> None:
    (tmp_path / "wl-none").symlink_to(ROOT / "bin" / "launch")
    ended = subprocess.run([tmp_path / "wl-none"], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "wl-gen" in ended.stderr
