"""Shards of very many samples: memory does not grow with them beyond what an index holds a sample."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import environ
from tars import END, member

COMMANDS = (
    "index --force {0}/in.tar", "info {0}/in.tar --json -c 0", "info {0}/in.tar --verify --json",
    "cat {0}/in.tar cls {last}", "cat {0}/bare.tar cls {last}", "show {0}/in.tar {last}",
    "extract -f __key__ {0}/bare.tar", "extract -f cls -S _.cls==7 {0}/in.tar",
    "map -c _.cls+=1 {0}/in.tar -o {0}/o1.tar", "map -P 2 -c _.cls+=1 {0}/in.tar -o {0}/o2.tar.gz",
    "xargs -P 2 --count 200 -c true {0}/in.tar -o {0}/o3.tar", "dump -c 200 -o {0}/out/{{index}} {0}/in.tar",
)  # fmt: skip
BASE_BYTES, SAMPLE_BYTES = 200 << 20, 130  # of any command; of a sample: its index, its line of it, its key

# From a small process: a child's peak begins at what the one that forked it holds.
MEASURE = """import os, sys
pid = os.fork()
if not pid:
    os.execv(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """in.tar, and bare.tar that has no index beside it, of samples of one small field."""
    with (tmp_path / "in.tar").open("wb") as file:
        for first in range(0, request.param, 1000):
            file.write(
                b"".join(member(b"%07d.cls" % n, b"%d" % (n % 10)) for n in range(first, first + 1000))
            )
        file.write(END)
    os.link(tmp_path / "in.tar", tmp_path / "bare.tar")
    return tmp_path


def check(folder: Path, samples: int) -> None:
    env = environ() | {"XDG_CACHE_HOME": str(folder)}
    for line in COMMANDS:
        words = line.format(folder, last=samples - 1).split()
        command = [sys.executable, "-P", "-m", f"wlshard.cli.{words[0]}", *words[1:]]
        start = time.monotonic()
        with (folder / "stdout").open("wb") as out:
            measured = [sys.executable, "-I", "-S", "-c", MEASURE, *command]
            done = subprocess.run(measured, env=env, stdout=out, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0, done.stderr
        peak = int(done.stderr.split()[-1]) << 10
        print(f"{samples:,} samples: {time.monotonic() - start:6.1f} s {peak >> 20:5} MiB  wl-{line}")
        assert peak < BASE_BYTES + SAMPLE_BYTES * samples, line
        if "--json" in words:
            assert json.loads((folder / "stdout").read_bytes())["samples"] == samples


@pytest.mark.parametrize("folder", [20_000], indirect=True)
def test_many_samples(folder: Path) -> None:
    check(folder, 20_000)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("folder", [1_000_000], indirect=True)
def test_a_million_samples(folder: Path) -> None:
    check(folder, 1_000_000)
