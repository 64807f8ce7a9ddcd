"""Names in a pool: a shard's name says all that rotation must know, a writer's who it was and where."""

from __future__ import annotations

import os
import re
import socket
import time
from typing import NamedTuple, Self

from wlshard import clock

SHARDS = "shards"
GENERATIONS = "generations"
LEASES = "leases"
CONDEMNED = "condemned"
CHOICES = "choices"
SETTINGS = "wlshard.json"
GENERATION = re.compile(r"(.+)@([0-9]{1,10})")  # POOL@n, for readers

_WRITER = r"[0-9]{8}T[0-9]{6}-[A-Za-z0-9_]+-[0-9a-f]{16}"
_SEQ = r"(?!0{6}-)(?:[0-9]{6}|[1-9][0-9]{6,11})"
_SHARD = re.compile(rf"({_WRITER})-({_SEQ})-(0|[1-9][0-9]{{0,11}})-([0-9a-f]{{32}})\.tar")
_SCRATCH = re.compile(rf"{SHARDS}/({_WRITER})-([0-9]{{6,12}})-([0-9a-f]{{8}})(-salvage-[0-9a-f]{{16}})?")


def new_writer() -> str:
    """Make a writer id: start time (UTC), host, 64 random bits. No dots, so that it can begin a key."""
    start = time.strftime("%Y%m%dT%H%M%S", time.gmtime(clock.now()))
    return f"{start}-{this_host()}-{os.urandom(8).hex()}"


def this_host() -> str:
    """Give this machine's name as it stands in writer ids."""
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())[:64] or "_"


def boot_id() -> str:
    """Give 8 hex digits that are new at each start of this machine, and the same in all its containers."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as text:
            return text.read(8)
    except OSError:
        return "0" * 8


def host_of(writer: str) -> str:
    """Give the host in a writer id."""
    return writer.split("-")[1]


def writer_of(name: str) -> str:
    """Give the writer in a shard's name."""
    return name.rsplit("-", 3)[0]


def samples_in(name: str) -> int | None:
    """Give the samples that a shard's name tells, without taking it apart. None: no shard of ours."""
    found = _SHARD.fullmatch(name)
    return None if found is None else int(found[3])


class ShardName(NamedTuple):
    """`<writer>-<seq>-<samples>-<32 hex of the tar's sha256>.tar`; seq counts the writer's shards from 1."""

    writer: str
    seq: int
    samples: int
    sha256: str

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Take a basename apart. None: no shard of ours."""
        found = _SHARD.fullmatch(name)
        if found is None:
            return None
        return cls(found[1], int(found[2]), int(found[3]), found[4])

    def __str__(self) -> str:
        return f"{self.writer}-{self.seq:06d}-{self.samples}-{self.sha256}.tar"


class ScratchName(NamedTuple):
    """`shards/<writer>-<seq>-<boot id>`; a salvager's copy of such scratch has `-salvage-<hex>` behind it."""

    writer: str
    seq: int
    boot: str
    copy: str = ""

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Take a name inside the pool apart. None: not the scratch of a writer."""
        found = _SCRATCH.fullmatch(name)
        return cls(found[1], int(found[2]), found[3], found[4] or "") if found else None

    def __str__(self) -> str:
        return f"{SHARDS}/{self.writer}-{self.seq:06d}-{self.boot}{self.copy}"


def scratch_name(writer: str, seq: int) -> str:
    """Name the scratch of a writer's shard, inside the pool."""
    return str(ScratchName(writer, seq, boot_id()))


def manifest_name(generation: int) -> str:
    """Name the slot of a generation."""
    return f"{GENERATIONS}/{generation:010d}.json"


def condemned_name(generation: int) -> str:
    """Name the mark after which no reader may take up a generation."""
    return f"{CONDEMNED}/{generation:010d}"


def lease_name(generation: int, holder: str = "") -> str:
    """Name a reader's lease and note, or a pin, on a generation; the folder of all of them, with a slash."""
    return f"{LEASES}/{generation:010d}/{holder and holder + '.json'}"
