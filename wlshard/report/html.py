"""A report as one page of HTML: nothing is loaded from elsewhere, nothing runs, what came from data is text.

The same input gives the same bytes. With at most 200 fields, 500 faults, 40 charts and 144 pictures of 144
pixels a page stays below 8 MB.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from wlshard.errors import counted, number, printable
from wlshard.report.charts import bar, histogram, size
from wlshard.report.gather import CHARTS, PALETTE, VALUES, FieldCharts, Gathered, Shown
from wlshard.report.text import field_cells

FIELDS, FAULTS, NAMES, BARS = 200, 500, 100, 16  # rows
CHARS = 300  # of one text

_FIELD_HEAD = ("field", "count", "type", "dtype", "shape", "min", "max", "bytes")


def page(url: str, found: dict[str, Any], gathered: Gathered) -> bytes:
    """Make the page of what `wl-info --json` found and what was gathered from the samples meanwhile."""
    with open(os.path.join(os.path.dirname(__file__), "style.css"), encoding="utf-8") as file:
        style = file.read()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{text(url)} – wlshard</title>\n<style>{style}</style>\n</head>\n<body>\n<main>",
        *_sections(url, found, gathered),
        "</main>\n</body>\n</html>\n",
    ]
    return "\n".join(parts).encode()


def text(value: object, chars: int = CHARS) -> str:
    """Make any text harmless in HTML, and visible: escaped, clipped, control characters told as such."""
    plain = str(value)
    return html.escape(printable(plain[:chars]) + "…" * (len(plain) > chars))


def _sections(url: str, found: dict[str, Any], gathered: Gathered) -> Iterator[str]:
    pool = found["kind"] == "pool"
    where = "the pool" if pool else "shards"
    yield f'<header><p class="soft">Report on {where}</p><h1>{text(url)}</h1></header>'
    tiles = [("samples", number(found["samples"])), ("shards", number(found["shards"]))]
    tiles += [("size", size(found["bytes"])), ("fields", number(len(found["fields"])))]
    if pool:
        tiles = [("generation", str(found["generation"])), *tiles, *_pool_tiles(found)]
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles)
    yield f'<dl class="tiles">{cells}</dl>'
    if "ok" in found:
        yield from _verified(found)
    yield from _fields(found)
    names = [name for name in found["fields"] if name in gathered.charts]
    if names:
        yield '<h2>Values</h2>\n<div class="cards">'
        yield from (_card(name, found["fields"][name], gathered.charts[name]) for name in names)
        yield "</div>"
    if gathered.sheet:
        yield from _sheet(gathered.sheet)
    yield (
        f"<footer>Fields, values and pictures: {counted(found['looked_at'], 'sample')} looked at; of arrays "
        f"at most {VALUES:,} values each are counted.</footer>"
    )


def _pool_tiles(found: dict[str, Any]) -> list[tuple[str, str]]:
    buffer = counted(found["buffer"]["samples"], "sample")
    return [("write buffer", buffer), ("reuse", f"{found['reuse']:.2f}")]


def _verified(found: dict[str, Any]) -> Iterator[str]:
    faults, more = found["faults"], found["faults_omitted"]
    if found["ok"]:
        yield '<p class="verdict good">Verified: no faults</p>'
    else:
        yield f'<p class="verdict bad">Verified: {counted(len(faults) + more, "fault")}</p>\n<h2>Faults</h2>'
        rows = [tuple(map(text, _fault(fault))) for fault in faults[:FAULTS]]
        yield _table(("kind", "shard", "byte", "member or key", "what"), rows, numeric={2}, wide={1, 4})
        more += len(faults[FAULTS:])
        yield f"<p>… and {number(more)} more</p>" if more else ""
    lists = [("note", [f"{what}: {times:,}" for what, times in found["notes"].items()])]
    lists += [("set aside", [f"{bad['shard']}: {bad['reason']}" for bad in found["quarantined"]])]
    lists += [("left over", found["leftovers"])]
    seen = [(what, text(each)) for what, lines in lists for each in _some(lines)]
    if seen:
        yield f"<h2>Also seen</h2>\n{_table(('', ''), seen, wide={1})}"


def _fault(fault: dict[str, Any]) -> tuple[str, ...]:
    offset = "" if fault["offset"] is None else number(fault["offset"])
    return fault["kind"], fault["url"], offset, fault["member"] or fault["key"] or "", fault["message"]


def _some(lines: list[str]) -> list[str]:
    return lines[:NAMES] + [f"… and {len(lines) - NAMES:,} more"] * (len(lines) > NAMES)


def _fields(found: dict[str, Any]) -> Iterator[str]:
    fields = list(found["fields"].items())
    rows = [tuple(map(text, (name, *field_cells(field)))) for name, field in fields[:FIELDS]]
    if rows:
        yield f"<h2>Fields</h2>\n{_table(_FIELD_HEAD, rows, numeric={1, 5, 6, 7})}"
    if len(fields) > FIELDS:
        yield f"<p>… and {number(len(fields) - FIELDS)} more</p>"
    if len(fields) > CHARTS:
        yield f"<p>Values are shown of the {CHARTS} fields met first.</p>"
    bad = sum(field["undecodable"] for _, field in fields)
    if bad:
        yield f'<p class="bad">{counted(bad, "field")} could not be decoded.</p>'


def _table(
    head: Iterable[str], rows: Iterable[Iterable[str]], numeric: Iterable[int] = (), wide: Iterable[int] = ()
) -> str:
    """Make a table of cells that are HTML already."""
    kind = {**dict.fromkeys(numeric, ' class="n"'), **dict.fromkeys(wide, ' class="text"')}
    top = "".join(f"<th{kind.get(at, '')}>{cell}</th>" for at, cell in enumerate(head))
    lines = "\n".join(
        f"<tr>{''.join(f'<td{kind.get(at, str())}>{cell}</td>' for at, cell in enumerate(row))}</tr>"
        for row in rows
    )
    return (
        f'<div class="table"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>{lines}</tbody>\n</table></div>'
    )


def _card(name: str, field: dict[str, Any], charts: FieldCharts) -> str:
    parts = [f'<div class="card"><h3>{text(name)}</h3>']
    classes, labels = charts.classes, charts.labels
    if classes and (len(classes) < field["count"] or len(classes) <= BARS):
        parts.append(f"<p>{counted(len(classes), 'distinct value')}</p>{_bars(classes)}")
    elif labels:
        colours = {str(label): f"rgb{tuple(PALETTE[label].tolist())}" for label in labels}
        counts = Counter({str(label): count for label, count in labels.items()})
        parts.append(f"<p>values</p>{_bars(counts, colours)}")
    elif charts.values.counts.size:
        parts.append(f"<p>values</p>{histogram(charts.values, 'values')}")
    sizes, mean = charts.sizes, size(field["bytes"] / max(1, field["count"]))
    if sizes.least < sizes.most:
        parts.append(f"<p>bytes, {mean} on average</p>{histogram(sizes, 'bytes')}")
    else:
        parts.append(f"<p>each {mean}</p>")
    return "\n".join([*parts, "</div>"])


def _bars(counts: Counter[str], colours: Mapping[str, str] = MappingProxyType({})) -> str:
    """List the most frequent values, shortest first so that numbers ascend."""
    common = sorted(counts.most_common(BARS), key=lambda each: (len(each[0]), each[0]))
    top, rest = max(count for _, count in common), len(counts) - len(common)
    rows = "".join(
        f"<tr><td>{text(value)}</td><td>{bar(count / top, colours.get(value, ''))}</td>"
        f'<td class="n">{count:,}</td></tr>'
        for value, count in common
    )
    return f'<table class="bars">{rows}</table>' + (f"<p>… and {rest:,} more</p>" if rest else "")


def _sheet(sheet: list[Shown]) -> Iterator[str]:
    most = max(len(shown.pictures) for shown in sheet)
    if not most:
        return
    width = ("one", "two", "three")[most - 1]
    yield f'<h2>Samples</h2>\n<div class="sheet {width}">'
    for shown in sheet:
        pictures = "".join(
            f'<img class="{"small" if small else "large"}" alt="{text(name)}" title="{text(name)}" '
            f'src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
            for name, kind, small, data in shown.pictures
        )
        values = " ".join(f"<span>{text(name, 40)}</span> {text(value, 40)}" for name, value in shown.values)
        yield (
            f'<figure><div class="row">{pictures}</div>'
            f"<figcaption><b>{text(shown.key, 80)}</b>{values}</figcaption></figure>"
        )
    yield "</div>"
