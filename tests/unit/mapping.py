"""What the tests of wl-map and wl-xargs share: small shards, and the commands as a shell runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import processes

from wlshard.shards.output import OutputShard
from wlshard.shards.reader import read_samples


def shard(path: Path, count: int = 20, first: int = 0) -> Path:
    """Samples of a number, a text that is not written as we would, and some bytes."""
    with OutputShard(str(path)) as out:
        for n in range(first, first + count):
            sample = {"__key__": f"k{n:04d}", "cls": b"%d" % n, "json": b'{ "n" : %d }' % n}
            out.write(sample | {"raw.bin": bytes([n % 256]) * 3000})
    return path


def contents(path: Path | str) -> list[tuple[str, dict[str, bytes]]]:
    return [
        (sample["__key__"], {name: bytes(sample[name]) for name in sorted(sample) if name[0] != "_"})
        for sample in read_samples(str(path))
    ]


def run(command: str, *args: object, cwd: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-P", "-m", f"wlshard.cli.{command}", *map(str, args)]
    return subprocess.run(
        words, input=stdin, cwd=cwd, env=processes.environ(), capture_output=True, check=False
    )


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def done(command: str, *args: object, cwd: Path, code: int = 0) -> str:
    ended = run(command, *args, cwd=cwd)
    assert ended.returncode == code, ended.stderr.decode()
    return ended.stderr.decode()


PARALLEL: Sequence[Sequence[str]] = ((), ("-P", "3"))
