"""The output of a shell command as an object, `pipe:COMMAND`: read once from its start, never half."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import weakref
from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NoReturn, Self

from wlshard import clock
from wlshard.errors import NotFound, StoreUnavailable, UsageError
from wlshard.store.base import Capabilities, Entry, ReadOnly

log = logging.getLogger(__name__)

_TELL_S = 5.0
_PATIENCE_S = 2.0  # for a command that was asked to end


class PipeReader:
    """What a command prints. Its end is one only if the command, each part of a pipeline, ended with 0.

    The command is a process group of its own, which `close` ends; its stderr is ours.
    """

    bytes: int | None = None

    def __init__(self, url: str) -> None:
        self.url = url
        self._ended = self._closed = False
        self._end: Callable[[], object] = int  # there is nothing to end yet
        try:
            with ThreadPoolExecutor(1) as thread:  # ^C, which the main one raises, finds all or nothing
                thread.submit(self._start).result()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        shell = ["bash", "-o", "pipefail", "-c"] if shutil.which("bash") else ["sh", "-c"]
        self._process = subprocess.Popen(
            [*shell, self.url[5:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, process_group=0
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout
        # At the latest with us: ^C may keep this reader from whoever would close it.
        self._end = weakref.finalize(self, _end, self._process, os.getpid())

    def readinto(self, target: bytearray | memoryview, /) -> int:
        view, filled = memoryview(target).cast("B"), 0
        while filled < len(view) and not self._ended:
            count = os.readv(self._out.fileno(), [view[filled:]])
            if not count:
                self._check_end()
            filled += count
        return filled

    def _check_end(self) -> None:
        try:
            status = self._process.wait(_TELL_S)
        except subprocess.TimeoutExpired:
            log.warning("%s has closed its output and runs on: waiting for its end", self.url)
            status = self._process.wait()
        if status:
            how = f"status {status}" if status > 0 else signal.Signals(-status).name
            what = f"the command ended with {how}, so that its output may be cut: see what it said on stderr"
            raise StoreUnavailable(what, url=self.url)
        self._ended = True

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """End a command and all that it has started, unless this is a fork of its owner."""
    if process.returncode is None and os.getpid() == owner:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.stdout is not None
    process.stdout.close()


class PipeStore(ReadOnly):
    """The commands of `pipe:` URLs, each an object that is made when it is opened."""

    url = "pipe:"
    can = Capabilities(write=False, list=False, create=False, shared=False, local=False)
    advice = "pipe: is for reading: write to - and pipe it on"

    def open(self, name: str, start: int = 0, end: int | None = None) -> PipeReader:
        if start:
            raise UsageError("what a command prints is read from its start only", url=f"pipe:{name}")
        return PipeReader(f"pipe:{name}")

    def read(self, name: str) -> NoReturn:
        raise NotFound("nothing lies beside what a command prints", url=f"pipe:{name}")

    def stat(self, name: str) -> NoReturn:
        raise NotFound("nobody knows how much a command prints", url=f"pipe:{name}")

    def list(self, prefix: str = "", suffix: str = "", but: Container[str] = ()) -> Iterator[Entry]:
        raise UsageError("commands are not listed: name them", url=self.url)

    def now(self) -> float:
        return clock.now()

    def path(self, name: str) -> None:
        return None
