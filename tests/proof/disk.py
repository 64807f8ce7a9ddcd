"""A disk that can lose its power: what the code under test asks the system for is noted, and replayed.

The store runs on real files; every call that changes something below one folder is noted in order (as ALICE
does, Pillai et al., OSDI 2014). From the notes up to any call, `lay` writes what a crash right after it may
leave: for a killed process all of it; for a loss of power only what an fsync made durable, with some, none or
all of the rest, in pieces.

What is promised, and no more (POSIX fsync, as PostgreSQL and SQLite read it): fsync of a file makes its bytes
durable; fsync of a folder makes the names in it durable. Nothing else is, nothing keeps its order.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest.mock import patch

SECTOR = 512  # a write is torn between two of these
LONG_AGO_S = 1e9  # when the files of a crash were last written to


class Call(NamedTuple):
    """One change: `kind` make, write, cut, fsync, name, move, unname, folder, syncdir or mark."""

    kind: str
    file: int  # inode of ours
    path: str = ""  # below the disk's root
    at: int = 0
    data: bytes = b""
    site: str = ""  # for fsync: where in the project it is asked for


@dataclass
class File:
    """A file on the disk: what fsync made durable, and what was written since."""

    data: bytearray = field(default_factory=bytearray)
    durable: bytes | None = None  # None: never, so it may be gone, though its name is durable
    since: list[tuple[int, bytes | None]] = field(default_factory=list)  # at, data; None: cut there

    def change(self, at: int, data: bytes | None) -> None:
        self.since.append((at, data))
        apply(self.data, at, data)

    def sync(self) -> None:
        self.durable, self.since = bytes(self.data), []


def apply(target: bytearray, at: int, data: bytes | None) -> None:
    if data is None:
        del target[at:]
    else:
        target.extend(bytes(max(0, at - len(target))))
        target[at : at + len(data)] = data


@dataclass
class State:
    """The disk after some calls: names seen by processes, names that are durable, changes of names since."""

    files: dict[int, File] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    since: list[list[tuple[str, int | None]]] = field(default_factory=list)  # each all or nothing

    def do(self, call: Call) -> None:
        if call.kind in ("make", "folder"):
            self.files[call.file] = File()
        if call.kind in ("make", "folder", "name"):
            self.rename([(call.path, call.file)])
        elif call.kind == "unname":
            self.rename([(call.path, None)])
        elif call.kind == "move":
            self.rename([(os.fsdecode(call.data), None), (call.path, call.file)])
        elif call.kind == "write":
            self.files[call.file].change(call.at, call.data)
        elif call.kind == "cut":
            self.files[call.file].change(call.at, None)
        elif call.kind == "fsync":
            self.files[call.file].sync()
        elif call.kind == "syncdir":
            self.settle(lambda change: os.path.dirname(change[-1][0]) == call.path)

    def rename(self, change: list[tuple[str, int | None]]) -> None:
        bind(self.names, change)
        self.since.append(change)

    def settle(self, due: Callable[[list[tuple[str, int | None]]], bool]) -> None:
        for change in filter(due, self.since):
            bind(self.durable, change)
        self.since = [change for change in self.since if not due(change)]


def bind(names: dict[str, int], change: list[tuple[str, int | None]]) -> None:
    for path, file in change:
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file


class Disk:
    """Note what is done below `root` while `noting`.

    `dies_at`: the number of calls after which the process is dead. `fails`: the call that fails, how, and
    whether it is done all the same. `meanwhile`: after so many calls, what happens before the next.
    """

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self.calls: list[Call] = []
        self.dies_at: int | None = None
        self.fails: tuple[int, int, bool] | None = None  # after so many calls, errno, done
        self.meanwhile: tuple[int, Callable[[], None]] | None = None
        self.skipped_site = ""  # an fsync asked for here is left out
        self.skipped_at: list[int] = []  # after so many calls
        self._files: dict[tuple[int, int], int] = {}
        self._folders: set[int] = set()

    def mark(self, what: str) -> None:
        """Note that the code under test has said something to its caller: an acknowledgement."""
        self.calls.append(Call("mark", 0, what))

    def marks(self, upto: int) -> list[str]:
        return [call.path for call in self.calls[:upto] if call.kind == "mark"]

    def has_folder(self, name: str) -> None:
        """Begin with a durable folder."""
        fails, self.fails = self.fails, None
        os.mkdir(f"{self.root}/{name}")
        self.fails = fails
        self.calls.append(Call("syncdir", 0, ""))

    @contextmanager
    def noting(self) -> Iterator[Disk]:
        real = {name: getattr(os, name) for name in self._notes()}
        with ExitStack() as stack:
            for name, note in self._notes().items():
                stack.enter_context(patch.object(os, name, self._noted(name, real[name], note)))
            yield self

    def _notes(self) -> dict[str, Callable[..., list[Call]]]:
        return {
            "open": self._open,
            "pwritev": lambda fd, parts, at, done: self._write(fd, b"".join(map(bytes, parts))[:done], at),
            "ftruncate": lambda fd, size, _: [Call("cut", self._of(os.fstat(fd)), at=size)],
            "fsync": self._fsync,
            "link": lambda old, new, _, **__: [Call("name", self._of(os.lstat(new)), self._below(new))],
            "rename": self._move,
            "replace": self._move,
            "unlink": lambda path, _: [Call("unname", 0, self._below(path))],
            "mkdir": lambda path, *_: self._folder(path),
        }

    def _noted(
        self, name: str, real: Callable[..., Any], note: Callable[..., list[Call]]
    ) -> Callable[..., Any]:
        def call(*args: Any, **how: Any) -> Any:
            inside = self._is_inside(args[0])
            if not inside or (note == self._open and not args[1] & os.O_CREAT):
                return real(*args, **how)
            if self.dies_at is not None and len(self.calls) >= self.dies_at:
                raise Dead
            if self.meanwhile and len(self.calls) == self.meanwhile[0]:
                (_, happen), self.meanwhile = self.meanwhile, None
                happen()
            if note == self._fsync and site_of() == self.skipped_site:
                self.skipped_at.append(len(self.calls))
                return None
            fault = self.fails if self.fails and self.fails[0] == len(self.calls) else None
            if fault and not fault[2]:
                self.fails = None
                raise OSError(fault[1], os.strerror(fault[1]))
            done = real(*args, **how)
            self.calls += note(*args, done, **how)
            if fault:
                self.fails = None
                if name == "open":
                    os.close(done)
                raise OSError(fault[1], os.strerror(fault[1]))
            return done

        return call

    def _is_inside(self, where: Any) -> bool:
        path = os.readlink(f"/proc/self/fd/{where}") if isinstance(where, int) else os.path.abspath(where)
        return path == self.root or path.startswith(self.root + "/")

    def _below(self, path: str) -> str:
        return os.path.relpath(path, self.root).removeprefix(".")

    def _of(self, found: os.stat_result) -> int:
        return self._files.setdefault((found.st_dev, found.st_ino), len(self._files) + 1)

    def _open(self, path: str, _flags: int, *rest: Any) -> list[Call]:
        found = os.fstat(rest[-1])
        self._files.pop((found.st_dev, found.st_ino), None)  # the system uses numbers of deleted files again
        return [Call("make", self._of(found), self._below(path))]

    def _write(self, fd: int, data: bytes, at: int) -> list[Call]:
        return [Call("write", self._of(os.fstat(fd)), at=at, data=data)]

    def _fsync(self, fd: int, _: None) -> list[Call]:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if os.path.isdir(path):
            return [Call("syncdir", 0, self._below(path), site=site_of())]
        return [Call("fsync", self._of(os.fstat(fd)), site=site_of())]

    def _move(self, old: str, new: str, _: None) -> list[Call]:
        return [Call("move", self._of(os.lstat(new)), self._below(new), data=os.fsencode(self._below(old)))]

    def _folder(self, path: str) -> list[Call]:
        number = self._of(os.stat(path))
        self._folders.add(number)
        return [Call("folder", number, self._below(path))]

    def lose_power(self, loss: str, place: str) -> None:
        """Lose it now, and come back; processes elsewhere live on."""
        os.mkdir(place)
        self.lay(len(self.calls), loss, place)
        shutil.rmtree(self.root)
        os.rename(place, self.root)

    def lay(self, upto: int, loss: str, target: str, seed: int = 0) -> None:
        """Write into `target` what is there after so many calls and a crash.

        loss: "kill", and "torn kill" in the midst of a write; of power "all" that is not durable, "bytes" but
        not names, "zeros" where bytes were to be, "some" of each, drawn by `seed`; "unborn": all, and files
        none of whose bytes ever were.
        """
        state, draw = State(), random.Random(f"{upto} {seed}")
        calls = self.calls[:upto]
        if loss == "torn kill" and calls and calls[-1].kind == "write":
            calls[-1] = calls[-1]._replace(data=calls[-1].data[: draw.randrange(len(calls[-1].data) + 1)])
        for call in calls:
            state.do(call)
        names = dict(state.names) if loss in ("kill", "torn kill", "bytes", "zeros") else dict(state.durable)
        if loss == "some":
            for change in state.since:
                if draw.random() < 0.5:
                    bind(names, change)
        for path in sorted(names):
            if names[path] in self._folders:
                os.makedirs(os.path.join(target, path), exist_ok=True)
        for path, number in names.items():
            place = os.path.join(target, path)
            if number in self._folders or not os.path.isdir(os.path.dirname(place)):
                continue  # a name in a folder whose own name was lost is lost with it
            if loss == "unborn" and state.files[number].durable is None:
                continue
            with open(place, "wb") as file:
                file.write(survivor(state.files[number], loss, draw))
            if not path.startswith("leases/"):  # which are as fresh as they were
                os.utime(place, (LONG_AGO_S, LONG_AGO_S))


def survivor(file: File, loss: str, draw: random.Random) -> bytes:
    """Give the bytes of a file after a crash."""
    if loss in ("kill", "torn kill"):
        return bytes(file.data)
    data = bytearray(file.durable or b"")
    if loss == "zeros":
        return bytes(data[: len(file.data)]) + bytes(max(0, len(file.data) - len(data)))
    if loss == "some":
        for at, part in file.since:
            if part is None:
                if draw.random() < 0.5:
                    apply(data, at, None)
                continue
            for begin in range(0, len(part), SECTOR):
                if draw.random() < 0.5:
                    apply(data, at + begin, part[begin : begin + SECTOR])
    return bytes(data)


class Dead(BaseException):
    """The process was killed: nothing may catch this but the test."""


def site_of() -> str:
    """Name the place in the project that asks for this fsync, through the store: the rooms see no disk."""
    import sys

    frame, names = sys._getframe(1), []
    while frame is not None and len(names) < 6:
        path = frame.f_code.co_filename
        if "/wlshard/" in path and not path.endswith("_layers.py"):
            where = path.rpartition("/wlshard/")[2]
            names.append(f"{where}:{frame.f_code.co_name}:{frame.f_lineno}")
            if not where.startswith("store/"):
                break
        frame = frame.f_back
    return " < ".join(names)
