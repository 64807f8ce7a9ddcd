"""What wl-info found, as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wlshard.errors import counted, number, printable
from wlshard.report.screen import holders


def told(found: dict[str, Any]) -> Iterator[str]:
    """Tell what `wl-info --json` would; nothing in it reaches the terminal as a control character."""
    what = ""
    if found["kind"] == "pool":
        yield from _pool_lines(found)
        what = "read pool: "
    size = "" if found["bytes"] is None else f", {number(found['bytes'])} bytes"
    yield f"{what}{counted(found['samples'], 'sample')} in {counted(found['shards'], 'shard')}{size}"
    if found["looked_at"] != found["samples"]:
        where = "" if found["samples"] or not what else " of the write buffer"
        first = (
            f"first {counted(found['looked_at'], 'sample')}" if found["looked_at"] != 1 else "first sample"
        )
        yield f"fields of the {first}{where}:"
    rows: list[tuple[str, ...]] = [("field", "count", "type", "dtype", "shape", "min", "max", "bytes")]
    rows += [(printable(name), *field_cells(field)) for name, field in found["fields"].items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    yield from ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows if len(rows) > 1)
    undecodable = sum(field["undecodable"] for field in found["fields"].values())
    if undecodable:
        yield f"{counted(undecodable, 'field')} could not be decoded"
    if "ok" in found:
        yield from _verified(found)


def _pool_lines(found: dict[str, Any]) -> Iterator[str]:
    buffer, age, shard = found["buffer"], found["oldest_age_s"], found["shard_reuse"]
    yield f"generation {found['generation']} of the pool {printable(found['pool'])}"
    yield f"write buffer: {counted(buffer['samples'], 'sample')} in {counted(buffer['shards'], 'shard')}"
    yield (
        f"generated {found['generated_per_s']:.2f}/s, served {found['served_per_s']:.2f}/s, "
        f"reuse {found['reuse']:.2f}, oldest {'–' if age is None else f'{age:.0f} s'}, "
        f"trainers waited {found['waited_s']:.1f} s"
    )
    if found["shards"]:
        yield (
            f"reuse of a shard so far: {shard['min']:.2f} at least, {shard['median']:.2f} in the middle, "
            f"{shard['max']:.2f} at most"
        )
    yield from holders(found["leases"])
    if found["set_aside"]:
        yield f"set aside: {counted(found['set_aside'], 'bad shard')} (--verify tells which)"


def _verified(found: dict[str, Any]) -> Iterator[str]:
    for what, times in found["notes"].items():
        yield f"noted: {what}: {number(times)}"
    for bad in found["quarantined"]:
        yield f"set aside: {printable(bad['shard'])} ({printable(bad['reason'])})"
    for name in found["leftovers"]:
        yield f"left over: {printable(name)}"
    for fault in found["faults"]:
        place = "" if fault["offset"] is None else f", byte {number(fault['offset'])}"
        name = fault["member"] or fault["key"]
        member = "" if name is None else f", {printable(name)}"
        yield f"{printable(fault['url'])}{place}{member}: {fault['kind']}: {printable(fault['message'])}"
    if found["faults_omitted"]:
        yield f"… and {number(found['faults_omitted'])} more"
    total = len(found["faults"]) + found["faults_omitted"]
    yield f"verified: {counted(total, 'fault') if total else 'no faults'}"


def field_cells(field: dict[str, Any]) -> tuple[str, ...]:
    """Give count, types, dtype, shapes, least, greatest and bytes of a field as text."""
    shapes = ["×".join(map(str, shape)) or "()" for shape in field["shapes"][:3]]
    more = len(field["shapes"]) - len(shapes) + field["shapes_omitted"]
    low, high = ("" if field[end] is None else f"{field[end]:.6g}" for end in ("min", "max"))
    return (
        number(field["count"]),
        " ".join(field["types"]),
        field["dtype"] or "",
        " ".join(shapes) + (f" and {more} more" if more else ""),
        low,
        high,
        number(field["bytes"]),
    )
