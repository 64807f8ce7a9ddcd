"""An index read along with its tar: every line is compared with the sample that it speaks of."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wlshard.errors import TarError, printable
from wlshard.sample import KEY, Sample, split_name
from wlshard.shards.runs import Run
from wlshard.store.base import Reader
from wlshard.store.connect import locate
from wlshard.tar.index import DIGITS, WIDTHS, index_name, without_name

_LINE_BYTES = 1 << 24  # no sample has so many members
_SHOWN = 200  # characters of a line


class IndexBeside:
    """The index of a shard. Give it the whole samples in order, then `end`; faults are told, not raised.

    Holds one line.
    """

    def __init__(self, read_line: Callable[[int], bytes], url: str, tell: Callable[[TarError], None]) -> None:
        self._read_line, self._url, self._tell = read_line, url, tell
        self._number, self._line = 0, ""
        self._next()
        head = self._line.split()
        known = (
            len(head) == 2 and head[0].encode("utf-8", "surrogateescape") in WIDTHS and _is_number(head[1])
        )
        self._width, self._announced = (WIDTHS[head[0].encode()], int(head[1])) if known else (0, 0)
        if known:
            self._next()
        else:
            self._fault("not `v1.2 <samples>` or `v1.1 <samples>`, so that nothing was compared")

    def compare(self, sample: Sample, entries: list[str]) -> None:
        """Compare the next whole sample, whose entries are these."""
        line = " ".join(entries if self._width == 4 else map(without_name, entries)) + "\n"
        if self._line == line:
            self._next()
        else:
            self._differs(sample[KEY], line, list(sample)[2])

    def compare_run(self, run: Run) -> None:
        """Compare the next whole samples."""
        for key, line in zip(run.keys, run.lines(self._width == 4, "\n"), strict=True):
            if self._line == line:
                self._next()
            else:
                self._differs(key, line, run.fields[0])

    def _differs(self, key: str, line: str, field: str) -> None:
        """Tell how a sample is not what comes next. field: its first, which may hold blanks."""
        if not self._width:
            return
        begin = int(line[len(field) + 1 :].split(" ", 1)[0])
        found = self._skip_to(begin)
        if found is None or found > begin:
            self._fault("this sample is not in it", key, begin)
            return
        if self._as_ours(self._line) != self._as_ours(line):
            self._fault(f"it says `{_shown(self._line)}`, the tar `{_shown(line)}`", key, begin)
        self._next()

    def end(self) -> None:
        """Tell what the index speaks of and the tar has not."""
        if self._width:
            self._skip_to(1 << 62)
            if self._number - 2 != self._announced:
                self._fault(f"{self._announced} samples are announced, {self._number - 2} lines follow")

    def _skip_to(self, begin: int) -> int | None:
        """Give where the next sample that does not begin before that has its data; tell those that do."""
        while self._line:
            words = self._line.split()
            if len(words) < 3 or not _is_number(words[1]):
                self._fault("no offset of a member")
            elif int(words[1]) >= begin:
                return int(words[1])
            else:
                self._fault("no whole sample of the tar begins where it says", offset=int(words[1]))
            self._next()
        return None

    def _as_ours(self, line: str) -> str:
        """Give a line as we would write it: wds2idx leaves extensions, and names with `./`, as they are."""
        words = line.split(" ")
        words[:: self._width] = [word.lower() for word in words[:: self._width]]
        for at in range(3, len(words), self._width) if self._width == 4 else ():
            key, field = split_name(words[at].rstrip("\n")) or ("", "")
            words[at] = f"{re.sub('^(./)+', '', key)}.{field}" + "\n" * words[at].endswith("\n")
        return " ".join(words)

    def _next(self) -> None:
        self._number += 1
        self._line = self._read_line(_LINE_BYTES).decode("utf-8", "surrogateescape")

    def _fault(self, what: str, key: str | None = None, offset: int | None = None) -> None:
        message = f"index, line {self._number}: {what}; delete the index or write it again"
        self._tell(TarError(message, url=self._url, key=key, offset=offset))


@contextmanager
def index_beside(url: str, tell: Callable[[TarError], None]) -> Iterator[IndexBeside]:
    """Open the index beside a shard. NotFound, AccessDenied: there is none."""
    store, name = locate(url)
    with store.open(index_name(name)) as reader:
        lines = io.BufferedReader(_Raw(reader), 1 << 16)
        yield IndexBeside(lines.readline, url, tell)


class _Raw(io.RawIOBase):
    """What Python's buffered reader wants of one of ours."""

    def __init__(self, reader: Reader) -> None:
        self.readinto = reader.readinto  # type: ignore[assignment]

    def readable(self) -> bool:
        return True


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= DIGITS


def _shown(line: str) -> str:
    return printable(line[:_SHOWN].rstrip("\n"))
