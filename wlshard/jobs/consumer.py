"""The consumer of `wl-run`: the user's command, as a process that is ended with all that it started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Self

from wlshard.errors import NotFound
from wlshard.jobs.guard import END, INTERRUPT, KILL

TICK_S = 0.25  # between two looks at `hurry`


class Consumer:
    """A running command. Enter to start it; leaving ends it, by SIGTERM and after ten seconds SIGKILL.

    It has our terminal, and hears its ^C by itself. Whatever it started ends with it; if this process is
    killed, so are they. `code`: its exit code once `poll` has seen it end, 128 + n after signal n.
    hurry: asked while it is being ended; True kills it at once.
    """

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], *, hurry: Callable[[], bool]
    ) -> None:
        self._hurry = hurry
        self._command, self._environ = list(command), {**os.environ, **environ}
        self._process: subprocess.Popen[bytes] | None = None
        self._control = -1
        self.code: int | None = None

    def require(self) -> None:
        """Raise NotFound unless there is such a command."""
        if shutil.which(self._command[0], path=self._environ.get("PATH")) is None:
            raise NotFound(f"there is no command {self._command[0]!r}: name one, or the path of a program")

    def __enter__(self) -> Self:
        theirs, self._control = os.pipe()
        guard = [sys.executable, "-P", "-m", "wlshard.jobs.guard", str(theirs), *self._command]
        try:
            self._process = subprocess.Popen(guard, env=self._environ, pass_fds=[theirs])
        except BaseException:
            os.close(self._control)
            raise
        finally:
            os.close(theirs)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def poll(self) -> int | None:
        """Give the exit code if it has ended."""
        if self._process is not None and self.code is None:
            code = self._process.poll()
            self.code = code if code is None or code >= 0 else 128 - code
        return self.code

    def interrupt(self) -> None:
        """Let it have a SIGINT, unless the terminal's ^C has reached it already."""
        if not _in_foreground():
            self._tell(INTERRUPT)

    def close(self) -> None:
        """End it, and wait until nothing of it is left. May be called twice."""
        if self._process is None or self._control < 0:
            return
        self._tell(END)
        while self.poll() is None:
            if self._hurry():
                self._tell(KILL)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(TICK_S)
        os.close(self._control)
        self._control = -1

    def _tell(self, what: bytes) -> None:
        with suppress(BrokenPipeError):  # it has ended meanwhile
            os.write(self._control, what)


def _in_foreground() -> bool:
    """Tell whether a ^C on a terminal is sent to our process group."""
    try:
        with open("/dev/tty", "rb", buffering=0) as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False
