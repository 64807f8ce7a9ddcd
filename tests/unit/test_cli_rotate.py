"""wl-rotate as it is typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from processes import environ

from wlshard.cli.rotate import main
from wlshard.errors import StoreUnavailable
from wlshard.jobs.rotation import Rotator
from wlshard.pool.pool import Pool
from wlshard.pool.retire import Retirement
from wlshard.pool.rotate import Policy, Rotation
from wlshard.pool.writer import ShardWriter

KEYS = {
    "pool",
    "previous",
    "generation",
    "committed",
    "promoted",
    "kept",
    "dropped",
    "quarantined",
    "seconds",
    "retired",
    "pinned",
}


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    made = Pool(tmp_path / "p").create()
    seal(made, 4)
    return made


def seal(pool: Pool, count: int) -> None:
    with ShardWriter(pool) as writer:
        for n in range(count):
            writer.write({"cls": n})


def rotate(*args: object) -> Result:
    return CliRunner().invoke(main, list(map(str, args)))


def test_json_tells_what_was_promoted(pool: Pool) -> None:
    told = json.loads(rotate(pool.url, "--json").stdout)
    assert told.keys() == KEYS
    assert (told["previous"], told["generation"], told["committed"]) == (0, 1, True)
    assert told["promoted"]["samples"] == 4


def test_too_little_is_no_error_and_commits_nothing(pool: Pool) -> None:
    result = rotate(pool.url, "--at", 5)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "generation 0 stays" in result.stderr
    assert pool.generations() == [0]


def test_a_dry_run_tells_and_changes_nothing(pool: Pool) -> None:
    assert "would commit generation 1: 4 samples in 1 shard " in rotate(pool.url, "--dry-run").stderr
    assert pool.generations() == [0]


def test_pool_samples_keeps_the_newest_old_ones(pool: Pool) -> None:
    rotate(pool.url)
    seal(pool, 3)
    told = json.loads(rotate(pool.url, "--pool-samples", 6, "--json").stdout)
    assert (told["promoted"]["samples"], told["kept"]["samples"]) == (3, 4)


def test_a_shard_that_is_bad_is_told_and_the_code_is_3(pool: Pool) -> None:
    seal(pool, 2)
    shard = Path(pool.store.url, "shards", pool.buffer()[0].name)
    data = bytearray(shard.read_bytes())
    data[-1] = 1
    shard.chmod(0o644)
    shard.write_bytes(data)
    result = rotate(pool.url)
    assert result.exit_code == 3
    assert f"set aside: {shard.name}" in result.stderr


def test_a_missing_pool_is_10(tmp_path: Path) -> None:
    assert rotate(tmp_path / "none").exit_code == 10
    assert rotate(tmp_path / "none", "--watch").exit_code == 10


@pytest.mark.parametrize(
    "words", [["--watch", "POOL"], ["POOL", "--watch", "0.05"], ["--watch=0.05", "POOL"]]
)
def test_watch_rotates_whenever_enough_waits_until_it_is_ended(pool: Pool, words: list[str]) -> None:
    command = [
        sys.executable,
        "-P",
        "-c",
        "from wlshard.cli.rotate import main; main()",
        "--json",
        "--at",
        "3",
    ]
    words = [pool.url if word == "POOL" else word for word in words]
    with subprocess.Popen(
        [*command, *words], env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["generation"] == 1
        seal(pool, 2)  # too few
        seal(pool, 3)
        assert json.loads(process.stdout.readline())["promoted"]["samples"] == 5
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 130
    assert pool.generations() == [1, 2]


def test_a_dry_run_does_not_watch(pool: Pool) -> None:
    assert rotate(pool.url, "--watch", "--dry-run").exit_code == 2


def test_a_store_that_fails_is_asked_again_but_not_for_ever(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rotator = Rotator(pool, Policy(at=1))
    calls = 0

    def fail() -> list[str]:
        nonlocal calls
        calls += 1
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(pool, "salvage", fail)
        for _ in range(4):
            assert rotator.turn() is None
    done = rotator.turn()
    assert done is not None
    assert done.generation == 1
    assert "failure 4 of 5" in caplog.text
    monkeypatch.setattr(pool, "salvage", fail)
    for _ in range(4):
        rotator.turn()
    with pytest.raises(StoreUnavailable):
        rotator.turn()


# Retirement, policies, pins


def test_what_is_older_than_the_newest_two_is_retired_and_told(pool: Pool) -> None:
    for _ in range(2):
        rotate(pool.url)
        seal(pool, 2)
    told = json.loads(rotate(pool.url, "--json").stdout)
    assert told["retired"] == {"retired": [1], "held": {}, "shards": 1, "bytes": 5120, "orphans": 0}
    assert pool.generations() == [2, 3]
    seal(pool, 2)
    assert "1 generation retired, 1 shard deleted" in rotate(pool.url).stderr


def test_keep_is_for_this_run(pool: Pool) -> None:
    for _ in range(3):
        rotate(pool.url, "--keep", 9)
        seal(pool, 2)
    assert pool.generations() == [0, 1, 2, 3]
    rotate(pool.url, "--keep", 3)
    assert pool.generations() == [2, 3, 4]
    rotate(pool.url)
    assert pool.generations() == [3, 4]
    assert rotate(pool.url, "--keep", 1).exit_code == 2


def test_watching_keeps_as_many_as_it_was_told(pool: Pool) -> None:
    rotator = Rotator(pool, Policy(keep=3))
    for _ in range(4):
        rotator.turn()
        seal(pool, 2)
    assert pool.generations() == [2, 3, 4]


def test_max_age_leaves_out_what_was_sealed_too_long_ago(pool: Pool) -> None:
    rotate(pool.url)
    old = Path(pool.shards()[0])
    seal(pool, 2)
    os.utime(old, (1e9, 1e9))
    told = json.loads(rotate(pool.url, "--pool-samples", 100, "--max-age", 3600, "--json").stdout)
    assert (told["kept"]["samples"], told["dropped"]["samples"]) == (0, 4)
    seal(pool, 2)
    told = json.loads(rotate(pool.url, "--pool-samples", 100, "--max-age", 3600, "--json").stdout)
    assert (told["kept"]["samples"], told["dropped"]["samples"]) == (2, 0)


def test_a_pin_keeps_what_is_newest_until_it_is_released(pool: Pool) -> None:
    assert "generation 1 is pinned as best" in rotate(pool.url, "--pin", "best").stderr
    assert json.loads(rotate(pool.url, "--pin", "best", "--json").stdout)["pinned"] == 1
    for _ in range(3):
        seal(pool, 2)
        told = rotate(pool.url)
    assert "1 held by pin-best" in told.stderr
    assert pool.generations() == [1, 3, 4]
    assert json.loads(rotate(pool.url, "--unpin", "best", "--json").stdout)["unpinned"] == [1]
    assert pool.generations() == [3, 4]
    assert rotate(pool.url, "--unpin", "best").exit_code == 10


@pytest.mark.parametrize(
    "words",
    [
        ["--pin", "a/b"],
        ["--pin", "x", "--watch"],
        ["--pin", "x", "--unpin", "x"],
        ["--unpin", "x", "--dry-run"],
        ["--metrics", "x.jsonl"],
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_done(pool: Pool, words: list[str]) -> None:
    assert rotate(pool.url, *words).exit_code == 2
    assert pool.generations() == [0]


def test_what_was_held_is_retired_at_a_later_turn_without_a_rotation(pool: Pool) -> None:
    rotator = Rotator(pool, Policy())
    rotator.turn()
    lease = pool.lease(1)
    lease.take()
    for _ in range(3):
        seal(pool, 2)
        rotator.turn()
    assert rotator.retirement is not None
    assert list(rotator.retirement.held) == [1]
    lease.close()
    assert rotator.turn() is None
    assert rotator.retirement.retired == [1]
    rotator.turn()
    assert rotator.retirement is None  # nothing is left to look for


def test_metrics_are_a_line_for_each_turn_that_did_something(pool: Pool, tmp_path: Path) -> None:
    from wlshard.jobs.rotation import watch

    shown, metrics = [], tmp_path / "metrics.jsonl"

    def show(done: Rotation, retired: Retirement | None) -> None:
        shown.append(done.generation)
        if len(shown) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        seal(pool, 2)

    watch(Rotator(pool, Policy()), 0.01, show, str(metrics))
    assert shown == [1, 2, 3]
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["generation"] for line in lines] == [1, 2, 3]
    assert [line["rotation"]["promoted"]["samples"] for line in lines] == [4, 2, 2]
    assert [line["retired"]["retired"] for line in lines] == [[], [0], [1]]
    assert all(line["kind"] == "pool" and line["time"] > 0 for line in lines)


def test_metrics_that_cannot_be_written_stop_no_rotation(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    from wlshard.jobs.rotation import watch

    watch(Rotator(pool, Policy()), 0.01, lambda *_: os.kill(os.getpid(), signal.SIGINT), "/absent/x")
    assert "no metrics" in caplog.text
    assert pool.newest().generation == 1
