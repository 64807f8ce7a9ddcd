"""A training program with a loader of two workers, to be ended somehow in one of its phases."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from processes import environ, lives

SCRIPT = """
import atexit, os, sys, threading

kept = []
atexit.register(lambda: [batch["n"].sum() for batch in kept])  # the last to be called

from wlshard import Loader

method, phase = sys.argv[1:3]


def block(sample):
    if phase in ("waiting", "importing") and sample["n"] >= 40:
        os.write(1, b"now\\n")  # whole, beside another worker's
        os.read(0, 1)
    return sample


class Stuck:  # where it is sent
    __call__ = staticmethod(block)

    def __reduce__(self):
        return block, ({"n": 40},)


def train(loader):
    for number, batch in enumerate(loader):
        kept[:] = [batch]
        if phase == "consuming" and number == 3:
            print("now", flush=True)
            os.read(0, 1)
    if phase == "between":
        print("now", flush=True)
        os.read(0, 1)
    return number


def main():
    rows = [{"n": n} for n in range(400)]
    made = Stuck() if phase == "importing" else block
    loader = Loader(rows, batch_size=2, transform=made, workers=2, start_method=method)
    if phase == "starting":
        print("now", flush=True)
    if phase == "thread":
        thread = threading.Thread(target=next, args=(iter(loader),))
        thread.start()
        thread.join()
    if phase == "forgotten":
        print(train(loader), flush=True)
        return
    with loader:
        while True:
            number = train(loader)
            if phase == "thread":
                print("now", flush=True)


if __name__ == "__main__":
    main()
"""


class Run:
    """The script in a session of its own, so that all its processes can be found."""

    def __init__(self, folder: Path, method: str, phase: str) -> None:
        (folder / "train.py").write_text(SCRIPT)
        command = [sys.executable, str(folder / "train.py"), method, phase]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=environ(), start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def until_now(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "now\n"

    def others(self) -> list[int]:
        """Give the processes of the session that live, but its first."""
        found = []
        for entry in os.listdir("/proc"):
            with suppress(OSError, ValueError):
                if os.getsid(int(entry)) == self.process.pid != int(entry) and lives(int(entry)):
                    found.append(int(entry))
        return found
