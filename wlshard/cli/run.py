"""wl-run: generators, rotation and a consumer, supervised as one."""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from wlshard.cli.entry import command
from wlshard.cli.options import COUNT, generator_options, options
from wlshard.errors import AccessDenied, UsageError

if TYPE_CHECKING:
    from wlshard.jobs.run import Snapshot

CAPS = 4  # times --at may wait before the generators do
DEMO_AT = 32  # samples a rotation; an eighth for volumes above DEMO_SMALL voxels a side
DEMO_SMALL = 96
COMMANDLINE = click.core.ParameterSource.COMMANDLINE
LINE_S = 10.0  # between two status lines where they cannot be drawn over each other


run_options = options([
    click.option("--at", type=COUNT, default=100, show_default=True, help="Samples that make a rotation."),
    click.option("--pool-samples", type=click.IntRange(min=0), default=0,
                 help="Fill a generation up to so many samples with the newest old ones.  [a full swap]"),
    click.option("--reuse", type=click.FloatRange(min=0), default=0.0,
                 help="Rotate only once the newest generation was served so many times.  [as soon as --at]"),
    click.option("--cap", type=COUNT, help="Samples in the write buffer at which to wait.  [4 times --at]"),
    click.option("--shard-samples", type=COUNT, help="Samples in a shard.  [--at is two for each process]"),
])  # fmt: skip

demo_options = options([
    click.option("--demo", is_flag=True, help="Synthetic brains, made and trained on; all else is optional."),
    click.option("--size", type=click.IntRange(min=16), default=48, show_default=True,
                 help="With --demo: voxels a side; 256 for real volumes."),
    click.option("--atlas", type=click.Path(exists=True, dir_okay=False, resolve_path=True),
                 help="With --demo: an npz with the array `label` (and `t1`).  [a phantom]"),
    click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True,
                 help="With --demo: how long to train."),
    click.option("--steps", type=COUNT, help="With --demo: end after so many steps instead."),
    click.option("--out", type=click.Path(file_okay=False),
                 help="With --demo: a new folder for pool and picture.  [demo-<time>]"),
])  # fmt: skip


@command(
    "wl-run",
    example="""
    wl-run --demo
    wl-run mygen.py:make /data/pool -P 4 --at 500 -- python train.py   # reads os.environ["WL_POOL"]
    """,
)
@click.argument("function", metavar="MODULE:FUNCTION", required=False)
@click.argument("pool", required=False)
@click.argument("consumer", metavar="-- COMMAND…", nargs=-1, type=click.UNPROCESSED)
@run_options
@demo_options
@generator_options
def main(
    function: str | None, pool: str | None, consumer: tuple[str, ...], parallel: int,
    seed: int | None, gpus: tuple[str, ...] | None, args: tuple[tuple[str, Any], ...], at: int,
    pool_samples: int, reuse: float, cap: int | None, shard_samples: int | None, demo: bool,
    size: int, atlas: str | None, seconds: float, steps: int | None, out: str | None, **settings: Any,
) -> int:  # fmt: skip
    """Run generators into POOL (made if absent), rotate it, and run COMMAND, which trains on it.

    COMMAND finds the pool in the environment variable WL_POOL. When it ends, or on ^C, everything ends in
    order, and what the generators made is sealed; its exit code is ours. Generators that fail are started
    anew, five times in a row at most. They pause at --cap, so that the disk does not fill.

    With --demo nothing else is needed: it trains on synthetic brains while they are made, for a minute.
    """
    from wlshard.jobs.job import Job
    from wlshard.jobs.run import run
    from wlshard.seeds import fresh_seed

    seed = fresh_seed() if seed is None else seed
    if demo:
        if function is not None:
            raise UsageError("--demo brings its own generator, pool and trainer: leave them out")
        ctx = click.get_current_context()
        given = {name for name in ctx.params if ctx.get_parameter_source(name) is COMMANDLINE}
        folder = _new_folder(out)
        function, pool = "wlshard.demo.brains:generate", os.path.join(folder, "pool")
        args = (("size", size), *((("atlas", atlas),) if atlas else ()), *args)
        consumer = _trainer(folder, size, atlas, seconds, steps)
        few = DEMO_AT if size <= DEMO_SMALL else DEMO_AT // 8
        at = at if "at" in given else few
        cap, reuse = cap or 2 * at, reuse if "reuse" in given else 1.0
        parallel = parallel if "parallel" in given else min(4, max(1, (os.cpu_count() or 1) // 2))
    if function is None or pool is None or not consumer:
        raise UsageError("say what generates, where to, and what trains: MODULE:FUNCTION POOL -- COMMAND")
    cap = cap or CAPS * at
    job = Job(
        function, pool, seed=seed, args=dict(args), cap=cap,
        shard_samples=shard_samples or max(1, at // (2 * parallel)), **settings,
    )  # fmt: skip
    about = f"a rotation each {at} samples, generators pause at {cap} in the write buffer, seed {seed}"
    print(f"wl-run: pool {pool}; {about}", file=sys.stderr)
    with StatusLine() as line:
        return run(
            job, consumer, parallel=parallel, at=at, pool_samples=pool_samples, reuse=reuse,
            gpus=gpus or (), show=line.show,
        )  # fmt: skip


def _new_folder(out: str | None) -> str:
    folder = out or time.strftime("demo-%Y%m%d-%H%M%S")
    try:
        os.makedirs(folder)
    except FileExistsError:
        raise UsageError("exists already: name a new folder by --out", url=folder) from None
    except OSError as error:
        raise AccessDenied(f"no folder can be made here ({error.strerror}): use --out", url=folder) from None
    return folder


def _trainer(folder: str, size: int, atlas: str | None, seconds: float, steps: int | None) -> tuple[str, ...]:
    command = [sys.executable, "-P", "-m", "wlshard.demo.train", "--out", folder, "--size", str(size)]
    command += ["--atlas", atlas] if atlas else []
    command += ["--seconds", str(seconds)] if steps is None else ["--steps", str(steps)]
    return tuple(command)


class StatusLine:
    """One line on stderr: drawn in place on a terminal, else a new one every ten seconds and at the end.

    That nobody can see it any more, for the terminal is closed, ends nothing.
    """

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown_at = float("-inf")
        self._latest = self._said = ""

    def show(self, snapshot: Snapshot) -> None:
        self._latest = told(snapshot)
        if self._terminal:
            width = shutil.get_terminal_size().columns - 3  # and two blanks before what others print
            self._write(f"\r\x1b[K{told(snapshot, width)[:width]}  ")
        elif time.monotonic() - self._shown_at >= LINE_S:
            self._tell()

    def _tell(self) -> None:
        self._shown_at = time.monotonic()
        self._said = self._latest
        self._write(f"{self._latest}\n")

    def _write(self, text: str) -> None:
        with suppress(OSError):
            print(text, end="", file=sys.stderr, flush=True)

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._latest != self._said:
            if self._terminal:
                self._write("\r\x1b[K")
            self._tell()


def told(snapshot: Snapshot, width: int = 1000) -> str:
    """Say a snapshot in a line; in fewer characters if it would be wider than that."""
    totals = snapshot.totals
    parts = [
        f"generated {totals.generated}",
        f"buffered {snapshot.buffered}" + (f"/{snapshot.cap}" if snapshot.cap else ""),
        f"generation {snapshot.generation} ({snapshot.samples} samples)",
        f"served {snapshot.served}",
        f"reuse {snapshot.reuse:.1f}",
    ]
    if totals.waiting_s is not None:
        parts.append(f"generators wait {totals.waiting_s:.0f} s")
    if totals.dropped:
        parts.append(f"dropped {totals.dropped}")
    if totals.restarts:
        parts.append(f"restarts {totals.restarts}")
    line = " · ".join(parts)
    if len(line) > width:
        line = ", ".join(parts).replace("generated", "made").replace(" samples)", ")")
    return line
