"""Expand `{0000..0147}`, `{a,b}` and `@000148` in the name of shards; nothing is looked up."""

from __future__ import annotations

from itertools import product

from wlshard.errors import UsageError

_MOST = 10_000_000  # shards of one list: more is a slip of the keyboard


def expand_braces(text: str) -> list[str]:
    """Expand as a shell does: ranges keep their zeros, lists may nest, braces with neither stay."""
    start = text.find("{")
    if start < 0:
        if "}" in text:
            raise UsageError("a } without its {", url=text)
        return [text]
    end = _closing(text, start)
    inside = text[start + 1 : end]
    choices = _split_commas(inside)
    if len(choices) > 1:
        middle = [one for choice in choices for one in expand_braces(choice)]
    else:
        middle = _range(inside, text) or [f"{{{one}}}" for one in expand_braces(inside)]
    rest = expand_braces(text[end + 1 :])
    if len(middle) * len(rest) > _MOST:
        raise UsageError(f"more than {_MOST:,} shards: check the numbers", url=text)
    return [f"{text[:start]}{one}{other}" for one, other in product(middle, rest)]


def _closing(text: str, start: int) -> int:
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if not depth:
            return at
    raise UsageError("a { without its }", url=text)


def _split_commas(text: str) -> list[str]:
    parts, depth = [""], 0
    for char in text:
        depth += (char == "{") - (char == "}")
        if char == "," and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _range(inside: str, text: str) -> list[str]:
    """Expand `0000..0147` and `10..0..5`; an empty list is no range."""
    bounds = inside.split("..")
    if len(bounds) not in (2, 3) or not all(bound.isascii() and bound.isdigit() for bound in bounds):
        return []
    first, last, step = int(bounds[0]), int(bounds[1]), int(bounds[2]) if len(bounds) == 3 else 1
    if not step or abs(last - first) // step >= _MOST:
        raise UsageError(f"{{{inside}}} is no range of up to {_MOST:,} shards: check the numbers", url=text)
    padded = any(len(bound) > 1 and bound[0] == "0" for bound in bounds[:2])
    width = max(map(len, bounds[:2])) if padded else 0
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return [f"{number:0{width}d}" for number in numbers]


def expand_count(url: str) -> list[str]:
    """Expand `@000148` in the last part of a name to 000000 … 000147."""
    cut = url.rfind("/") + 1
    before, sign, after = url[cut:].rpartition("@")
    digits = after[: len(after) - len(after.lstrip("0123456789"))]
    rest = after[len(digits) :]
    if not sign or not digits or rest[:1].isalnum():
        return [url]
    if not 0 < int(digits) <= _MOST:
        raise UsageError(f"@{digits} is no number of shards from 1 to {_MOST:,}", url=url)
    return [f"{url[:cut]}{before}{number:0{len(digits)}d}{rest}" for number in range(int(digits))]
