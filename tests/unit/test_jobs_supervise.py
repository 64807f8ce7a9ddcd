"""Generators in processes: crashes, restarts, orderly ends; nothing lost, nothing twice, nobody left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import processes
import pytest
from processes import gone, hanging, lives, until

from wlshard.errors import (
    CodecError,
    GroupingError,
    NotFound,
    StoreUnavailable,
    UsageError,
    UserCodeError,
    WlshardError,
)
from wlshard.jobs.job import Job
from wlshard.jobs.supervise import Generators, Totals, shares
from wlshard.loader import samples
from wlshard.pool.pool import Pool


@pytest.fixture(autouse=True)
def _children_find_the_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", processes.environ()["PYTHONPATH"])


def run(job: Job, parallel: int = 1, **settings: Any) -> Totals:
    """Run to the end."""
    return finish(Generators(job, parallel, pause_s=0.01, **settings))


def finish(generators: Generators) -> Totals:
    with generators:
        while not generators.done:
            generators.step(1.0)
    return generators.totals()


def rows(pool: Path) -> list[Any]:
    """Promote all and give every sample's json."""
    Pool(pool).rotate()
    return [sample["json"] for sample in samples(pool)]


def test_the_total_is_shared_out() -> None:
    assert shares(11, 3) == [4, 4, 3]
    assert shares(2, 3) == [1, 1, 0]
    assert shares(None, 2) == [None, None]


def test_the_same_seed_processes_and_samples_make_the_same_again(tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        totals = run(Job("generators:numbered", str(tmp_path / name), samples=11, seed=5), 3)
        assert (totals.generated, totals.sealed, totals.shards, totals.restarts) == (11, 11, 3, 0)
        made.append(sorted((row["worker"], row["n"], row["draw"]) for row in rows(tmp_path / name)))
    assert made[0] == made[1]
    assert [row[:2] for row in made[0]] == [
        (w, n) for w, count in ((0, 4), (1, 4), (2, 3)) for n in range(count)
    ]
    assert len({row[2] for row in made[0]}) == 11


def test_a_generator_that_ends_is_done(tmp_path: Path) -> None:
    assert run(Job("generators:five", str(tmp_path / "p")), 2).sealed == 10


def test_plain_shards_have_no_gaps_and_no_key_twice(tmp_path: Path) -> None:
    template = str(tmp_path / "x-%06d.tar")
    totals = run(Job("generators:numbered", template, samples=11, shard_samples=2), 2)
    shards = sorted(tmp_path.glob("x-*.tar"))
    assert [shard.name for shard in shards] == [f"x-{n:06d}.tar" for n in range(6)]
    keys = sorted(sample["__key__"] for sample in samples([str(shard) for shard in shards]))
    assert len(keys) == len(set(keys)) == totals.sealed == 11


def test_killed_it_is_started_anew_and_nothing_whole_is_lost_or_twice(tmp_path: Path) -> None:
    job = Job(
        "generators:dies_once", str(tmp_path / "p"), samples=12, seed=1, shard_samples=4,
        args={"folder": str(tmp_path)},
    )  # fmt: skip
    totals = run(job)
    assert (totals.sealed, totals.restarts) == (12, 1)
    read = rows(tmp_path / "p")
    # 4 were sealed and 3 whole in the scratch when it was killed; its next start made the 5 that lacked.
    assert sorted(row["n"] for row in read) == sorted([*range(7), *range(5)])
    assert len({row["draw"] for row in read}) == 12


def test_killed_it_goes_on_with_plain_shards(tmp_path: Path) -> None:
    template = str(tmp_path / "x-%06d.tar")
    job = Job("generators:dies_once", template, samples=12, shard_samples=4, args={"folder": str(tmp_path)})
    assert run(job).sealed == 12
    shards = sorted(str(path) for path in tmp_path.glob("x-*.tar"))
    read = list(samples(shards))
    assert len(shards) == 3
    assert len({sample["__key__"] for sample in read}) == len({s["json"]["draw"] for s in read}) == 12


def test_an_exception_is_retried_and_after_five_in_a_row_raised_with_its_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserCodeError) as caught:
        run(Job("generators:fails", str(tmp_path / "p")))
    assert caught.value.code == 23
    assert "given up after 5 failures in a row" in caught.value.message
    assert "ValueError: the scanner is on fire" in caught.value.message
    assert [f"failure {n} of 5" in caplog.text for n in range(1, 6)] == [True] * 4 + [False]
    assert caplog.text.count("Traceback") == 1
    assert Pool(tmp_path / "p").rotate().promoted.samples == 5  # one whole sample of each start


def test_a_share_that_is_reached_between_failures_is_done(tmp_path: Path) -> None:
    totals = run(Job("generators:fails", str(tmp_path / "p"), samples=3))
    assert (totals.sealed, totals.restarts) == (3, 2)


def test_going_on_after_a_sealed_shard_begins_a_new_row_of_failures(tmp_path: Path) -> None:
    (tmp_path / "flaky.py").write_text(
        "def make():\n    for n in range(3):\n        yield {'cls': n}\n    raise ValueError('rare')\n"
    )
    job = Job(f"{tmp_path}/flaky.py:make", str(tmp_path / "p"), samples=30, shard_samples=1)
    totals = run(job)
    assert (totals.sealed, totals.restarts) == (30, 9)


def test_a_process_that_is_killed_each_time_is_given_up_with_the_signals_name(tmp_path: Path) -> None:
    with pytest.raises(UserCodeError, match="worker 0, start 4: its process was killed by SIGKILL"):
        run(Job("generators:killed", str(tmp_path / "p")))


def test_leaving_by_os_exit_is_a_failure_not_an_end(tmp_path: Path) -> None:
    with pytest.raises(UserCodeError, match="ended with exit code 0"):
        run(Job("generators:exits", str(tmp_path / "p")))


@pytest.mark.parametrize(
    ("function", "settings", "error"),
    [
        ("generators:nothing", {}, UserCodeError),
        ("generators:no_generator", {}, UserCodeError),
        ("generators:triples", {"fields": ("a", "b")}, UserCodeError),
        ("generators:unencodable", {}, CodecError),
        ("generators:same_key", {}, GroupingError),
        ("generators:asks", {}, UsageError),
        ("generators:nix", {}, NotFound),
        ("generators:five", {"cap": 1, "when_full": "sing"}, UsageError),
    ],
)
def test_a_mistake_ends_the_run_at_once(
    tmp_path: Path, function: str, settings: dict[str, Any], error: type[WlshardError]
) -> None:
    generators = Generators(Job(function, str(tmp_path / "p"), **settings), 2, pause_s=1e6)
    with pytest.raises(error):
        finish(generators)
    assert generators.restarts == 0


def test_an_import_that_fails_is_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    generators = Generators(Job(f"{tmp_path}/broken.py:f", str(tmp_path / "p")), pause_s=1e6)
    with pytest.raises(UserCodeError, match="No module named 'no_such_module'"):
        finish(generators)
    assert generators.restarts == 0


def test_threads_that_the_user_forgot_do_not_keep_the_run(tmp_path: Path) -> None:
    assert run(Job("generators:threaded", str(tmp_path / "p"))).sealed == 1


def test_output_that_is_there_is_refused(tmp_path: Path) -> None:
    template = str(tmp_path / "x-%06d.tar")
    run(Job("generators:five", template))
    with pytest.raises(UsageError, match="exists already"):
        run(Job("generators:five", template))


def test_a_read_only_place_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WlshardError) as caught:
        run(Job("generators:five", "/proc/no-pool"))
    assert caught.value.code in (10, 11, 12)


def test_what_the_user_prints_goes_to_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(Job("generators:prints", str(tmp_path / "p"))).sealed == 1
    assert capfd.readouterr() == ("", "printed by the user\n")


def test_the_gpus_are_given_in_turn(tmp_path: Path) -> None:
    run(Job("generators:asks", str(tmp_path / "p"), args={"size": 1}), 3, gpus=("1", "3"))
    assert sorted(rows(tmp_path / "p")) == [
        [0, 3, "cuda:1", 1, "x"], [1, 3, "cuda:3", 1, "x"], [2, 3, "cuda:1", 1, "x"]
    ]  # fmt: skip


def hanging_job(tmp_path: Path, function: str = "blocking", **settings: Any) -> Job:
    return Job(f"generators:{function}", str(tmp_path / "p"), args={"folder": str(tmp_path)}, **settings)


def test_leaving_seals_what_is_whole(tmp_path: Path) -> None:
    with Generators(hanging_job(tmp_path), 2) as generators:
        pids = hanging(tmp_path, 2)
    assert generators.totals().sealed == 6
    assert not any(map(lives, pids))
    generators.close()


def test_who_does_not_end_in_time_is_killed_and_what_is_whole_is_sealed_all_the_same(tmp_path: Path) -> None:
    with Generators(hanging_job(tmp_path, "deaf"), grace_s=0.1) as generators:
        pids = hanging(tmp_path, 1)
    assert not any(map(lives, pids))
    assert generators.totals().sealed == Pool(tmp_path / "p").rotate().promoted.samples


def test_who_is_in_a_hurry_kills_at_once(tmp_path: Path) -> None:
    with Generators(hanging_job(tmp_path, "deaf"), grace_s=1e6, hurry=lambda: True):
        pids = hanging(tmp_path, 1)
    assert not any(map(lives, pids))


def test_what_a_generator_started_ends_with_it(tmp_path: Path) -> None:
    with Generators(hanging_job(tmp_path, "spawns")):
        hanging(tmp_path, 1)
        child = int(next(tmp_path.glob("child-*")).name.split("-")[1])
        assert lives(child)
    gone([child])


PARENT = """
import sys
from wlshard.jobs.job import Job
from wlshard.jobs.supervise import Generators
job = Job(sys.argv[1], sys.argv[2], args={"folder": sys.argv[3]})
with Generators(job, 2) as generators:
    while True:
        generators.step(1.0)
"""


@pytest.mark.parametrize(("function", "count"), [("blocking", 6), ("spawns", 2)])
def test_no_orphan_survives_the_kill_of_the_parent_and_they_seal(
    tmp_path: Path, function: str, count: int
) -> None:
    arguments = [f"generators:{function}", str(tmp_path / "p"), str(tmp_path)]
    with subprocess.Popen([sys.executable, "-c", PARENT, *arguments]) as parent:
        pids = hanging(tmp_path, 2)
        pids += [int(path.name.split("-")[1]) for path in tmp_path.glob("child-*")]
        parent.kill()
        gone(pids)
    assert sum(shard.samples for shard in Pool(tmp_path / "p").buffer()) == count


def test_the_parents_death_ends_a_process_that_waits_at_the_cap(tmp_path: Path) -> None:
    code = PARENT.replace('args={"folder": sys.argv[3]}', "cap=2, shard_samples=1")
    command = [sys.executable, "-c", code, "generators:numbered", str(tmp_path / "p"), "-"]
    with subprocess.Popen(command) as parent:

        def full() -> bool:
            return Pool(tmp_path / "p").exists() and len(Pool(tmp_path / "p").buffer()) >= 2

        until(full, "a full write buffer")
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        parent.kill()
        gone([int(child) for child in children])


def test_waiting_is_in_the_totals(tmp_path: Path) -> None:
    job = Job("generators:numbered", str(tmp_path / "p"), samples=6, cap=2, shard_samples=1)
    with Generators(job, 2) as generators:
        while generators.totals().waiting_s is None:
            generators.step(1.0)
        assert generators.totals().buffered >= 2
        while not generators.done:
            Pool(tmp_path / "p").rotate()
            generators.step(0.1)
    assert generators.totals().sealed == 6


def test_a_full_disk_ends_the_run_with_a_typed_error(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "none", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("a full disk needs a tmpfs, which only root may mount")
    try:
        (tmp_path / "died").touch()
        job = hanging_job(tmp_path, "dies_once", shard_samples=2)
        with pytest.raises(StoreUnavailable, match="disk is full") as caught:
            run(job, 2)
        assert caught.value.code == 12
        assert Pool(tmp_path / "p").buffer()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.fixture(autouse=True)
def _nobody_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    pids = [
        int(path.name.rpartition("-")[2]) for path in (*tmp_path.glob("hangs-*"), *tmp_path.glob("child-*"))
    ]
    left = [pid for pid in pids if lives(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
