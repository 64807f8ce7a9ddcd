"""wl-info: what is in shards, and how a pool stands."""

from __future__ import annotations

import json
from typing import Any

import click

from wlshard.cli.entry import command
from wlshard.cli.options import json_option
from wlshard.errors import printable

LOOKED_AT = 1000


@command(
    "wl-info",
    example="""
    wl-info 'photos-{000000..000003}.tar'
    wl-info /data/pool --json -c 10
    cat train.tar | wl-info - -c 0 -d none
    """,
)
@click.argument("url")
@click.option("-c", "--count", type=click.IntRange(min=0), default=LOOKED_AT, show_default=True,
              help="Look into so many samples; 0: into all.")  # fmt: skip
@click.option("-d", "--decode", default="stored", show_default=True, metavar="IMAGES",
              help="Images as stored, rgb8, rgb, gray8, gray …; none: decode no field.")  # fmt: skip
@json_option
def main(url: str, count: int, decode: str, as_json: bool) -> None:
    """Show the fields of shards or of a pool: how many, of which type, dtype, shape and range.

    URL: shards in any form, a pool (POOL, POOL@n) or - for stdin. Of a pool, its state comes first:
    generation, write buffer, rates, reuse, age. Samples and bytes are of all shards, fields of the first
    --count samples; before the first rotation, of those in the write buffer.
    """
    from wlshard.pool.source import resolve
    from wlshard.shards.survey import survey

    images = None if decode == "none" else decode
    source = resolve(url)
    if source.pool is None:
        found = survey(source.urls, samples=count, images=images).as_json()
    else:
        shards = source.pool.shards(source.generation)
        if not shards and source.generation is None:
            shards = [source.pool.shard_url(shard.name) for shard in source.pool.buffer()]
        inside = survey(shards, samples=count, images=images).as_json()
        found = {
            **source.pool.status().as_json(),
            "looked_at": inside["looked_at"],
            "fields": inside["fields"],
        }
        if source.generation is not None:
            about = {name: inside[name] for name in ("shards", "samples", "bytes")}
            found.update(about, generation=source.generation)
    print(json.dumps(found) if as_json else _told(found))


def _told(found: dict[str, Any]) -> str:
    lines, what = list[str](), ""
    if found["kind"] == "pool":
        lines, what = _pool_lines(found), "read pool: "
    shards = "1 shard" if found["shards"] == 1 else f"{_number(found['shards'])} shards"
    lines.append(f"{what}{_number(found['samples'])} samples in {shards}, {_number(found['bytes'])} bytes")
    if found["looked_at"] != found["samples"]:
        where = "" if found["samples"] or not what else " of the write buffer"
        lines.append(f"fields of the first {_number(found['looked_at'])} samples{where}:")
    rows: list[tuple[str, ...]] = [("field", "count", "type", "dtype", "shape", "min", "max", "bytes")]
    rows += [_row(printable(name), field) for name, field in found["fields"].items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows if len(rows) > 1]
    return "\n".join(lines)


def _pool_lines(found: dict[str, Any]) -> list[str]:
    buffer, age = found["buffer"], found["oldest_age_s"]
    return [
        f"generation {found['generation']} of the pool {found['pool']}",
        f"write buffer: {_number(buffer['samples'])} samples in {_number(buffer['shards'])} shards",
        f"generated {found['generated_per_s']:.2f}/s, served {found['served_per_s']:.2f}/s, "
        f"reuse {found['reuse']:.2f}, oldest {'–' if age is None else f'{age:.0f} s'}, "
        f"trainers waited {found['waited_s']:.1f} s",
    ]


def _row(name: str, field: dict[str, Any]) -> tuple[str, ...]:
    shapes = ["×".join(map(str, shape)) or "()" for shape in field["shapes"][:3]]
    more = len(field["shapes"]) - len(shapes) + field["shapes_omitted"]
    shape = " ".join(shapes) + (f" and {more} more" if more else "")
    low, high = ("" if field[end] is None else f"{field[end]:.6g}" for end in ("min", "max"))
    kinds = " ".join(field["types"])
    return (
        name,
        _number(field["count"]),
        kinds,
        field["dtype"] or "",
        shape,
        low,
        high,
        _number(field["bytes"]),
    )


def _number(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"


if __name__ == "__main__":
    main()
