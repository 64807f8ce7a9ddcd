"""How fast samples come through the Loader, and what a train step would wait for: `wl-test`."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Protocol, Self, TypeAlias

from wlshard import clock
from wlshard.errors import NotFound
from wlshard.shards.watch import Cost, watching

WAITS_KEPT = 2**20  # of which p50 and p99 are taken
ENDLESS = float("inf")
WARM_PART = 0.1  # of the time, not counted
ROUNDS = 5
READING = ("reader_s", "store_s", "store_bytes", "store_requests")
STAGES = ("storage", "tar", "decode", "transport", "consumer")


class Steps(Protocol):
    """What is measured: a Loader."""

    def __iter__(self) -> Iterator[Any]: ...

    def epochs(self) -> Iterator[Any]: ...

    def stats(self) -> dict[str, Any]: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


@dataclass
class _Run:
    """Steps taken one after the other: the seconds in which the consumer waited, and in which it worked."""

    waits: deque[float]
    steps: int = 0
    waited_s: float = 0.0
    consumed_s: float = 0.0


def measure(
    open_loader: Callable[[], Steps],
    *,
    seconds: float,
    steps: int | None = None,
    skip: int | None = None,
    consumer_s: float = 0.0,
    once: bool = False,
) -> dict[str, Any]:
    """Take steps from a loader, epoch after epoch, for so many seconds or steps, and tell where time went.

    skip: steps taken before, not counted (None: a tenth of the time); before those a loader of its own has
    given one step, so that all is imported. once: the source can be read a single time. consumer_s: what the
    consumer takes for each step, asleep as if an accelerator worked.

    A step's time is that in which the consumer waits for it and that which the consumer takes. Without
    workers, waiting is for the thread that reads, or making the step (decode: selecting and batching too).
    With workers it is for them, divided as their time is, or taking the step over (transport). Reading is
    storage as far as the reading thread is in the store, else tar. The store is timed by its requests,
    reading by windows, everything else by the step.

    Gives `share`, of that time, by stage, and the `verdict`; `first_sample_s`, from making a loader to its
    first step, what is imported and indexes being there already, `cold_first_sample_s` of the very first;
    `p50_ms`, `p99_ms`, what the consumer waited; `measuring_share`, of the time, that measuring itself took.
    Errors: those of the Loader; NotFound: too few samples.
    """
    cold_s = None
    if not once:
        began = clock.monotonic()
        with open_loader() as loader:
            _first(iter(loader))
        cold_s = clock.monotonic() - began
    with watching() as store, open_loader() as loader:
        began = clock.monotonic()
        found = iter(loader) if once else loader.epochs()
        _first(found)
        first_s = clock.monotonic() - began
        if skip is not None:
            _take(found, skip, ENDLESS, consumer_s)
        elif not once:
            _take(found, None, clock.monotonic() + WARM_PART * seconds, consumer_s)
        before = _counts(loader, store)
        run = _take(found, steps, clock.monotonic() + seconds, consumer_s)
        counted = {name: count - before[name] for name, count in _counts(loader, store).items()}
        return _result(run, counted, first_s, first_s if cold_s is None else cold_s)


def _first(found: Iterator[Any]) -> None:
    if next(found, None) is None:
        raise NotFound("there are no samples to measure")


def _take(found: Iterator[Any], steps: int | None, end: float, consumer_s: float = 0.0) -> _Run:
    """Take steps: so many, or until then. Nothing is done with them."""
    run = _Run(deque(maxlen=WAITS_KEPT))
    last = clock.monotonic()
    while last < end and run.steps != steps and next(found, None) is not None:
        now = clock.monotonic()
        run.waits.append(now - last)
        run.waited_s += now - last
        run.steps += 1
        last = now
        if consumer_s:
            clock.sleep(consumer_s)
            last = clock.monotonic()
            run.consumed_s += last - now
    return run


def _counts(loader: Steps, cost: Cost) -> dict[str, float]:
    """Tell what a loader, its workers if it has some, and the store have counted so far."""
    stats = loader.stats()
    spent = cost.read_s, cost.store_s, cost.bytes, cost.requests
    reading = stats.get("workers") or dict(zip(READING, spent, strict=True))
    return {"samples": stats["samples"], "waited_s": stats["waited_s"], **reading}


def _result(run: _Run, found: Mapping[str, float], first_s: float, cold_s: float) -> dict[str, Any]:
    if not run.steps:
        raise NotFound("too few samples: all were used for the warm-up; measure more, or --skip fewer")
    seconds = run.waited_s + run.consumed_s
    share = {stage: spent / seconds for stage, spent in zip(STAGES, _spent(found, run), strict=True)}
    verdict, because = judge(share, seconds / run.steps)
    cuts = statistics.quantiles(run.waits, n=100) if run.steps > 1 else [run.waits[0]] * 99
    return {
        "samples_per_s": found["samples"] / seconds, "bytes_per_s": found["store_bytes"] / seconds,
        "first_sample_s": first_s, "p50_ms": 1e3 * cuts[49], "p99_ms": 1e3 * cuts[98],
        "share": share, "verdict": verdict, "because": because,
        "samples": int(found["samples"]), "steps": run.steps, "seconds": seconds,
        "cold_first_sample_s": cold_s,
        "measuring_share": _own_cost(run.steps, found["store_requests"]) / seconds,
    }  # fmt: skip


def _spent(found: Mapping[str, float], run: _Run) -> tuple[float, ...]:
    """Divide the time of a run among the stages."""
    waited_s = min(found["waited_s"], run.waited_s)
    rest_s = run.waited_s - waited_s
    if "make_s" in found:
        read_s, make_s, transport_s = found["read_s"], found["make_s"], rest_s
        part = waited_s / (read_s + make_s or 1)
    else:
        read_s, make_s, transport_s, part = waited_s, rest_s, 0.0, 1.0
    storage_s = read_s * min(1.0, found["store_s"] / (found["reader_s"] or 1))
    return part * storage_s, part * (read_s - storage_s), part * make_s, transport_s, run.consumed_s


def judge(share: Mapping[str, float], step_s: float) -> tuple[str, str]:
    """Give the verdict, after the stage that takes most, and the number that says so."""
    most = max(share, key=share.__getitem__)
    spent = 1e3 * step_s * share[most]
    part = f"{100 * share[most]:.0f} % of the time: {spent:.3g} of {1e3 * step_s:.3g} ms a step"
    return f"{most}-bound", f"{most} takes {part}"


def _own_cost(steps: int, requests: float, tries: int = 2000) -> float:
    """Give the seconds that measuring so many steps and requests takes, by trying it out."""
    began = clock.monotonic()
    _take(repeat(()), tries, began + 1)
    stepped = clock.monotonic()
    cost = Cost()
    for _ in range(tries):
        cost.timed(lambda: None)
    return ((stepped - began) * steps + (clock.monotonic() - stepped) * requests) / tries


# Opened anew for each round: endless steps of so many samples each.
Contender: TypeAlias = Callable[[], AbstractContextManager[Iterator[Any]]]


def compare(
    contenders: Mapping[str, Contender], *, seconds: float, steps: int | None = None
) -> tuple[int, dict[str, list[float]]]:
    """Let contenders take the same steps in turn, a round to warm up and five that count.

    Gives how many steps, and the steps per second of each round, without the first step, which opens things.
    Without `steps`, as many as the slowest takes in its part of the time.
    """
    slice_s = seconds / (len(contenders) * (ROUNDS + 1))
    taken = [
        _round(contender, steps, slice_s if steps is None else ENDLESS) for contender in contenders.values()
    ]
    steps = min(run.steps for run in taken)
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            run = _round(contender, steps, ENDLESS)
            speeds[name].append(run.steps / run.waited_s)
    return steps, speeds


def _round(contender: Contender, steps: int | None, limit_s: float) -> _Run:
    with contender() as found:
        next(found)
        return _take(found, steps, clock.monotonic() + limit_s)


def contender(open_loader: Callable[[], Steps]) -> Contender:
    """Make a contender of loaders."""

    @contextmanager
    def opened() -> Iterator[Iterator[Any]]:
        with open_loader() as loader:
            yield loader.epochs()

    return opened
