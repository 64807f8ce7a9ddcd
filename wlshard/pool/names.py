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
FORMAT = "wlshard.json"

_WRITER = r"[0-9]{8}T[0-9]{6}-[A-Za-z0-9_]+-[0-9a-f]{16}"
_SHARD = re.compile(rf"({_WRITER})-([0-9]{{6,12}})-([0-9]{{1,12}})-([0-9a-f]{{32}})\.tar")
_SCRATCH = re.compile(rf"({_WRITER})-([0-9]{{6,12}})")
_SALVAGE = re.compile(rf"({_WRITER})-[0-9]{{6,12}}-salvage-[0-9a-f]{{16}}")


def new_writer() -> str:
    """Make a writer id: start time (UTC), host, 64 random bits. No dots, so that it can begin a key."""
    start = time.strftime("%Y%m%dT%H%M%S", time.gmtime(clock.now()))
    return f"{start}-{this_host()}-{os.urandom(8).hex()}"


def this_host() -> str:
    """Give this machine's name as it stands in writer ids."""
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())[:48] or "_"


def host_of(writer: str) -> str:
    """Give the host in a writer id."""
    return writer.split("-")[1]


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
        parsed = cls(found[1], int(found[2]), int(found[3]), found[4])
        return parsed if str(parsed) == name and parsed.seq > 0 else None

    def __str__(self) -> str:
        return f"{self.writer}-{self.seq:06d}-{self.samples}-{self.sha256}.tar"


def scratch_name(writer: str, seq: int) -> str:
    """Name the scratch of a writer's shard, inside the pool."""
    return f"{SHARDS}/{writer}-{seq:06d}"


def salvage_name(scratch: str) -> str:
    """Name the scratch into which the whole samples of a dead writer's scratch are copied."""
    return f"{scratch}-salvage-{os.urandom(8).hex()}"


def parse_scratch(name: str) -> tuple[str, int] | None:
    """Give writer and seq of a scratch name. None: not the scratch of a writer."""
    found = _SCRATCH.fullmatch(name.removeprefix(f"{SHARDS}/"))
    return (found[1], int(found[2])) if found else None


def salvaged_writer(name: str) -> str | None:
    """Give the writer whose samples were being copied into this scratch. None: not such scratch."""
    found = _SALVAGE.fullmatch(name.removeprefix(f"{SHARDS}/"))
    return found[1] if found else None


def manifest_name(generation: int) -> str:
    """Name the slot of a generation."""
    return f"{GENERATIONS}/{generation:010d}.json"
