"""Runs of samples that differ in keys and bytes alone: told apart, and listed, all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from operator import lt
from typing import NamedTuple

from wlshard.tar.common import RawMember
from wlshard.tar.rare import text

FEWEST = 8  # members that are worth a look


class Run(NamedTuple):
    """Whole samples with the same fields in the same order, their keys ascending and without dots.

    They are the members from `begin` to `end` of those that were looked at. places: of each field the
    offsets of its data, then its sizes.
    """

    begin: int
    end: int
    raw_keys: list[bytes]
    keys: list[str]
    fields: list[str]
    places: Sequence[tuple[Sequence[int], Sequence[int]]]

    def lines(self, named: bool, end: str = "") -> list[str]:
        """Give what an index says of each sample, and this end; named: v1.2."""
        words, columns = list[str](), list[Sequence[int | str]]()
        for name, place in zip(self.fields, self.places, strict=True):
            field = name.replace("%", "%%")
            words.append(f"{field} %d %d %s.{field}" if named else f"{field} %d %d")
            columns += [*place, self.keys] if named else place
        return list(map((" ".join(words) + end).__mod__, zip(*columns, strict=True)))


def find_run(members: Sequence[RawMember], limit: int, fields: Mapping[bytes, str]) -> Run | None:
    """Find the samples that are like the first one that begins behind the first of these members.

    The last of them is left: nothing shows yet that it is whole. limit: names end there, or before at a NUL.
    fields: what stands behind a name's first dot, and which field that is.
    """
    begin = _end(members, 0, limit)
    each = _end(members, begin, limit) - begin
    first = members[begin : begin + each]
    if not each or len(members) - begin < max(FEWEST, 3 * each):
        return None
    end = len(members) - (len(members) - begin) % each
    key, last = (_key(members[at][0], limit) for at in (begin, end - each))
    rests = [one[0][len(key) + 1 : limit] for one in first]
    called, tails = [fields.get(rest, "") for rest in rests], [b".%b\0" % text(rest) for rest in rests]
    told_by_blanks = " ".join(called).split() == called and len(set(called)) == each
    if not told_by_blanks or not members[end - each][0].startswith(last + tails[0]):
        return None  # of no use, or likely to be a short one
    raws, _, data, sizes, _ = zip(*members[begin:end], strict=True)
    keys = [raw.partition(b".")[0] for raw in raws[::each]]
    for n, tail in enumerate(tails):
        alike = map(bytes.startswith, raws[n::each], [key + tail for key in keys])
        del keys[sum(takewhile(bool, alike)) :]
    del keys[-1:]
    whole = b"\0".join([*keys, b""])
    longest = max(map(len, keys), default=limit) + max(map(len, tails)) - 1
    if (
        longest > limit
        or whole.count(b"\0") > len(keys)
        or b"/\0" in whole
        or not all(map(lt, keys, keys[1:]))
    ):
        return None
    names = whole.decode("utf-8", "surrogateescape").split("\0")[:-1]
    end = begin + each * len(keys)
    places = [(data[n : end - begin : each], sizes[n : end - begin : each]) for n in range(each)]
    return Run(begin, end, keys, names, called, places)


def _key(raw: bytes, limit: int) -> bytes:
    """Give the key in a name; empty: it has none."""
    base = raw.rfind(b"/", 0, limit) + 1
    dot = raw.find(b".", base, limit)
    return raw[:dot] if dot > base else b""


def _end(members: Sequence[RawMember], at: int, limit: int) -> int:
    """Give the first member from there on with another key than the one there, if that has one."""
    if at < len(members) and (key := _key(members[at][0], limit)):
        while at < len(members) and members[at][0].startswith(key + b"."):
            at += 1
    return at
