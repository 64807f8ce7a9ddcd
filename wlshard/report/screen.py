"""A pool's state as a screen that is drawn again and again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wlshard.errors import counted, printable

HOME, END_OF_LINE, BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
HOLDERS = 8  # shown, of the newest generations
BAR = 30


def drawn(lines: list[str], columns: int, rows: int) -> str:
    """Give what draws the lines over those drawn before, as much of them as fits the terminal."""
    shown = [line[: columns - 1] for line in lines[: max(1, rows - 1)]]
    return HOME + "".join(f"{line}{END_OF_LINE}\n" for line in shown) + BELOW


def screen(state: dict[str, Any]) -> Iterator[str]:
    """Tell a pool's state, as `PoolStatus.as_json` gives it, line by line."""
    buffer, age = state["buffer"], state["oldest_age_s"]
    yield f"{printable(state['pool'])}   generation {state['generation']}"
    yield ""
    sealed = state["sealed_total"]
    yield _row(
        "write buffer", buffer["samples"], _bar(buffer["samples"], sealed), counted(buffer["shards"], "shard")
    )
    yield _row(
        "read pool",
        f"{state['samples']:,}",
        _bar(state["samples"], sealed),
        counted(state["shards"], "shard"),
    )
    yield _row("sealed in all", f"{sealed:,}", "", f"{state['promoted_total']:,} promoted")
    if state["set_aside"]:
        yield _row("set aside", f"{state['set_aside']:,}", "", "shards that are bad")
    yield ""
    made, given = state["generated_per_s"], state["served_per_s"]
    most = max(made, given)
    yield _row("generated/s", f"{made:,.2f}", _bar(made, most), "")
    yield _row(
        "served/s",
        f"{given:,.2f}",
        _bar(given, most),
        f"{given / made:.1f} for each generated" if made else "",
    )
    yield ""
    unread = state["never_read"]
    yield _row(
        "reuse", f"{state['reuse']:,.2f}", "", f"of this generation; {state['reuse_total']:.2f} in all"
    )
    if state["shards"]:
        shard = state["shard_reuse"]
        spread = f"{shard['min']:.2f}–{shard['max']:.2f}, by shard"
        yield _row("reuse so far", f"{shard['median']:,.2f}", "", spread)
    yield _row("served", f"{state['served']:,}", "", f"of this generation; {state['served_total']:,} in all")
    yield _row("never read", "–" if unread is None else f"{unread:.0%}", _bar(unread or 0.0, 1.0), "")
    yield _row(
        "oldest", "–" if age is None else f"{age:,.0f} s", "", f"readers waited {state['waited_s']:.1f} s"
    )
    if state["leases"]:
        yield ""
        yield from holders(state["leases"])


def holders(leases: list[dict[str, Any]]) -> Iterator[str]:
    """Tell who holds which generation, the newest first."""
    for held in leases[: -HOLDERS - 1 : -1]:
        name = f"pin {held['pin']}" if held["pin"] is not None else held["holder"]
        yield f"generation {held['generation']} held by {printable(name)} for {held['left_s']:,.0f} s"
    if len(leases) > HOLDERS:
        yield f"and by {len(leases) - HOLDERS} more"


def _row(name: str, value: str, bar: str, about: str) -> str:
    return f"{name:<14}{value:>12}  {bar:<{BAR if bar else 0}} {about}".rstrip()


def _bar(value: float, full: float) -> str:
    filled = round(BAR * min(1.0, value / full)) if full > 0 else 0
    return "█" * filled + "·" * (BAR - filled)
