"""wl-complete: what a shell must read to complete the commands' options and arguments."""

from __future__ import annotations

import re
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from wlshard.cli.entry import command, complete_variable

SHELLS = ("bash", "zsh", "fish")


@command(
    "wl-complete",
    example="""
    source <(wl-complete bash)
    source <(wl-complete zsh)
    wl-complete fish | source
    """,
)
@click.argument("shell", type=click.Choice(SHELLS))
def main(shell: str) -> None:
    """Print what makes SHELL complete the options, choices and file names of all wl-* commands.

    Put the line for yours into ~/.bashrc, behind compinit into ~/.zshrc, or into ~/.config/fish/config.fish.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    for name in commands():
        print(kind(click.Command(name), {}, name, complete_variable(name)).source())


def commands() -> list[str]:
    """List the commands, looking at their files instead of importing them all."""
    found = (
        re.search(r'^@command\(\s*"([\w-]+)"', path.read_text(), re.MULTILINE)
        for path in Path(__file__).parent.glob("*.py")
    )
    return sorted(match[1] for match in found if match)


if __name__ == "__main__":
    main()
