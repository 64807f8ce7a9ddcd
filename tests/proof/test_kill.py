"""Real processes on real files, killed at random: no sealed sample is lost, twice or torn."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from time import monotonic

import pytest
from actors import looked_at, payload
from crash import Files
from invariants import look

from wlshard.pool.pool import Pool
from wlshard.shards.reader import read_samples

CAST = ["generator"] * 4 + ["rotator"] * 2 + ["sweeper"] * 2 + ["reader"] * 3


class Loop:
    """The processes, what they said, and what was promoted, looked up before it is retired."""

    def __init__(self, root: Path, seed: int) -> None:
        self.pool = Pool(str(root)).create(keep=5)
        self.draw = Random(seed)
        self.started = self.killed = 0
        self.said: Counter[str] = Counter()
        self.faults: list[str] = []
        self.sealed: dict[str, tuple[str, int]] = {}  # shard → who, after how many samples
        self.promoted: dict[str, list[str]] = {}  # shard → its keys
        self.looked_at = 0
        self.look_up()
        self.cast = [self.start(role) for role in CAST]

    def start(self, role: str) -> tuple[str, subprocess.Popen]:
        self.started += 1
        script = str(Path(__file__).with_name("actors.py"))
        command = [sys.executable, script, role, self.pool.url, f"{role}-{self.started:04d}"]
        return role, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def kill_one(self) -> None:
        """Let a few things happen, then kill somebody in the midst of something, and start him anew."""
        for _ in range(self.draw.randrange(1, 6)):
            self.hear()
        number = self.draw.randrange(len(self.cast))
        role, process = self.cast[number]
        process.kill()
        self.drain(process)
        self.said["killed " + role] += 1
        self.killed += 1
        self.cast[number] = self.start(role)

    def hear(self) -> None:
        pipes = {process.stdout: process for _, process in self.cast}
        ready, _, _ = select.select(list(pipes), [], [], 60)
        assert ready, "nobody has done anything for a minute"
        for pipe in ready:
            line = pipe.readline().decode()
            assert line, f"a process ended by itself: {pipes[pipe].args} {pipes[pipe].wait()}"
            self.note(line)
        self.look_up()

    def drain(self, process: subprocess.Popen) -> None:
        assert process.stdout is not None
        with process.stdout as pipe:
            for line in pipe:
                if line.endswith(b"\n"):
                    self.note(line.decode())
        assert process.wait() == -signal.SIGKILL

    def note(self, line: str) -> None:
        what, *words = line.split()
        self.said[what] += 1
        if what == "sealed":
            self.sealed[words[2]] = words[0], int(words[1])
        elif what == "FAULT":
            self.faults.append(line)

    def look_up(self) -> None:
        newest = self.pool.newest()
        for generation in range(self.looked_at + 1, newest.generation + 1):
            for shard in self.pool.manifest(generation).shards:
                if shard.promoted == generation:
                    if shard.name in self.promoted:
                        self.faults.append(f"I2: {shard.name} was promoted twice")
                    self.promoted[shard.name] = self.keys_of(shard.name)
            self.looked_at = generation
        said = looked_at(self.pool)
        said.with_suffix(".new").write_text(str(self.looked_at))
        os.replace(said.with_suffix(".new"), said)

    def keys_of(self, name: str) -> list[str]:
        keys = []
        for sample in read_samples(self.pool.shard_url(name)):
            keys.append(str(sample["__key__"]))
            if bytes(sample["bin"]) != payload(keys[-1]):
                self.faults.append(f"I7: {keys[-1]} is not what was written")
        return keys

    def end(self) -> None:
        for _, process in self.cast:
            process.kill()
        for _, process in self.cast:
            self.drain(process)

    def check(self) -> list[str]:
        """What a next start does by itself, and then: is all there, once?"""
        self.look_up()
        for path in self.scratch():
            os.utime(path, (1e9, 1e9))  # as if it had lain there for long
        self.pool.rotate()
        self.look_up()
        self.pool.retire()
        faults = list(self.faults)
        faults += look(Files(self.pool.url)).faults
        faults += [f"I2: {name} was sealed and is lost" for name in self.sealed.keys() - self.promoted.keys()]
        keys = Counter(key for found in self.promoted.values() for key in found)
        faults += [f"I2: {key} was promoted {count} times" for key, count in keys.items() if count > 1]
        numbers = defaultdict(set)
        for key in keys:
            who, _, number = key.partition("/")
            numbers[who].add(int(number))
        for who, had in numbers.items():
            if had != set(range(len(had))):
                faults.append(f"I2: of {who} whole samples are missing in between")
        return faults + [f"I8: {path} was left" for path in self.scratch()]

    def scratch(self) -> list[str]:
        folders = os.walk(self.pool.url)
        return [
            f"{folder}/{name}" for folder, _, names in folders for name in names if name.endswith(".partial")
        ]


def kills(root: Path, seed: int, *, rounds: int = 0, seconds: float = 0.0) -> Loop:
    """Kill so often, and for so long."""
    loop, end = Loop(root, seed), monotonic() + seconds
    try:
        while loop.killed < rounds or monotonic() < end:
            loop.kill_one()
        while not all(loop.said[what] for what in ("sealed", "rotated", "retired", "read")):
            loop.hear()
    finally:
        loop.end()
    return loop


@pytest.mark.timeout(300)
def test_processes_killed_at_random_lose_nothing_that_was_sealed(tmp_path):
    loop = kills(tmp_path / "pool", 1, seconds=60)
    print(dict(loop.said), len(loop.promoted), "shards promoted,", loop.looked_at, "generations")
    assert loop.check() == []
    assert loop.promoted


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_thousand_kills_lose_nothing_that_was_sealed(tmp_path):
    loop = kills(tmp_path / "pool", 2, rounds=1000)
    print(dict(loop.said), len(loop.promoted), "shards promoted,", loop.looked_at, "generations")
    assert loop.check() == []
