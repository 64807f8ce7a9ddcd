"""Samples from members: adjacent members with one key, strictly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from wlshard.errors import GroupingError, WlshardError
from wlshard.sample import KEY, URL, Sample
from wlshard.shards.keys import Keys
from wlshard.shards.runs import FEWEST, Run, find_run
from wlshard.shards.tally import Tally
from wlshard.tar.common import RawMember
from wlshard.tar.rare import Payload, text
from wlshard.tar.reader import Found

_MEMO = 1 << 12
_fields: dict[bytes, str] = {}  # what stands behind the first dot, in the tar's bytes: the field
_plain: dict[bytes, str] = {}  # those of them that spell the field as it is
_NO_PREFIX = b"\0"  # no name begins like this


class Grouper:
    """One shard's samples. `at`: offset of the first header of the sample handed out last.

    listing: `entries` says of each member of that sample what an index does, `field offset size name`.
    on_run: is given runs of samples, at once, which then are not yielded.
    """

    on_run: Callable[[Run], None] | None = None

    def __init__(self, url: str, tally: Tally, *, skip: bool = False, listing: bool = False) -> None:
        self.url, self.tally, self.skip, self.listing = url, tally, skip, listing
        self.at = 0
        self.entries: list[str] = []
        self._keys = Keys()
        self._sample: Sample = {}  # being put together
        self._listed: list[str] = []  # its entries
        self._key = b""  # its key; empty: there is none
        self._prefix = _NO_PREFIX  # what its members' names begin with
        self._begin = 0
        self._bad = False  # it will be dropped
        self._doubt = False  # damage lies before the next member
        self._ended = False  # the end mark has been passed
        self._refused: WlshardError | None = None

    def samples(self, steps: Iterable[Found]) -> Iterator[Sample]:
        """Yield the samples that a pass over the shard finds, in order.

        A sample is whole when another header or the end mark follows it. Without `skip` the first fault is
        raised; with it, it is counted, and the samples on both sides of damage are dropped: what is missing
        may be theirs.
        """
        tally, keys, url, listing = self.tally, self._keys, self.url, self.listing
        fields, note = _plain if listing else _fields, keys.hashes.append
        sample, prefix, width, stem, listed, calm = self._standing()
        for found in self._without_runs(steps) if listing else steps:
            limit = found.name_bytes
            for member in found.members:
                raw, begin, data, size, payload = member
                if raw.startswith(prefix):
                    field = fields.get(raw[width:limit])
                    if field is not None and field not in sample:
                        sample[field] = payload
                        if listing:
                            listed.append(f"{field} {data} {size} {stem}.{field}")
                        continue
                elif calm:  # most samples begin with a field known by now and a key that ascends
                    at = raw.rfind(b"/", 0, limit) + 1
                    dot = raw.find(b".", at, limit)
                    key, field = raw[:dot], fields.get(raw[dot + 1 : limit])
                    if field is not None and dot > at and key > keys.last and key[0] != 46 and 0 not in key:
                        self.at, self._key, self._begin, self.entries = self._begin, key, begin, listed
                        tally.samples += 1
                        yield sample
                        keys.last = key
                        note(hash(key))
                        stem = key.decode("utf-8", "surrogateescape")
                        sample = {KEY: stem, URL: url, field: payload}
                        prefix, width = raw[: dot + 1], dot + 1
                        if listing:
                            listed = [f"{field} {data} {size} {stem}.{field}"]
                        continue
                self._sample, self._prefix, self._listed = sample, prefix, listed
                done = self._take((raw[:limit], begin, data, size, payload))
                if done is not None:
                    yield done
                if self._refused is not None:
                    raise self._refused
                sample, prefix, width, stem, listed, calm = self._standing()
            if not found.members:
                self._sample, self._prefix, self._listed = sample, _NO_PREFIX, listed
                done = self._between(found)
                if done is not None:
                    del sample
                    yield done
                    done = None  # its memory is needed for the next, if nobody else holds it
                if self._refused is not None:
                    raise self._refused
                sample, prefix, width, stem, listed, calm = self._standing()
        if self._key:
            tally.dropped += 1  # nothing follows it

    def _without_runs(self, steps: Iterable[Found]) -> Iterator[Found]:
        """Take the runs out of what is found: what stands before each has been used by then."""
        for found in steps:
            on_run, run = self.on_run, None
            if on_run is not None and len(found.members) > FEWEST and self._keys.ascending:
                run = find_run(found.members, found.name_bytes, _plain)
            if on_run is None or run is None:
                yield found
                continue
            rest = found._replace(members=found.members[run.begin :])
            yield found._replace(members=found.members[: run.begin])
            if self._keys.ascending and self._keys.last < run.raw_keys[0] and not self._doubt:
                yield Found([], found.at, follows=rest.members[0][0][: found.name_bytes])
                self._keys.extend(run.raw_keys)
                self.tally.samples += len(run.keys)
                on_run(run)
                del rest.members[: run.end - run.begin]
            yield rest

    def _standing(self) -> tuple[Sample, bytes, int, str, list[str], bool]:
        """Give what `samples` goes on with: the last, whether the next sample may be taken in a hurry."""
        calm = self._keys.ascending and not self._bad and bool(self._key) and self._prefix != _NO_PREFIX
        return self._sample, self._prefix, len(self._prefix), self._sample.get(KEY, ""), self._listed, calm

    def _take(self, member: RawMember) -> Sample | None:
        """Take a member of any kind; give the sample that it shows to be whole."""
        raw, begin, data, size, payload = member
        name = text(raw)
        split = split_raw(name)
        if split is None:
            self.tally.passed(_kind(name))
            return None
        key, width = split
        done = None
        if key != self._key:
            done = self._finish()
            self._start(key, begin)
        elif self._doubt:
            self._bad, self._doubt = True, False
        self._prefix = _NO_PREFIX if self.listing and name[:1] == b"." else name[:width]
        field = self._add(name, raw[width:], begin, payload)
        if self.listing:
            self._listed.append(f"{field} {data} {size} {_text(name)}")
        return done

    def _between(self, found: Found) -> Sample | None:
        """Meet a fault, the end mark or what is announced; give the sample that it shows to be whole."""
        fault, name, done = found.fault, found.follows, None
        if fault is not None:
            self._refuse(fault)
            name = None if fault.member is None else fault.member.encode("utf-8", "surrogateescape")
        split = None if name is None else split_raw(name)
        if found.ends or (split is not None and split[0] != self._key):
            done = self._finish()
            self._key, self._sample = b"", {}
        if fault is not None:
            if split is not None and split[0] != self._key:
                self._start(split[0], fault.offset or 0)
            self._doubt = split is None and not self._ended
            self._bad = True
        self._ended = found.ends
        return done

    def _start(self, key: bytes, begin: int) -> None:
        """Begin the sample of this key."""
        self._key, self._begin = key, begin
        self._bad, self._doubt = self._doubt, False
        name = _text(key)
        self._sample, self._listed = {KEY: name, URL: self.url}, []
        if not self._keys.add(key):
            what = "the key comes back: the members of a sample must stand together, and keys be used once"
            self._refuse(GroupingError(what, url=self.url, key=name, offset=begin))
            self._bad = True

    def _add(self, name: bytes, rest: bytes, begin: int, payload: Payload) -> str:
        """Put a field into the sample; say what it is called."""
        field = _text(text(rest)).lower()
        if len(_fields) >= _MEMO:
            _fields.clear()
            _plain.clear()
        _fields[rest] = field
        if text(rest) == field.encode("utf-8", "surrogateescape"):
            _plain[rest] = field
        if field in self._sample:
            what = f"the field {field} is there twice: names differ by more than case"
            self._refuse(
                GroupingError(what, url=self.url, member=_text(name), key=self._sample[KEY], offset=begin)
            )
            self._bad = True
        else:
            self._sample[field] = payload
        return field

    def _finish(self) -> Sample | None:
        """Count the sample as handed out, and give it, or as dropped."""
        if not self._key:
            return None
        if self._bad:
            self.tally.dropped += 1
            return None
        self.at, self.entries = self._begin, self._listed
        self.tally.samples += 1
        return self._sample

    def _refuse(self, error: WlshardError) -> None:
        """Count an error, or raise it once the sample before it has been handed out."""
        if self.skip:
            self.tally.fault(error)
        elif self._refused is None:
            self._refused = error


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
