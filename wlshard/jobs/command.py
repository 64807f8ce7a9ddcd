"""A shell command for each sample, `wl-xargs`: its fields as files in a private folder, before and after."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

from wlshard.codecs import Buffer
from wlshard.errors import GroupingError, UsageError, UserCodeError
from wlshard.jobs.each import OnError, ShardJob
from wlshard.jobs.folders import emptied, private_folder
from wlshard.jobs.process import has_ended
from wlshard.sample import KEY, URL, Sample, fields_of
from wlshard.store.files import errors_of, write_all

GRACE_S = 2.0  # from SIGTERM to SIGKILL for a command that we are asked to end
LOOK_S = 1.0
NAME_BYTES = 255  # of a file, on Linux
# Those that Python ignores, which the command expects not to be. Of the others all that are not ignored: what
# is not named the C library asks the system for, one by one.
_DEFAULT = [
    number
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    if number in (signal.SIGPIPE, signal.SIGXFSZ) or signal.getsignal(number) != signal.SIG_IGN
]


@dataclass(frozen=True)
class Order:
    """What is run for each sample. All of it goes through JSON.

    command: for /bin/sh; script: a file for the interpreter, or a command found on PATH. base: of the files
    that are the sample. fields: those to put into the folder, None: all; missing: whether one that a sample
    lacks is an error. exclude, include: regular expressions, searched in the names of files that come out.
    separator: between the key and the base of a further sample. workdir: where the folders are made.
    """

    command: str | None = None
    script: str | None = None
    interpreter: str = "bash"
    base: str = "sample"
    fields: Sequence[str] | None = None
    missing: Literal["ignore", "error"] = "ignore"
    exclude: str | None = None
    include: str | None = None
    separator: str = ""
    workdir: str | None = None


def argv_of(order: Order) -> list[str]:
    """Give the words to execute. UsageError: no command, or two."""
    if (order.command is None) == (order.script is None):
        raise UsageError("no command: give either -c SHELL or -S SCRIPT")
    if order.script is not None and os.path.exists(order.script):
        return [*shlex.split(order.interpreter), os.path.abspath(order.script)]
    return ["/bin/sh", "-c", order.command or order.script or ""]


def job_of(order: Order, on_error: OnError = "raise") -> ShardJob:
    """Give the job that carries out an order for samples, all but inputs and output.

    UsageError: an order that cannot be carried out for any sample.
    """
    argv_of(order)
    if not re.fullmatch(r"[^./\0]+", order.base):
        raise UsageError(f"the base {order.base!r} is no name of files: no dot, no slash")
    for pattern in (order.exclude, order.include):
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise UsageError(f"{pattern!r} is no regular expression: {error}") from error
    return ShardJob([], "", "wlshard.jobs.command:Command", asdict(order), on_error)


class Command:
    """An order, given as JSON, ready to be carried out for one sample after the other: work of a shard job.

    It changes the process's working folder, so it is for processes of an engine only.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._order = order = Order(**settings)
        self._argv = argv_of(order)
        self._environ = dict(os.environb)
        self._exclude = re.compile(order.exclude) if order.exclude else None
        self._include = re.compile(order.include or "")
        self._folder = private_folder(order.workdir)
        self._home = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # until the process ends

    def __call__(self, sample: Sample, number: int) -> list[Sample]:
        """Give the samples that lie in the folder once the command is done, the sample's own first.

        A field whose file still holds its bytes is that very object. UserCodeError: the command fails;
        GroupingError: a field is missing and that is an error.
        """
        key, url = sample[KEY], sample[URL]
        fields = self._fields(sample)
        with errors_of(self._folder), emptied(self._folder, self._home):
            for field in fields:
                name = f"{self._order.base}.{field}"
                if len(os.fsencode(name)) > NAME_BYTES:
                    raise GroupingError("a field too long for a file's name: leave it out", key=key, url=url)
                _write(name, sample[field])
            about = {b"WL_KEY": os.fsencode(key), b"WL_URL": os.fsencode(url), b"WL_INDEX": b"%d" % number}
            code = _run(self._argv, self._environ | about)
            if code:
                what = f"the command ended with exit code {code}: see above for what it printed"
                raise UserCodeError(what, key=key, url=url)
            return self._found(sample, key)

    def _fields(self, sample: Sample) -> list[str]:
        wanted, there = self._order.fields, fields_of(sample)
        if wanted is not None and self._order.missing == "error":
            for field in wanted:
                if field not in sample:
                    raise GroupingError(f"no field {field!r}; there are: {' '.join(there)}", key=sample[KEY])
        return [name for name in there if wanted is None or name in wanted]

    def _found(self, came: Sample, key: str) -> list[Sample]:
        """Read the files that make samples: those with a dot in their name, and none before it."""
        base = self._order.base
        samples: dict[str, Sample] = {}
        with os.scandir() as entries:
            there = sorted((one.name, one.is_file(follow_symlinks=False)) for one in entries)
        for name, is_file in there:
            stem, _, field = name.partition(".")
            wanted = self._include.search(name) and not (self._exclude and self._exclude.search(name))
            if not (stem and field and wanted and (is_file or os.path.isfile(name))):
                continue
            field = field.lower()
            own = stem == base
            sample = samples.setdefault(stem, {KEY: key if own else f"{key}{self._order.separator}{stem}"})
            if field in sample:
                what = f"two files are the field {field}: names differ by more than case"
                raise GroupingError(what, key=key)
            data = _read(name)
            before = came.get(field) if own else None
            sample[field] = before if before is not None and before == data else data
        first = [samples.pop(base)] if base in samples else []
        return first + list(samples.values())


def _write(name: str, data: Buffer) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        if os.write(fd, data) < len(data):
            write_all(fd, [data], 0)
    finally:
        os.close(fd)


def _read(name: str) -> bytes:
    """Read a file with half the calls to the system that Python's own takes."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        data = os.read(fd, size)
    finally:
        os.close(fd)
    if len(data) == size:
        return data
    with open(name, "rb", buffering=0) as file:  # more than one call gives
        return file.readall()


def _run(argv: list[str], environ: dict[bytes, bytes]) -> int:
    """Run a command in a process group of its own, of which nothing is left; give its exit code."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # until we would end the command
    try:
        child = os.posix_spawnp(argv[0], argv, environ, setpgroup=0, setsigmask=before, setsigdef=_DEFAULT)
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise UsageError(f"cannot run {argv[0]}: {error.strerror}") from error
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # Not for ever at once: a signal just before a call that blocks is heard when that returns.
        while not has_ended(child, LOOK_S):
            pass
    except BaseException:  # we are stopped: ask it first
        os.killpg(child, signal.SIGTERM)
        has_ended(child, GRACE_S)
        raise
    finally:
        with suppress(PermissionError):  # somebody else's by now: sudo
            os.killpg(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code
