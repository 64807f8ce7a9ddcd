"""Arguments and options that several commands share: one spelling, one help text each."""

from __future__ import annotations

import re
from typing import Any

import click

_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


class Bytes(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """A size: `268435456`, `256M`, `256MiB`; units are powers of 1024."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        parsed = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", str(value).strip().lower())
        if parsed is None:
            self.fail(f"{value!r} is no size: write it like 256M", param, ctx)
        return int(float(parsed[1]) * (1 << _UNITS[parsed[2]]))


json_option = click.option(
    "--json", "as_json", is_flag=True, help="The result as JSON on stdout, an error as JSON on stderr."
)
parallel_option = click.option(
    "-P", "-p", "--parallel", type=click.IntRange(min=1), default=1, show_default=True, help="Processes."
)
