"""Samples from members: adjacent members with one key, strictly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from wlshard.errors import GroupingError, TarError, WlshardError
from wlshard.sample import KEY, URL, Sample
from wlshard.shards.keys import Keys
from wlshard.shards.tally import Tally
from wlshard.tar.rare import Payload
from wlshard.tar.reader import Batch

_MEMO = 1 << 12
_NO_PREFIX = b"\0"  # no name begins like this


class Grouper:
    """One shard's samples. `at`: offset of the first header of the sample handed out last."""

    def __init__(self, url: str, tally: Tally, *, skip: bool = False) -> None:
        self.url, self.tally, self.skip = url, tally, skip
        self.at = 0
        self._keys = Keys()
        self._fields: dict[bytes, str] = {}  # what follows the first dot, as it stands: the field
        self._key = b""  # of the sample being put together; empty: there is none
        self._begin = 0
        self._bad = False  # it will be dropped
        self._doubt = False  # damage lies before the next member
        self._ended = False  # the end mark has been passed

    def samples(self, batches: Iterable[Batch]) -> Iterator[Sample]:
        """Yield the samples these members make, in order.

        A sample is whole when another header or the end mark follows it. Without `skip` the first fault is
        raised; with it, it is counted, and the samples on both sides of damage are dropped: what is missing
        may be theirs.
        """
        fields, tally = self._fields, self.tally
        prefix, width = _NO_PREFIX, 1
        sample: Sample = {}
        for members, fault, _, announced in batches:
            for name, begin, _, _, payload in members:
                if name.startswith(prefix):
                    field = fields.get(name[width:])
                    if field is not None and field not in sample:
                        sample[field] = payload
                        continue
                split = split_raw(name)
                if split is None:
                    tally.passed(_kind(name))
                    continue
                key, width = split
                if key != self._key:
                    if self._whole():
                        yield sample
                    sample = self._start(key, begin)
                elif self._doubt:
                    self._bad, self._doubt = True, False
                prefix = name[:width]
                self._add(sample, name[width:], begin, payload)
            if fault is not None:
                harmed = self._damaged(fault)
                if harmed and harmed != self._key:
                    if self._whole():
                        yield sample
                    sample = self._start(harmed, fault.offset or 0)
                self._bad, prefix = True, _NO_PREFIX
            elif announced is not None:
                split = split_raw(announced)
                if split is not None and split[0] != self._key:
                    if self._whole():
                        yield sample
                    self._key, prefix, sample = b"", _NO_PREFIX, {}
            elif not members:
                if self._whole():
                    yield sample
                self._key, self._ended, prefix = b"", True, _NO_PREFIX
        if self._key:
            self.tally.dropped += 1  # nothing follows it

    def _start(self, key: bytes, begin: int) -> Sample:
        """Begin the sample of this key."""
        self._key, self._begin = key, begin
        self._bad, self._doubt = self._doubt, False
        name = _text(key)
        if not self._keys.add(key):
            what = "the key comes back: the members of a sample must stand together, and keys be used once"
            self._refuse(GroupingError(what, url=self.url, key=name, offset=begin))
            self._bad = True
        return {KEY: name, URL: self.url}

    def _add(self, sample: Sample, raw: bytes, begin: int, payload: Payload) -> None:
        """Put a field into the sample."""
        field = self._fields.get(raw)
        if field is None:
            if len(self._fields) >= _MEMO:
                self._fields.clear()
            field = self._fields[raw] = _text(raw).lower()
        if field in sample:
            member = f"{sample[KEY]}.{_text(raw)}"
            what = f"the field {field} is there twice: names differ by more than case"
            self._refuse(GroupingError(what, url=self.url, member=member, key=sample[KEY], offset=begin))
            self._bad = True
            return
        sample[field] = payload

    def _whole(self) -> bool:
        """Count the sample as handed out, or as dropped."""
        if not self._key:
            return False
        if self._bad:
            self.tally.dropped += 1
            return False
        self.at = self._begin
        self.tally.samples += 1
        return True

    def _damaged(self, fault: TarError) -> bytes:
        """Meet a fault; give the key of the only sample it harms, empty if that is not known."""
        self._refuse(fault)
        split = None if fault.member is None else split_raw(fault.member.encode("utf-8", "surrogateescape"))
        if split is None:
            self._doubt = not self._ended
        self._ended = False
        return split[0] if split else b""

    def _refuse(self, error: WlshardError) -> None:
        if not self.skip:
            raise error
        self.tally.fault(error)


def split_raw(name: bytes) -> tuple[bytes, int] | None:
    """Split a name as it stands in a tar: the key, and where the field begins. None: it is of no sample."""
    start = name.rfind(b"/") + 1
    dot = name.find(b".", start)
    if dot <= start or dot == len(name) - 1:
        return None
    key = name[:dot]
    while key.startswith(b"./"):
        key = key[2:]
    return key, dot + 1


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _kind(name: bytes) -> str:
    """Name what a member is that belongs to no sample."""
    base = name[name.rfind(b"/") + 1 :]
    if base.startswith(b"._"):
        return "AppleDouble files"
    return "dotfiles" if base.startswith(b".") else "names without a field"
