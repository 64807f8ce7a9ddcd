"""One strict pass over a tar: entries of every kind, its end, and how it goes on behind a fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from wlshard.errors import TarError
from wlshard.tar import rare
from wlshard.tar.common import Likeness, RawMember, hop_common, take_common
from wlshard.tar.feed import CUT, Feed
from wlshard.tar.rare import HEADER_BYTES, Payload

MAX_MEMBER_BYTES = 1 << 34  # one payload lies in memory whole
MAX_EXTENSION_BYTES = 1 << 22  # a long name or PAX header; a sparse map of 100,000 parts fits
MAX_PADDING_BYTES = 1 << 30  # zeros after the end mark; tape records are at most a few MiB


class Links(Protocol):
    """Finds what a hard link stands for."""

    def payload(self, target: bytes, before: int) -> Payload:
        """Give the payload of the last member called target that begins before this offset."""
        ...


class Tape:
    """A pass over a tar. After a fault (TarError), `resume` takes it behind the damage."""

    def __init__(
        self,
        feed: Feed,
        *,
        span: bool,
        copy: bool,
        payloads: bool,
        bare: Callable[[], bool],
        links: Links | None,
        like: Likeness,
        passed_over: dict[str, int],
        max_member_bytes: int,
    ) -> None:
        self.feed, self.links, self.like, self.passed_over = feed, links, like, passed_over
        self.span, self.copy, self.payloads, self.bare = span, copy, payloads, bare
        self.max_member_bytes = max_member_bytes
        self.begin = feed.at  # of the entry being read
        self.resume_at: int | None = None  # where the pass goes on after a fault, if that is known
        # A member whose headers have been read, and whose payload needs a block of its own.
        self.announced: tuple[rare.Header, bytes, rare.Extensions] | None = None
        self.ending = False  # the end mark has been passed, what pads the tar has not
        self.standing: dict[bytes, bytes] = {}  # what PAX global headers said

    def common(self, members: list[RawMember]) -> None:
        """Take the members in memory that are like the last one."""
        if self.announced is not None or self.ending or self.standing:
            return
        if self.payloads and self.max_member_bytes < self.feed.block_bytes:
            return
        if not self.payloads or self.bare():
            hop_common(self.feed, self.like, members, self.max_member_bytes)
        else:
            take_common(self.feed, self.like, self.copy, members)

    def uncommon(self, members: list[RawMember]) -> bool:
        """Take one entry of any kind, refilling the block as needed.

        True: a member was taken, or this is the end mark (then there is none).
        """
        feed = self.feed
        self.resume_at = None
        if self.ending:
            self.padding()
            return False
        if self.announced is not None:
            waiting, self.announced = self.announced, None
            self.entry(*waiting, members)
            return True
        self.begin = feed.at
        wanted, feed.wanted = max(HEADER_BYTES, feed.wanted), 0
        if feed.filled - feed.pos < wanted and feed.have(wanted):
            return False  # the first of a new block may be a common one
        extensions = rare.Extensions(self.standing)
        extended = False
        while (block := self.header(extended)) is not None:
            header = rare.parse_header(block)
            self.like.learn(header)
            feed.pos += HEADER_BYTES
            if header.kind not in rare.EXTENSIONS:
                header = extensions.apply(header)
                if feed.must_grow(header.size) and self.payloads:
                    self.announced = header, block, extensions
                    return False
                self.entry(header, block, extensions, members)
                return bool(members)
            if header.size > MAX_EXTENSION_BYTES:
                raise TarError(f"an extension header of {header.size} bytes: damaged, or made to harm")
            extensions.add(header.kind, bytes(feed.data(header.size)))
            extended = True
        return True

    def header(self, wanted: bool) -> bytes | None:
        """Give the header block at this place; None at the end of the tar. `wanted`: it may not end here."""
        feed = self.feed
        at = feed.at
        if not feed.have(HEADER_BYTES):
            left = feed.filled - feed.pos
            feed.over = True
            if self.span and not left and not wanted:
                return None
            what = "is cut in a header"
            if not left and not wanted:
                what = "has no end mark, it may be cut behind a member" if at else "has no bytes at all"
            raise TarError(f"the tar {what}: fetch or write it again", offset=at + left)
        block = bytes(feed.view[feed.pos : feed.pos + HEADER_BYTES])
        if not any(block):
            if wanted or self.span:
                raise TarError("zeros stand where a member's header should be", offset=at)
            self.end_mark(at)
            return None
        if not rare.checks(block):
            what = (
                "a header's checksum is wrong, the tar is damaged"
                if at
                else "this is no tar, nor a compressed one"
            )
            raise TarError(f"{what}: fetch or write it again", offset=at)
        return block

    def entry(
        self, header: rare.Header, block: bytes, extensions: rare.Extensions, members: list[RawMember]
    ) -> None:
        """Take what the headers just read announce: a member, or something that is passed over."""
        feed = self.feed
        kind, size = header.kind, header.size
        v7_folder = kind == b"\0" and header.name.endswith(b"/")
        if v7_folder or kind in rare.PASSED_OVER:
            what = rare.PASSED_OVER.get(kind, "directories")
            self.passed_over[what] = self.passed_over.get(what, 0) + 1
            if v7_folder or kind == b"D":  # the others have no data, whatever their size says
                feed.skip(feed.at + size + (-size & 511))
            return
        try:
            if kind == b"M":
                raise TarError("it goes on in another volume: join the volumes of this tar first")
            if kind == rare.LINK:
                data, payload = feed.at, self.linked(header.link)
                size = len(payload) if self.payloads else 0
            else:
                real, spans = self.sparse(block) if kind == rare.SPARSE else extensions.sparse()
                data = feed.at
                payload = self.payload(size, real, spans, extensions.map_leads)
                if real is not None:
                    size, payload = real, payload if self.payloads else rare.ELSEWHERE
        except TarError as error:
            error.member = header.name.decode("utf-8", "surrogateescape")
            raise
        members.append((header.name, self.begin, data, size, payload))

    def sparse(self, block: bytes) -> tuple[int, rare.Spans]:
        """Read an old GNU sparse header and the blocks that continue it: real size, stored parts."""
        feed = self.feed
        spans = rare.old_sparse_entries(block[386:482])
        more = block[482]
        while more:
            area = bytes(feed.data(HEADER_BYTES))
            spans += rare.old_sparse_entries(area[:504])
            more = area[504]
        return rare.number(block[483:495]), spans

    def linked(self, target: bytes) -> Payload:
        """Give what a hard link stands for."""
        if not self.payloads:
            return rare.ELSEWHERE
        if self.links is None:
            raise TarError(
                "a hard link in a stream, whose target is gone by: read the tar from a local file, "
                "or write it with `tar --hard-dereference`"
            )
        return self.links.payload(target, self.begin)

    def payload(self, size: int, real: int | None, spans: rare.Spans, map_leads: bool) -> Payload:
        """Read a member's data; step over it where payloads are not asked for."""
        feed = self.feed
        after = feed.at + size + (-size & 511)
        if max(size, real or 0) > self.max_member_bytes:
            self.resume_at = after
            raise TarError(
                f"a member of {max(size, real or 0)} bytes; at most {self.max_member_bytes} are read: "
                "see --max-member if it is meant"
            )
        total = feed.source.bytes
        if total is not None and after > total:
            self.resume_at = after
            raise TarError(CUT, offset=total)
        if not self.payloads:
            feed.skip(after)
            return b""
        data = feed.data(size)
        if real is None:
            return bytes(data) if self.copy else data
        if map_leads:
            spans, at = rare.leading_sparse_entries(data)
            data = data[at:]
        whole = rare.expand_sparse(spans, data, real)
        return bytes(whole) if self.copy else whole

    def end_mark(self, at: int) -> None:
        """Step over the end mark: two blocks of zeros."""
        feed = self.feed
        if not feed.have(2 * HEADER_BYTES):
            feed.over = True
            raise TarError(
                "half of the end mark is missing, the tar is cut: fetch or write it again", offset=at
            )
        if any(feed.view[feed.pos + HEADER_BYTES : feed.pos + 2 * HEADER_BYTES]):
            self.resume_at = at + HEADER_BYTES
            raise TarError("a lone block of zeros between members: the tar is damaged", offset=at)
        feed.pos += 2 * HEADER_BYTES
        self.ending = True

    def padding(self) -> None:
        """Check that nothing but zeros follows the end mark."""
        feed = self.feed
        self.ending = False
        while feed.have(1):
            rest = bytes(feed.view[feed.pos : feed.filled])
            zeros = len(rest) - len(rest.lstrip(b"\0"))
            where = feed.at + zeros
            if zeros < len(rest):
                self.resume_at = where & -HEADER_BYTES
                raise TarError(
                    "data after the end mark (concatenated tars?): split or rewrite the tar", offset=where
                )
            if where - self.begin > MAX_PADDING_BYTES:
                feed.over = True
                raise TarError("zeros without end after the end mark", offset=where)
            feed.pos = feed.filled
        feed.over = True
        if (feed.base + feed.filled) % HEADER_BYTES:
            raise TarError(
                "the tar ends inside a block of its padding: fetch or write it again",
                offset=feed.base + feed.filled,
            )

    def resume(self) -> None:
        """Go on behind a fault: where the next member must be, or at the next header that checks."""
        feed = self.feed
        if feed.over:
            return
        known = self.resume_at
        try:
            feed.skip(max(self.begin + HEADER_BYTES, feed.at) if known is None else known)
            while known is None and feed.have(HEADER_BYTES):
                if rare.checks(bytes(feed.view[feed.pos : feed.pos + HEADER_BYTES])):
                    return
                feed.pos += HEADER_BYTES
        except TarError:
            feed.over = True  # the tar ends in the damage that has been told already
        feed.over = feed.over or known is None
