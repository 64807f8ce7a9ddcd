"""How soon a training program is over, and all its processes gone, once one of them is killed or stopped.

    python tests/bench/bench_ends.py [--rounds 20] [--method fork]

Phases: `starting` (at a moment drawn anew each time), `waiting` (for workers that are at user code),
`consuming` (user code has a batch in hand), `between` epochs. What befalls them: SIGKILL of the program, of
each worker; SIGSTOP of a worker; ^C at the terminal. The time ends when
the last process is gone; where the program was at user code and did not die itself, it begins when that goes
on, for nobody looks before. Each end but a killed program's is to be an error that is told.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from ending import Run

PHASES = "starting", "waiting", "consuming", "between"
LONG_S = 60.0


def command(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def workers_of(run: Run) -> list[int]:
    """Give the workers; multiprocessing's servers, which may die without harm, are none."""
    others = [one for one in sorted(run.others()) if "resource_tracker" not in command(one)]
    served = [one for one in others if parent(one) in others]
    return served or [one for one in others if "forkserver" not in command(one)]


def end(folder: Path, method: str, phase: str, what: str, after_s: float) -> float:
    """Give the seconds it took; -1: there was no such process yet."""
    with Run(folder, method, phase) as run:
        run.until_now()
        if phase == "starting":
            time.sleep(after_s)
        workers = workers_of(run)
        targets = {"program": [run.process.pid], "worker 0": workers[:1], "worker 1": workers[1:2]}
        targets |= {"stopped worker": workers[:1], "^C": [run.process.pid]}
        if not targets[what]:
            return -1.0
        began = time.monotonic()
        if what == "^C":
            os.killpg(run.process.pid, signal.SIGINT)
        else:
            os.kill(targets[what][0], signal.SIGSTOP if what == "stopped worker" else signal.SIGKILL)
            if phase in ("consuming", "between") and what != "program":
                run.process.stdin.write("\n")  # type: ignore[union-attr]
                run.process.stdin.flush()  # type: ignore[union-attr]
        while run.process.poll() is None or run.others():
            if time.monotonic() - began > LONG_S:
                raise SystemExit(f"{what}, {phase}: alive after {LONG_S:.0f} s")
            time.sleep(0.002)
        took = time.monotonic() - began
        told = run.process.stderr.read()  # type: ignore[union-attr]
    named = "KeyboardInterrupt" if what == "^C" else "WorkerDied"
    if what != "program" and named not in told:
        raise SystemExit(f"{what}, {phase}: no {named} but {told!r}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--method", default="fork", choices=["fork", "forkserver", "spawn"])
    options = parser.parse_args()
    moments = random.Random(0)
    print("| what | phase | ends | median, s | longest, s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for what in ("program", "worker 0", "worker 1", "stopped worker", "^C"):
            for phase in PHASES:
                took = [
                    end(Path(folder), options.method, phase, what, moments.uniform(0, 0.2))
                    for _ in range(options.rounds)
                ]
                some = [seconds for seconds in took if seconds >= 0]
                if some:
                    row = f"{len(some)} | {statistics.median(some):.2f} | {max(some):.2f}"
                    print(f"| {what} | {phase} | {row} |", flush=True)


if __name__ == "__main__":
    main()
