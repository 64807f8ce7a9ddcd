"""TAB, as bash asks for it; and what zsh and fish are given to read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from wlshard.cli.complete import SHELLS, commands

ROOT = Path(__file__).resolve().parents[2]
PATH = os.pathsep.join([str(ROOT / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
# Outside of a TAB there is no compopt: what it would be told is shown instead.
TAB = """
source <(wl-complete bash)
compopt() { echo "$*"; }
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/') "$1"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def tab(*words: str) -> list[str]:
    ended = subprocess.run(
        ["bash", "-c", TAB, "bash", *words], env={**os.environ, "PATH": PATH}, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.split()


@pytest.mark.parametrize("name", commands())
def test_bash_completes_an_option_of_every_command(name: str) -> None:
    assert tab(name, "--he") == ["--help"]


def test_bash_completes_choices_and_leaves_files_and_folders_to_itself() -> None:
    assert tab("wl-map", "--on-error", "s") == ["skip"]
    assert tab("wl-complete", "") == list(SHELLS)
    assert tab("wl-cat", "train") == ["-o", "default"]
    assert tab("wl-run", "--out", "") == ["-o", "dirnames"]


@pytest.mark.parametrize("name", commands())
def test_what_is_text_is_completed_as_a_file(name: str) -> None:
    main = import_module(f"wlshard.cli.{name.removeprefix('wl-')}").main
    words = [param for param in main.params if param.param_type_name == "argument"]
    found = BashComplete(main, {}, name, "").get_completions([], "x")
    assert [item.type for item in found] == ([] if name == "wl-complete" else ["file"]), words


def test_a_tab_brings_no_library_along() -> None:
    code = """if True:
        import sys
        from wlshard.cli.map import main
        try: main(["ignored"], "wl-map")
        finally: print([m for m in ("numpy", "torch", "fsspec", "tqdm") if m in sys.modules], file=sys.stderr)
    """
    asked = {"_WL_MAP_COMPLETE": "bash_complete", "COMP_WORDS": "wl-map --on", "COMP_CWORD": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True
    )
    assert (ended.stdout, ended.stderr) == ("plain,--only\nplain,--on-error\n", "[]\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_takes_what_it_is_given(shell: str) -> None:
    ended = subprocess.run(
        ["wl-complete", shell], env={**os.environ, "PATH": PATH}, capture_output=True, text=True
    )
    assert ended.returncode == 0
    for name in commands():
        assert name in ended.stdout
        assert f"_{name.upper().replace('-', '_')}_COMPLETE={shell}_complete" in ended.stdout
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=ended.stdout, capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, "")
