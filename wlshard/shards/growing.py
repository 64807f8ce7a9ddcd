"""One shard while it grows: samples become members, members reach the scratch in large writes."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache
from zlib import adler32

from wlshard import clock
from wlshard.codecs import encode
from wlshard.errors import CodecError, GroupingError, WlshardError
from wlshard.sample import Sample
from wlshard.shards.naming import check_key, fields_of
from wlshard.shards.scratch import Scratch
from wlshard.store.base import Buffer, Draft
from wlshard.tar.header import BLOCK, END_MARK, FILE, LARGEST, checksums, header, lead, sizes
from wlshard.tar.index import IndexText

FLUSH_BYTES = 1 << 20
FLUSH_S = 0.2
# Besides the index a new file takes a block of its own and some of the folder: 4 KiB each on most disks.
ROOM_BYTES = 16384
# From here on a payload goes to the system as it is: copying it would cost more than one more part.
LARGE_BYTES = 1 << 16


@lru_cache(maxsize=4096)
def _layout(
    names: tuple[object, ...], width: int, named: bool
) -> list[tuple[str, bytes, bytes, int, str, str]]:
    """List the fields among a sample's names, sorted, and what its members have in common with others.

    Of each the end of its name, what stands behind its stem of `width` bytes and its sum (see `tar.header`),
    and how its entry in the index begins and, if `named`, ends.
    """
    found = list[tuple[str, bytes, bytes, int, str, str]]()
    for field in fields_of(names):
        suffix = b"." + field.encode("utf-8", "surrogateescape")
        word = f" {field} " if found else f"{field} "
        found.append((field, suffix, *lead(suffix, width), word, f".{field}" if named else ""))
    return found


def _flat(view: memoryview) -> Buffer:
    """Give bytes, or a flat view of the caller's memory where copying would cost."""
    if view.nbytes < LARGE_BYTES or not view.c_contiguous:
        return view.tobytes()
    return view.cast("B")


def _encode(field: str, value: object, key: str) -> Buffer:
    try:
        data = encode(field, value)
    except CodecError as error:
        error.key, error.member = key, f"{key}.{field}"
        raise
    return data if isinstance(data, bytes) else _flat(memoryview(data))


class GrowingShard:
    """Samples on their way into a draft.

    Holds up to 1 MiB of samples, and about 100 bytes a member for the index. Not locked: its writer is.
    admit: is given each sample that encodes, and raises if it may not come in.
    """

    def __init__(
        self, draft: Draft, *, sha256: bool = False, admit: Callable[[Sample], None] | None = None
    ) -> None:
        self.scratch = Scratch(draft, sha256=sha256)
        self.opened = self._flushed_at = clock.monotonic()
        self.end = 0  # bytes of all samples; the end mark comes on top
        self._admit = admit
        self._ends = array("Q")  # of each sample
        self._index = IndexText()
        self._keys: set[str] = set()
        self._pending: list[Buffer] = []
        self._large = False  # what is pending may have large parts

    @property
    def samples(self) -> int:
        return len(self._ends)

    @property
    def tar_bytes(self) -> int:
        return self.end + len(END_MARK)

    def add(self, key: object, sample: Sample, *, lasting: bool = False, most_bytes: int = 1 << 62) -> bool:
        """Take a sample, its fields sorted and encoded; after any error it is not in the shard.

        False: nor is it now, because the shard holds samples and would pass `most_bytes` with this one.
        lasting: read-only views are flat, and stay as they are while they are referred to: a reader's do.
        GroupingError: a key or field that would not split back, or a key that is there already. CodecError: a
        value that does not encode.
        """
        name, pending, start = check_key(key), self._pending, self.end
        mark, named = len(pending), self._index.names(name)
        try:
            line, end, large, urgent = self._encode(name, sample, lasting, named)
            if full := end > most_bytes - len(END_MARK) and start > 0:
                del pending[mark:]
            elif name in self._keys:
                raise GroupingError("this key is in the shard already: give each sample its own", key=name)
            elif self._admit is not None:
                self._admit(sample)
        except BaseException:
            del pending[mark:]
            raise
        if full:
            return False
        if large:
            self._large = True
        self._keys.add(name)
        self._index.add_line(line, named=named)
        self._ends.append(end)
        self.end = end
        try:
            late = end - self.scratch.end >= FLUSH_BYTES or clock.monotonic() - self._flushed_at >= FLUSH_S
            if urgent or late:
                self.flush()
        except WlshardError:
            del pending[mark:]
            self.end = start
            self._ends.pop()
            self._index.cut(self.samples)
            self._keys.discard(name)
            raise
        return True

    def _encode(self, name: str, sample: Sample, lasting: bool, named: bool) -> tuple[str, int, bool, bool]:
        """Put a sample's members to what is pending; give its line in the index, and where it ends.

        And whether some part is too large to copy, and whether one is not known to stay until a later flush.
        """
        stem, pending, at = name.encode("utf-8", "surrogateescape"), self._pending, self.end
        # adler32's low half is 1 + the byte sum modulo 65521: exact for the stem of a name that fits a block.
        stem_sum, called, line = (adler32(stem) & 0xFFFF) - 1, f" {name}" if named else "", ""
        large = urgent = False
        for field, suffix, before, before_sum, word, dotted in _layout(tuple(sample), len(stem), named):
            payload = sample[field]
            if type(payload) is memoryview:
                if not (lasting and payload.readonly):  # a copy of a small one costs more than all the rest
                    payload = _flat(payload)
            elif type(payload) is not bytes:
                payload = _encode(field, payload, name)
            size = len(payload)
            numbers, total, fill, room = sizes[size]
            if before and size <= LARGEST:
                at += BLOCK
                checksum = checksums[total + before_sum + stem_sum]
                pending += (stem, before, numbers, checksum, FILE, payload, fill)
            else:
                head = header(stem + suffix, size)
                at += len(head)
                pending += (head, payload, fill)
            line = f"{line}{word}{at} {size}{called}{dotted}"
            at += room
            if size >= LARGE_BYTES:
                large = True
                urgent = urgent or not (lasting and (type(payload) is bytes or payload.readonly))
        if not line:
            raise GroupingError("a sample without fields leaves nothing in a shard: give it one", key=name)
        return line, at, large, urgent

    def flush(self) -> None:
        """Write what is held; if the store refuses it is held on, and the scratch ends as it did before."""
        if self._pending:
            self.scratch.write(_gather(self._pending) if self._large else [b"".join(self._pending)])
            self._pending, self._large = [], False
        self._flushed_at = clock.monotonic()

    def flush_what_fits(self) -> int:
        """Write as many of the held samples as a full store takes, and give up the rest: tell how many.

        What is written leaves room for the index, or the shard could not be published.
        """
        data = memoryview(b"".join(self._pending))
        room = len(self._index.text()) + ROOM_BYTES
        base, self._pending = self.scratch.end, []
        kept = bisect_right(self._ends, base)
        for end in self._ends[kept:]:
            if not self.scratch.write_if_room(data[self.scratch.end - base : end - base], room):
                break
            kept += 1
        lost = self.samples - kept
        del self._ends[kept:]
        self._index.cut(kept)
        self.end = self.scratch.end
        return lost

    def finish(self) -> tuple[bytes, str]:
        """Give the index and the sha256 in hex ("" if not asked for) of the whole, flushed shard."""
        return self._index.text(), self.scratch.sha256()


def _gather(parts: list[Buffer]) -> list[Buffer]:
    """Join the small parts between large ones."""
    gathered: list[Buffer] = []
    start = 0
    for at in [at for at, size in enumerate(map(len, parts)) if size >= LARGE_BYTES]:
        gathered += (b"".join(parts[start:at]), parts[at])
        start = at + 1
    gathered.append(b"".join(parts[start:]))
    return gathered
