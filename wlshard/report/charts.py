"""Small charts as inline SVG: no script, no style of their own, colours from the page's classes."""

from __future__ import annotations

from wlshard.report.gather import Histogram

_WIDTH, _HEIGHT = 320, 72


def histogram(bins: Histogram, about: str) -> str:
    """Draw counts as bars; as square roots, saying so, where the greatest would hide the others.

    about: what is counted, told to screen readers; it is of ours, not of the data.
    """
    counts = [count for *_, count in bins.bins()]
    some = [count for count in counts if count]
    rooted = max(some) * len(some) > 8 * sum(some)
    top = max(some) ** (0.5 if rooted else 1)
    width = _WIDTH / max(len(counts), 8)
    bars = []
    for place, (begin, end, count) in enumerate(bins.bins()):
        if count:
            height = max(1.0, _HEIGHT * (count ** (0.5 if rooted else 1)) / top)
            reach = short(begin) if bins.step == 1 else f"{short(begin)} to {short(end)}"
            place_x, wide = f"{place * width:.2f}", f"{max(width - 1, width * 0.7):.2f}"
            bars.append(
                f'<rect x="{place_x}" y="{_HEIGHT - height:.2f}" width="{wide}" height="{height:.2f}">'
                f"<title>{reach}: {count:,}</title></rect>"
            )
    axis = short(bins.least), "√ scale" if rooted else "", short(bins.most)
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{about}">{"".join(bars)}</svg>'
        f'<div class="axis"><span>{"</span><span>".join(axis)}</span></div>'
    )


def bar(share: float, colour: str = "") -> str:
    """Draw a part of one, lying; in the page's colour unless another is named."""
    fill = f' fill="{colour}"' if colour else ""
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{100 * share:.2f}" height="10"{fill}/></svg>'
    )


def short(value: float) -> str:
    """Give a number in at most about eight characters."""
    return f"{int(value):,}" if abs(value) < 1e7 and value == int(value) else f"{value:.4g}"


def size(count: float | None) -> str:
    """Give bytes in the unit that suits them: `1.9 MiB`."""
    if count is None:
        return "unknown"
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            break
        count /= 1024
    if count == 1 and unit == "bytes":
        return "1 byte"
    return f"{count:,.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
