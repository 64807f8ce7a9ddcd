"""What a dead writer left: whole samples are sealed under its own id and number, a torn one is dropped."""

from __future__ import annotations

import logging
import os

from wlshard.errors import AccessDenied, StoreUnavailable, TarError
from wlshard.pool.names import SHARDS, ScratchName, ShardName, boot_id, host_of, this_host
from wlshard.pool.seal import seal
from wlshard.sample import split_name
from wlshard.shards.scratch import Scratch
from wlshard.store.base import Entry, Reader, Store, object_url
from wlshard.tar.header import padding
from wlshard.tar.index import format_index, locate_samples
from wlshard.tar.reader import read_members

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20
STALE_S = 86_400.0  # what was not written to for so long is of the dead, where locks cannot tell

Members = list[tuple[str, int, int]]  # name, offset of the data, size


def salvage(store: Store) -> list[str]:
    """Seal what dead writers of this machine left in scratch, or others a day ago; give the shards' names.

    Equal scratch gives equal shards, and it is deleted last: dying on the way, or doing this twice at once,
    changes nothing. What the store does not let us seal now, on a full disk say, waits for the next time.
    """
    sealed = []
    for entry in list(store.drafts(f"{SHARDS}/")):
        scratch = ScratchName.parse(entry.name)
        if scratch is None or not (_is_ours(scratch) or entry.mtime < store.now() - STALE_S):
            continue  # locks do not reach other machines on every file system: those look after their own
        try:
            if scratch.copy:
                store.drop(entry.name)  # by a salvager that died, too; what it copied is still there
            elif name := _seal_whole(store, entry, scratch):
                sealed.append(str(name))
        except (StoreUnavailable, AccessDenied) as error:
            log.warning("what a dead writer left in %s cannot be sealed now: %s", entry.name, error)
    return sealed


def _is_ours(scratch: ScratchName) -> bool:
    return scratch.boot == boot_id() or host_of(scratch.writer) == this_host()


def _seal_whole(store: Store, entry: Entry, scratch: ScratchName) -> ShardName | None:
    url = object_url(store.url, entry.name)
    reader = store.reopen(entry.name)
    if reader is None:
        return None  # another salvager was first
    with reader:
        if _is_ours(scratch) and scratch.boot != boot_id() and entry.mtime < booted_at():
            log.warning("%s was not yet on disk when this machine went down: it is dropped", url)
            members = []
        else:
            members = _whole_samples(reader, url)
        if not members:
            store.drop(entry.name)
            return None
    reader = store.reopen(entry.name)
    if reader is None:
        return None  # another salvager came between our two passes
    with reader:
        return _copy_and_seal(store, reader, scratch, members)


def _whole_samples(reader: Reader, url: str) -> Members:
    """Find the samples that something valid follows: another sample's header, or the end mark."""
    members: Members = []
    try:
        for member in read_members(reader, url):
            members.append((member.name, member.data, member.size))
    except TarError as fault:
        log.info("the last sample of %s is torn: %s", url, fault)
        # A member that is cut has had its header: if that begins a sample, the one before it is whole.
        torn = _key(fault.member) if fault.member is not None else members and _key(members[-1][0])
        while members and _key(members[-1][0]) == torn:
            members.pop()
    return members


def _key(member: str) -> str:
    parts = split_name(member)
    return parts[0] if parts else ""


def _copy_and_seal(store: Store, reader: Reader, scratch: ScratchName, members: Members) -> ShardName | None:
    samples = locate_samples(members)
    _, data, size = members[-1]
    left = data + size + padding(size)
    block = memoryview(bytearray(BLOCK_BYTES))
    with store.draft(str(scratch._replace(copy=f"-salvage-{os.urandom(8).hex()}"))) as draft:
        copy = Scratch(draft, sha256=True)
        while left:
            part = block[: reader.readinto(block[: min(left, BLOCK_BYTES)])]
            copy.write([part])
            left -= len(part)
        name = ShardName(scratch.writer, scratch.seq, len(samples), copy.sha256()[:32])
        if not seal(store, draft, name, draft.bytes, format_index(samples)):
            log.warning("%s holds other bytes than its name says: the scratch stays", name)
            return None
    log.info("sealed %d samples of a writer that died: %s", len(samples), name)
    store.drop(str(scratch))
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
