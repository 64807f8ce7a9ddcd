"""What a dead writer left: whole samples are sealed under its own id and number, a torn one is dropped."""

from __future__ import annotations

import hashlib
import logging
from typing import NamedTuple

from wlshard.errors import AccessDenied, StoreUnavailable, TarError
from wlshard.pool.names import (
    SHARDS,
    ShardName,
    host_of,
    parse_scratch,
    salvage_name,
    salvaged_writer,
    this_host,
)
from wlshard.pool.seal import seal
from wlshard.sample import split_name
from wlshard.store.base import Entry, Reader, Store, object_url
from wlshard.tar.header import END_MARK, padding
from wlshard.tar.index import format_index, locate_samples
from wlshard.tar.reader import read_members

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20


def salvage(store: Store) -> list[str]:
    """Seal what dead writers of this machine left in their scratch; give the shards' names.

    Equal scratch gives equal shards, and it is deleted last: dying on the way, or doing this twice at once,
    changes nothing. What the store does not let us seal now, on a full disk say, waits for the next time.
    """
    sealed = []
    for entry in list(store.drafts(f"{SHARDS}/")):
        copied_from = salvaged_writer(entry.name)
        if copied_from is not None and host_of(copied_from) == this_host():
            store.drop(entry.name)  # by a salvager that died, too; what it copied is still there
        place = parse_scratch(entry.name)
        if place is None or host_of(place[0]) != this_host():
            continue  # locks do not reach other machines on every file system: those look after their own
        try:
            name = _seal_whole(store, entry, *place)
        except (StoreUnavailable, AccessDenied) as error:
            log.warning("what a dead writer left in %s cannot be sealed now: %s", entry.name, error)
            continue
        if name is not None:
            sealed.append(str(name))
    return sealed


def _seal_whole(store: Store, entry: Entry, writer: str, seq: int) -> ShardName | None:
    url = object_url(store.url, entry.name)
    reader = store.reopen(entry.name)
    if reader is None:
        return None  # another salvager was first
    with reader:
        if store.can.local and entry.mtime < booted_at():
            log.warning("%s was not yet on disk when this machine went down: it is dropped", url)
            whole = _Whole([], 0)
        else:
            whole = _whole_samples(reader, url)
        if not whole.members:
            store.drop(entry.name)
            return None
    return _copy_and_seal(store, entry.name, whole, writer, seq)


class _Whole(NamedTuple):
    """The members of whole samples, (name, offset of the data, size), and where they end."""

    members: list[tuple[str, int, int]]
    end: int


def _whole_samples(reader: Reader, url: str) -> _Whole:
    """Find the samples that something valid follows: another sample's header, or the end mark."""
    members: list[tuple[str, int, int]] = []
    try:
        for member in read_members(reader, url):
            members.append((member.name, member.data, member.size))  # noqa: PERF401 — it may break off
    except TarError as fault:
        log.info("the last sample of %s is torn: %s", url, fault)
        # A member that is cut has had its header: if that begins a sample, the one before it is whole.
        torn = _key(fault.member) if fault.member is not None else members and _key(members[-1][0])
        while members and _key(members[-1][0]) == torn:
            members.pop()
    if not members:
        return _Whole([], 0)
    _, data, size = members[-1]
    return _Whole(members, data + size + padding(size))


def _key(member: str) -> str:
    parts = split_name(member)
    return parts[0] if parts else ""


def _copy_and_seal(store: Store, scratch: str, whole: _Whole, writer: str, seq: int) -> ShardName | None:
    reader = store.reopen(scratch)
    if reader is None:
        return None  # another salvager came between our two passes
    samples = locate_samples(whole.members)
    with reader, store.draft(salvage_name(scratch)) as draft:
        digest, block, left = hashlib.sha256(), memoryview(bytearray(BLOCK_BYTES)), whole.end
        while left:
            part = block[: reader.readinto(block[: min(left, BLOCK_BYTES)])]
            digest.update(part)
            draft.write([part])
            left -= len(part)
        digest.update(END_MARK)
        draft.write([END_MARK])
        name = ShardName(writer, seq, len(samples), digest.hexdigest()[:32])
        if not seal(store, draft, name, draft.bytes, format_index(samples)):
            log.warning("%s holds other bytes than its name says: the scratch stays", name)
            return None
        log.info("sealed %d samples of a writer that died: %s", len(samples), name)
        store.drop(scratch)
    return name


def booted_at() -> float:
    """Give when this machine was started, seconds since the epoch; 0 where the system does not say.

    What a writer had not synced before that may read back as zeros: such samples are not whole.
    """
    try:
        with open("/proc/stat", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("btime "):
                    return float(line.split()[1])
    except OSError:
        pass
    return 0.0
