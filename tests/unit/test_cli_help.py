"""What commands say of themselves, in their help and in the README, is what they take."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

from wlshard import errors
from wlshard.cli.complete import commands
from wlshard.cli.entry import EXIT_CODES, Command

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SCRIPTS = dict(
    re.findall(r'^(wl-[\w-]+) = "([\w.]+):main"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
)
ROWS = dict(re.findall(r"^\| `(wl-[\w-]+)([^`]*`.*) \|$", README.replace(r"\|", "|"), re.MULTILINE))
OPTION = re.compile(r"(?<![\w<>-])--?[a-zA-Z][\w-]*")
HEAVY = ("torch", "numpy", "fsspec", "webdataset", "tqdm", "cv2", "PIL")
each_command = pytest.mark.parametrize("name", SCRIPTS)


def main_of(name: str) -> Command:
    found = import_module(SCRIPTS[name]).main
    assert isinstance(found, Command)
    return found


def options_of(name: str) -> set[str]:
    context = click.Context(main_of(name))
    return {
        word for param in main_of(name).get_params(context) for word in (*param.opts, *param.secondary_opts)
    }


def calls(line: str) -> Iterator[list[str]]:
    """Give the commands of ours in a line of shell, as lists of words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("();<>|&"):
            if words and words[0] in SCRIPTS:
                yield words
            words = []
        else:
            words.append(word)


def parse(words: list[str]) -> None:
    try:
        main_of(words[0]).make_context(words[0], words[1:])
    except click.ClickException as error:
        pytest.fail(f"{shlex.join(words)}: {error.format_message()}")


def test_every_command_has_one_name_everywhere() -> None:
    assert sorted(SCRIPTS) == commands() == sorted(ROWS)
    assert {name: main_of(name).name for name in SCRIPTS} == {name: name for name in SCRIPTS}


@each_command
def test_the_help_says_what_each_option_does_and_ends_in_an_example(name: str) -> None:
    main = main_of(name)
    shown = main.get_help(click.Context(main, info_name=name))
    assert shown.startswith(f"Usage: {name}")
    assert shown.index("Options:") < shown.index("Example:") < shown.index("Exit codes:")
    for param in main.params:
        assert isinstance(param, click.Argument) or param.help, f"{name} {param.name} has no help"


@each_command
def test_the_help_loads_nothing_heavy(name: str) -> None:
    code = f"""if True:
        import sys
        from {SCRIPTS[name]} import main
        try: main(["--help"])
        finally: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)
    """
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "[]\n")


@each_command
def test_the_examples_are_calls_that_the_command_takes(name: str) -> None:
    found = [words for line in main_of(name).example.strip().splitlines() for words in calls(line)]
    assert name in {words[0] for words in found}
    for words in found:
        parse(words)


@each_command
def test_what_the_readme_says_of_a_command_is_what_it_takes(name: str) -> None:
    named = set(OPTION.findall(" ".join(re.findall(r"`([^`]*)`", f"`{ROWS[name]}"))))
    assert named <= options_of(name), f"README: {name} has no {named - options_of(name)}"
    for param in main_of(name).params:
        if isinstance(param, click.Option) and param.required:
            assert named & set(param.opts), f"README's row of {name} lacks {param.opts}"


def test_every_call_in_the_readme_is_one_that_works() -> None:
    shown = [
        line.removeprefix("$ ")
        for line in README.splitlines()
        if line.startswith(("$ wl-", "./setup-venv wl-"))
    ]
    found = [words for line in shown for words in calls(line.removeprefix("./setup-venv "))]
    assert len(found) >= 5
    for words in found:
        parse(words)


def test_every_option_that_the_readme_names_exists_where_it_says_so() -> None:
    every = set().union(*map(options_of, SCRIPTS))
    for span in re.findall(r"`([^`\n]+)`", README):
        words = span.split()
        where = options_of(words[0]) if words[0] in SCRIPTS else every
        if words[0] in SCRIPTS or span.startswith("-"):
            ours = span.split(" -- ")[0]
            assert set(OPTION.findall(ours)) <= where, f"README: `{span}`"


def test_the_exit_codes_are_those_of_the_errors() -> None:
    listed = {int(code) for code in re.findall(r"(?:^|· ?\n?)(\d+) ", EXIT_CODES)}
    kinds = [errors.WlshardError, *errors.WlshardError.__subclasses__()]
    assert listed == {0, 3, 130} | {kind.code for kind in kinds}
    assert all(f"{kind.__name__} " in (errors.__doc__ or "") for kind in kinds)
