"""wl-show: a sample in the terminal."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from wlshard.cli.entry import SKIPPED, command
from wlshard.cli.options import force_option, json_option, look_options, shards_of
from wlshard.errors import CodecError, NotFound, UsageError, counted, printable
from wlshard.sample import Sample, choose, fields_of

if TYPE_CHECKING:
    from wlshard.stream.lazy import LazySample

TEXT_LINES = 12
TEXT_CHARS = 2000
HEX_BYTES = 32


@command(
    "wl-show",
    example="""
    wl-show train.tar
    wl-show 'train-{0000..0147}.tar' 17 -f 'png;jpg'
    wl-show /data/pool -S '_["cls"] == 3' --shuffle 100 -o three.png
    """,
)
@click.argument("url")
@click.argument("skip", type=click.IntRange(min=0), default=0)
@click.option("-f", "--field", "--fields", "fields", help="Only these; 'png;jpg' is the first that is there.")
@look_options
@click.option("-o", "--output", metavar="FILE",
              help="Write the first picture to x.png, x.jpg …; -: PNG to stdout.")  # fmt: skip
@force_option
@json_option
def main(
    url: str, skip: int, fields: str | None, output: str | None, force: bool, as_json: bool, **looked: Any
) -> int:  # fmt: skip
    """Show the sample after SKIP others (default 0: the first): its fields, sizes, values and pictures.

    Images are drawn in half blocks of 24-bit colour, of volumes the middle slice; in shades without colour
    where stdout is no terminal or NO_COLOR is set. Text is shown with control characters escaped. A field
    that does not decode is told as such, and the exit code is 3.

    URL: shards in any form, a pool (POOL, POOL@n) or - for stdin.
    """
    from wlshard.jobs.look import first, look
    from wlshard.stream.lazy import stored_fields

    if as_json and output == "-":
        raise UsageError("-o - and --json both want stdout: name a file for the picture")
    found = look(shards_of(url), skip=skip, images="stored", **looked)
    number, sample = first(found, url, skip, looked["select"])
    stored = stored_fields(sample)
    values = _values(sample, stored, fields)
    if output is not None:
        _write_picture(values, sample, output, force)
    if as_json:
        about = {name: {"bytes": len(stored[name]), **_as_json(value)} for name, value in values.items()}
        key, url = sample["__key__"], sample["__url__"]
        print(json.dumps({"key": key, "url": url, "index": number, "fields": about}))
    elif output != "-":
        print(f"{printable(sample['__key__'])}  (sample {number} of {printable(sample['__url__'])})")
        for name, value in values.items():
            for line in _lines(
                f"{printable(name)}  {counted(len(stored[name]), 'byte')}", value, output is None
            ):
                print(line)
    return SKIPPED if any(isinstance(value, CodecError) for value in values.values()) else 0


def _values(sample: LazySample, stored: Sample, fields: str | None) -> dict[str, Any]:
    """Decode the fields that are shown; one that does not decode is its error."""
    from wlshard.stream.fields import parse_fields

    words = parse_fields(fields)
    values: dict[str, Any] = {}
    for name in sorted(fields_of(stored) if words is None else {choose(stored, word) for word in words}):
        try:
            values[name] = sample[name]
        except CodecError as error:
            values[name] = error
    return values


def _as_json(value: Any) -> dict[str, Any]:
    if isinstance(value, CodecError):
        return {"error": value.message}
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    return {
        "type": type(value).__name__,
        "dtype": None if dtype is None else str(dtype),
        "shape": None if shape is None else list(shape),
    }


def _lines(head: str, value: Any, pictures: bool) -> Iterator[str]:
    from wlshard.codecs.picture import picture
    from wlshard.report.terminal import draw

    lines = list(_value_lines(value))
    if len(lines) == 1:
        yield f"{head}  {lines[0]}"
    else:
        yield head
        yield from (f"  {line}" for line in lines)
    drawn = picture(value) if pictures else None
    if drawn is not None:
        columns, rows = shutil.get_terminal_size()
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        yield from draw(drawn, columns, max(4, rows - 4), colour=colour)


def _value_lines(value: Any) -> Iterator[str]:
    """Tell a value in a few lines, safe for any terminal."""
    if isinstance(value, CodecError):
        yield f"does not decode: {printable(value.message)}"
    elif hasattr(value, "dtype"):
        yield _array(value)
    elif isinstance(value, bytes):
        yield value[:HEX_BYTES].hex(" ") + (" …" if len(value) > HEX_BYTES else "")
    elif isinstance(value, dict) and any(hasattr(one, "dtype") for one in value.values()):
        yield from (f"{printable(name)}: {_array(one)}" for name, one in value.items())
    elif isinstance(value, list) and any(hasattr(one, "dtype") for one in value):
        yield from map(_array, value)
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        shown = text[:TEXT_CHARS].splitlines()[:TEXT_LINES] or [""]
        yield from map(printable, shown)
        if len("\n".join(shown)) < len(text.rstrip("\n")):
            yield f"… {len(text):,} characters in all"


def _array(value: Any) -> str:
    if not hasattr(value, "dtype"):
        return printable(value)
    shape = "×".join(map(str, value.shape)) or "scalar"
    if not value.size or value.dtype.kind not in "biuf":
        return f"{value.dtype} {shape}"
    import numpy as np

    low, high = np.fmin.reduce(value, None), np.fmax.reduce(value, None)
    return f"{value.dtype} {shape}  {low:.6g} … {high:.6g}"


def _write_picture(values: dict[str, Any], sample: LazySample, output: str, force: bool) -> None:
    from wlshard.codecs import encode
    from wlshard.codecs.picture import picture
    from wlshard.sample import extension
    from wlshard.store.connect import write_object

    drawn = next((found for value in values.values() if (found := picture(value)) is not None), None)
    if drawn is None:
        raise NotFound("no field of this sample is a picture", url=sample["__url__"], key=sample["__key__"])
    if output == "-":
        sys.stdout.buffer.write(encode("png", drawn))
        return
    data = encode(extension(os.path.basename(output)).lower(), drawn)
    write_object(output, data, force=force)


if __name__ == "__main__":
    main()
