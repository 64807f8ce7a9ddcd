"""Crash, look, recover as anybody would, look again: what is wrong is told, call by call."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from unittest.mock import patch

from disk import Dead, Disk
from invariants import Seen, look
from stories import about_to_retire, take_over

from wlshard.errors import NotFound, WlshardError
from wlshard.pool.accounting import TTL_S
from wlshard.pool.lease import Lease
from wlshard.pool.manifest import Manifest
from wlshard.pool.names import ScratchName, boot_id
from wlshard.pool.pool import Pool
from wlshard.store import files

KILLS = ["kill", "torn kill"]
LOSSES = ["all", "bytes", "zeros", "some", "some", "some"]
BOOT = boot_id()


def crashes(disk: Disk, place: str, losses: list[str], after: Iterable[int] | None = None) -> Iterator[str]:
    """Crash after each call, or after these only, in each way; yield what is wrong."""
    for upto in range(len(disk.calls) + 1) if after is None else after:
        for number, loss in enumerate(losses):
            for fault in after_crash(disk, upto, loss, f"{place}/crashed", number):
                yield f"call {upto} of {len(disk.calls)}, {loss}: {fault}"


def after_crash(disk: Disk, upto: int, loss: str, target: str, seed: int) -> list[str]:
    os.makedirs(target)
    disk.lay(upto, loss, target, seed)
    let_leases_end(target)
    told, power = disk.marks(upto), loss not in KILLS
    try:
        before = look(Files(target), told)
        with (
            patch("wlshard.pool.salvage.boot_id", lambda: "f" * 8 if power else BOOT),
            patch("wlshard.pool.salvage.booted_at", lambda: float("inf") if power else 0.0),
        ):
            try:
                recover(target)
            except WlshardError as error:
                return [*before.faults, f"I8: recovery needs a hand: {error}"]
        after = look(Files(target), told)
        return before.faults + after.faults + lost(before, after) + left(target)
    finally:
        shutil.rmtree(target)


def let_leases_end(root: str) -> None:
    """Let so much time go by that only pins hold."""
    for folder, _, names in os.walk(f"{root}/leases"):
        for name in names:
            past = os.stat(f"{folder}/{name}").st_mtime - 2 * TTL_S
            os.utime(f"{folder}/{name}", (past, past))


class Files(Mapping[str, bytes]):
    """The files that are below a folder now, by name; each is read when it is looked at."""

    def __init__(self, root: str) -> None:
        self._root = root
        paths = (os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names)
        self._names = dict.fromkeys(os.path.relpath(path, root) for path in paths)

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names:
            raise KeyError(name)
        with open(os.path.join(self._root, name), "rb") as file:
            return file.read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def recover(root: str) -> None:
    """Do what is done next in any case."""
    try:
        Pool(root).rotate()
    except NotFound:
        Pool(root).create().rotate()
    Pool(root).retire()


def lost(before: Seen, after: Seen) -> list[str]:
    """Compare two looks: slots stay as they were, and each sealed shard has been promoted by now."""
    faults = [
        f"I3: generation {number} changed"
        for number, (old, new) in enumerate(zip(before.slots, after.slots, strict=False))
        if old.digest != new.digest
    ]
    if len(after.slots) < len(before.slots):
        faults.append("I3: a generation went")
    returned = [stub.generation for stub in before.stubs if stub not in after.stubs]
    faults += [f"I11: generation {generation} came back" for generation in returned]
    faults += [f"I8: {name} is not swept" for name in after.unswept]
    wanted, promoted = set(before.keys(before.waiting)), set(after.keys(set(after.promoted)))
    return [*faults, *(f"I2: sample {key} was never promoted" for key in sorted(wanted - promoted))]


def left(root: str) -> list[str]:
    """List the scratch of writers that recovery left: there is none, for they are dead."""
    found = os.listdir(f"{root}/shards") if os.path.isdir(f"{root}/shards") else []
    scratch = (name for name in found if ScratchName.parse(f"shards/{name.removesuffix('.partial')}"))
    return [f"I8: {name} was left" for name in scratch]


def fails_alone(new_disk: Callable[[], Disk], place: str) -> Iterator[str]:
    """Take the power from the store's machine alone, at any call of a retirement, which goes on.

    Readers elsewhere take at once what they may, before anything else happens; yield what they miss then.
    """
    for loss in ("all", "unborn"):  # not bytes of a file that somebody has open: he would be told
        for at in range(1000):
            disk, held, faults = new_disk(), list[tuple[Lease, Manifest]](), list[str]()
            with disk.noting():
                about_to_retire(disk)
                disk.meanwhile = len(disk.calls) + at, partial(lose_and_take, disk, place, loss, held)
                try:
                    Pool(disk.root).retire()
                except NotFound:
                    pass  # what it was writing is gone
                except WlshardError as error:
                    faults.append(str(error))
            there = Files(disk.root)
            for lease, manifest in held:
                gone = [shard.name for shard in manifest.shards if f"shards/{shard.name}" not in there]
                faults += [f"I4: {name} of generation {lease.generation} is gone" for name in gone]
                lease.close()
            end_process()
            if disk.meanwhile:
                break  # it ended before
            yield from (f"call {at}, {loss}: {fault}" for fault in faults + look(there).faults)


def lose_and_take(disk: Disk, place: str, loss: str, held: list[tuple[Lease, Manifest]]) -> None:
    disk.lose_power(loss, f"{place}/left")
    pool = Pool(disk.root)
    leases = [(pool.lease(number), pool.manifest(number)) for number in pool.generations()]
    held += [pair for pair in leases if pair[0].take()]


def killed(disk: Disk, story: Callable[[Disk], None], at: int) -> bool:
    """Tell a story whose process is killed after so many calls. False: it ended before."""
    disk.dies_at = len(disk.calls) + at
    try:
        story(disk)
    except Dead:
        return True
    finally:
        disk.dies_at = None
        end_process()
    return False


def end_process() -> None:
    """Do what the system does for a process that ends: its locks go, its files stay."""
    for lock in list(files._open):
        lock.close()


def faulted(disk: Disk, story: Callable[[Disk], None]) -> Iterator[str]:
    """Tell a story in which one call fails, then go on; yield what is wrong."""
    try:
        story(disk)
    except WlshardError:
        pass
    except OSError as error:
        yield f"an error of the system's, not of ours: {error!r}"
    end_process()
    if disk.fails:
        return  # it ended before
    yield from look(Files(disk.root), disk.marks(len(disk.calls))).faults
    take_over(disk)
    recover(disk.root)
    after = look(Files(disk.root), disk.marks(len(disk.calls)))
    yield from after.faults
    yield from (f"I2: {name} was never promoted" for name in after.waiting)
    yield from left(disk.root)


def twice(
    new_disk: Callable[[], Disk],
    place: str,
    story: Callable[[Disk], None],
    kills: Iterable[int],
    another: Callable[[Disk], None] = take_over,
) -> Iterator[str]:
    """Kill a story's process at each of these calls, let another go on, and take the power from that one."""
    for at in kills:
        disk = new_disk()
        with disk.noting():
            if not killed(disk, story, at):
                return
            begun = len(disk.calls)
            another(disk)
        for fault in crashes(disk, place, LOSSES[:4], range(begun, len(disk.calls) + 1)):
            yield f"killed after {at}, then {fault}"
