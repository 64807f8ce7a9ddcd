"""The README's tour, run line by line as a newcomer would type it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def tour() -> list[tuple[str, str]]:
    text = (ROOT / "README.md").read_text()
    section = text.split("\n## A tour\n")[1].split("\n## ")[0]
    return BLOCK.findall(section)


def commands(block: str) -> list[tuple[str, str]]:
    """Split a console block into (command, the output shown for it)."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


@pytest.mark.timeout(300)
def test_the_tour_does_what_it_shows(tmp_path: Path) -> None:
    here = str(Path(sys.executable).parent)
    if not Path(here, "wl-gen").exists():
        pytest.skip("the wl-* commands are not installed beside this python; run ./setup-venv pytest")
    environ = os.environ | {"PATH": f"{here}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    ran = 0
    for kind, block in tour():
        if kind == "python":
            (tmp_path / block.split("\n")[0].removeprefix("# ")).write_text(block)
            continue
        assert kind == "console", f"the tour has a block of {kind}, which no test runs"
        for command, expected in commands(block):
            done = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, env=environ, capture_output=True, text=True
            )
            assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
            assert done.stdout == expected, f"$ {command}\n{done.stderr}"
            ran += 1
    assert ran >= 10


def test_every_command_of_the_package_is_in_the_readme_and_launches_from_bin() -> None:
    text = (ROOT / "README.md").read_text()
    names = re.findall(r"^(wl-\w+) = ", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert names
    for name in names:
        assert f"| `{name} " in text, f"README's table of commands lacks {name}"
        assert os.access(ROOT / "bin" / name, os.X_OK), f"bin/{name} is missing"
