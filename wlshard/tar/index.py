"""The index beside a shard: DALI's `wds2idx` text format, v1.2 (v1.1 where a name holds a blank).

First line: version and number of samples. Then a line a sample: `ext offset size name` for each of its
members, `offset` being that of the member's data from the start of the tar; v1.1 leaves `name` out.
Source: https://github.com/NVIDIA/DALI/blob/main/tools/wds2idx.py
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO

from wlshard.errors import TarError
from wlshard.sample import split_name
from wlshard.tar.header import BLOCK

Located = tuple[str, int, int, str]  # extension, offset of the data, size, name

WIDTHS = {b"v1.1": 3, b"v1.2": 4}
DIGITS = 18  # of an offset: below 10**18 the sum of two stays below 2**63


class Index:
    """Where the samples of a shard lie: sample i is the bytes starts[i] … starts[i + 1] of the tar.

    A span begins where the sample before it ends, so it holds all headers of its members (PAX records, long
    names) and any directories or dotfiles between them. 8 bytes a sample.
    """

    __slots__ = ("starts", "url")

    def __init__(self, url: str, starts: array[int]) -> None:
        self.url = url
        self.starts = starts

    @property
    def samples(self) -> int:
        return len(self.starts) - 1


class SizedShard(str):
    """The URL of a shard of which a listing has told the size: it needs no look at it."""

    bytes: int


class ListedShard(SizedShard):
    """The URL of a shard that the index of its data set knows: neither do its samples."""

    known: Index


def index_name(shard_name: str) -> str:
    """Name the index of a shard: its name up to the basename's first dot, and `.idx`."""
    folder, slash, base = shard_name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}.idx"


class IndexText:
    """An index as it is written, sample by sample; holds the whole text, about 40 bytes a member.

    Names are left out (v1.1) once there is one with a blank.
    """

    __slots__ = ("_lines", "_named")

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._named = True

    @property
    def samples(self) -> int:
        return len(self._lines)

    def names(self, key: str) -> bool:
        """Tell whether the line of a sample with this key, the next one, is written with names."""
        return self._named and (key.isalnum() or key.split() == [key])

    def add_line(self, line: str, *, named: bool) -> None:
        """Add a sample by its line, `ext offset size name` for each member; without names unless `named`."""
        if self._named and not named:
            self._named = False
            self._lines = [_without_names(line) for line in self._lines]
        self._lines.append(line)

    def add(self, key: str, entries: Sequence[str]) -> None:
        """Add a sample by its members' entries, `ext offset size name`; a name: the key, and `.ext`."""
        named = self.names(key)
        self.add_line(" ".join(entries if named else map(without_name, entries)), named=named)

    def extend(self, keys: Sequence[str], lines: Callable[[bool], list[str]]) -> None:
        """Add samples by their keys; lines(named) gives what is written of them."""
        if self._named and " ".join(keys).split() != keys:
            self._named = False
            self._lines = [_without_names(line) for line in self._lines]
        self._lines += lines(self._named)

    def cut(self, samples: int) -> None:
        """Forget all but the first samples."""
        del self._lines[samples:]

    def text(self) -> bytes:
        head = f"{'v1.2' if self._named else 'v1.1'} {len(self._lines)}"
        return "\n".join([head, *self._lines, ""]).encode("utf-8", "surrogateescape")


def _without_names(line: str) -> str:
    words = line.split(" ")
    del words[3::4]
    return " ".join(words)


def without_name(entry: str) -> str:
    """Leave the name out of a member's entry."""
    return " ".join(entry.split(" ", 3)[:3])


def without_names(text: bytes) -> bytes:
    """Give an index, v1.1 or v1.2, as v1.1."""
    head, _, lines = text.decode("utf-8", "surrogateescape").partition("\n")
    if head.startswith("v1.2 "):
        lines = "".join([_without_names(line) + "\n" for line in lines.split("\n")[:-1]])
    return f"v1.1{head[4:]}\n{lines}".encode("utf-8", "surrogateescape")


def format_index(samples: Iterable[Sequence[Located]]) -> bytes:
    """Write the index of these samples, given in the order of the tar. Holds all of them in memory."""
    held = list(samples)
    named = all(name.split() == [name] for sample in held for *_, name in sample)
    version, width = ("v1.2", 4) if named else ("v1.1", 3)
    lines = [" ".join([str(word) for member in sample for word in member[:width]]) for sample in held]
    return "\n".join([f"{version} {len(held)}", *lines, ""]).encode("utf-8", "surrogateescape")


def locate_samples(members: Iterable[tuple[str, int, int]]) -> list[list[Located]]:
    """Group members, `(name, offset of the data, size)` in tar order, into what `format_index` writes.

    Names that belong to no sample are left out. An extension with a blank is a TarError: the format separates
    by blanks.
    """
    samples: list[list[Located]] = []
    last = None
    for name, offset, size in members:
        parts = split_name(name)
        if parts is None:
            continue
        key, ext = parts
        if ext.split() != [ext]:
            raise TarError("a blank in the field's name: no index can hold it", member=name, offset=offset)
        if key != last:
            samples.append([])
            last = key
        samples[-1].append((ext, offset, size, name))
    return samples


def parse_index(data: bytes, url: str) -> Index:
    """Parse an index. TarError names the line where it is not what `wds2idx` or we would write.

    A sample ends where its last member does, so only that member's numbers are read: 1 µs a sample. Whoever
    reads a span finds out whether the rest of its line was right.
    """
    lines = BytesIO(data)  # one at a time: an index has as many as its shard has samples
    head = lines.readline().split()
    if len(head) != 2 or head[0] not in WIDTHS or not head[1].isdigit() or len(head[1]) > DIGITS:
        raise _fault(url, 1, "not `v1.2 <samples>` or `v1.1 <samples>`")
    width, samples = WIDTHS[head[0]], int(head[1])
    starts = array("Q", bytes(8))
    end = 0
    for number, line in enumerate(lines, 2):
        words = line.rstrip(b"\n").rsplit(b" ", width - 1)
        if len(words) != width or (line.count(b" ") + 1) % width:
            raise _fault(url, number, f"not {width} words for each member")
        offset, size = words[1], words[2]
        if not (offset.isdigit() and size.isdigit() and len(offset) <= DIGITS >= len(size)):
            raise _fault(url, number, "offset or size is not a number of bytes")
        at = int(offset)
        if at % BLOCK or at < end + BLOCK:
            raise _fault(url, number, f"no member can have its data at byte {at}")
        end = at + int(size)
        end += -end % BLOCK
        starts.append(end)
    index = Index(url, starts)
    if index.samples != samples:
        advice = f"{samples} samples are announced, {index.samples} lines follow"
        raise _fault(url, index.samples + 1, advice)
    return index


def _fault(url: str, line: int, message: str) -> TarError:
    return TarError(f"index, line {line}: {message}; delete the index or write it again", url=url)
