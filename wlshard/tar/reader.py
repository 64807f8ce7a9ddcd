"""Members of a tar, from one sequential read: strict, without copies, a microsecond each.

A tar is read in blocks that are used again (`blocks.py`); payloads are views into them. Headers like the one
before, differing in name, size and checksum only, are taken in one tight loop; all others go through
`rare.py`. A fault is handed out with its place; whoever goes on after it gets what follows the damage.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

from wlshard.errors import TarError
from wlshard.tar.blocks import BLOCK_BYTES, Blocks
from wlshard.tar.common import NAME_BYTES, Likeness, RawMember
from wlshard.tar.feed import Feed, Source
from wlshard.tar.rare import Payload, text
from wlshard.tar.tape import MAX_MEMBER_BYTES, Links, Tape


class Found(NamedTuple):
    """What one step over a tar found: members, a fault, or the end mark (neither of them).

    `at`: the offset up to which the tar has been read. `name_bytes`: names end there, or before at a NUL.
    `follows`: nothing was found but the name of a large member that is read next.
    """

    members: list[RawMember]
    at: int
    fault: TarError | None = None
    follows: bytes | None = None
    name_bytes: int = 1 << 30

    @property
    def ends(self) -> bool:
        """Whether this is the end mark."""
        return not self.members and self.fault is None and self.follows is None


class Member(NamedTuple):
    """One file of a tar. `start`: where its first header begins; `data`: where its bytes do."""

    name: str
    start: int
    data: int
    size: int
    payload: Payload


def read_members(
    source: Source,
    url: str,
    *,
    start: int = 0,
    on_fault: Callable[[TarError], None] | None = None,
    links: Links | None = None,
    max_member_bytes: int = MAX_MEMBER_BYTES,
) -> Iterator[Member]:
    """Yield the regular files of a plain tar, in order; directories, symlinks and devices are passed over.

    `source` starts at byte `start` of the tar; the caller closes it. Payloads are read-only views that keep
    a block of memory (1 MiB, or the member's size) alive as long as they live. A damaged tar raises TarError
    with url and offset after the members before the damage; with `on_fault` that is called instead, and
    reading goes on at the next header that checks.
    """
    for found in scan(source, url, start=start, links=links, max_member_bytes=max_member_bytes):
        for raw, begin, data, size, payload in found.members:
            name = text(raw[: found.name_bytes]).decode("utf-8", "surrogateescape")
            yield Member(name, begin, data, size, payload)
        if found.fault is not None:
            if on_fault is None:
                raise found.fault
            on_fault(found.fault)


def scan(
    source: Source,
    url: str,
    *,
    start: int = 0,
    lead: int = 0,
    span: bool = False,
    copy: bool = False,
    payloads: bool = True,
    bare: Callable[[], bool] = lambda: False,
    links: Links | None = None,
    seek: Callable[[int], None] | None = None,
    blocks: Blocks | None = None,
    block_bytes: int = BLOCK_BYTES,
    like: Likeness | None = None,
    passed_over: dict[str, int] | None = None,
    max_member_bytes: int = MAX_MEMBER_BYTES,
) -> Generator[Found, None, None]:
    """Yield what is found step by step: members as they lie in memory, faults, the end mark.

    A list of members is emptied when the next step is asked for. A payload larger than a block is announced
    by its name first, so that what came before can be used and freed. After a fault the pass goes on behind
    the damage: at the next header that checks, or at the next member where that is known.

    `span`: source holds whole members and no end mark, behind `lead` bytes that are passed over. `copy`:
    payloads are bytes. `payloads=False`: they are empty (ELSEWHERE for hard links and sparse files), and what
    is left of a large one is jumped over by `seek`, which moves the source. `bare`: while it says so, all is
    read and checked, but those of plain members are empty, too. `passed_over` counts, by kind,
    what is no file; `like` remembers headers for another scan.
    """
    feed = Feed(source, start, blocks=blocks, block_bytes=block_bytes, views=payloads, seek=seek)
    if lead:
        feed.skip(start + lead)
    tape = Tape(
        feed,
        span=span,
        copy=copy,
        payloads=payloads,
        bare=bare,
        links=links,
        like=Likeness() if like is None else like,
        passed_over={} if passed_over is None else passed_over,
        max_member_bytes=max_member_bytes,
    )
    members: list[RawMember] = []
    while not feed.over:
        tape.common(members)
        if members:
            yield Found(members, feed.at, name_bytes=len(tape.like.prefix) + NAME_BYTES)
            members.clear()
        fault, told = None, False
        try:
            told = tape.uncommon(members)
        except TarError as error:
            fault = error
            fault.url, fault.offset = url, tape.begin if error.offset is None else error.offset
        if fault or told:
            yield Found(members, feed.at, fault)
            members.clear()
        elif tape.announced is not None:
            yield Found(members, feed.at, follows=tape.announced[0].name)
        if fault:
            tape.resume()
            fault.resumed_at = feed.at
