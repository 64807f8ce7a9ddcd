"""A generator in this process: what it is given, what it may yield, how it is told what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import generators
import numpy as np
import pytest
from generators import generate
from processes import environ, until

from wlshard.errors import (
    CodecError,
    GroupingError,
    NotFound,
    StoreUnavailable,
    UsageError,
    UserCodeError,
)
from wlshard.jobs.generate import run_job
from wlshard.jobs.job import Job, Progress
from wlshard.jobs.usercode import load
from wlshard.loader import samples
from wlshard.pool.pool import Pool


def rows(pool: Path) -> list[Any]:
    """Promote all of a pool and give its json fields."""
    rotation = Pool(pool).rotate()
    return [sample["json"] for sample in samples(pool)] if rotation.generation else []


def test_samples_go_into_a_pool_that_is_made(tmp_path: Path) -> None:
    made = generate(generators.five, str(tmp_path / "p"))
    assert (made.generated, made.sealed, made.dropped, made.shards) == (5, 5, 0, 1)
    assert [row["n"] for row in rows(tmp_path / "p")] == [0, 1, 2, 3, 4]


def test_plain_shards_instead_of_a_pool(tmp_path: Path) -> None:
    generate(generators.five, str(tmp_path / "x-%06d.tar"), shard_samples=2)
    read = [sample for n in range(3) for sample in samples(str(tmp_path / f"x-{n:06d}.tar"))]
    assert [sample["__key__"] for sample in read] == [f"{n:09d}" for n in range(5)]


def test_the_same_seed_makes_the_same_samples_and_another_others(tmp_path: Path) -> None:
    drawn = []
    for n, seed in enumerate((7, 7, 8, None, None)):
        generate(generators.five, str(tmp_path / f"{n}-%d.tar"), seed=seed)
        drawn.append([sample["json"]["draw"] for sample in samples(str(tmp_path / f"{n}-0.tar"))])
    assert drawn[0] == drawn[1]
    assert len({tuple(each) for each in drawn}) == 4


def test_a_generator_that_ends_too_early_is_called_again_and_repeats_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = generate(generators.five, str(tmp_path / "p"), samples=12, seed=1)
    assert made.sealed == 12
    assert "called again" in caplog.text
    read = rows(tmp_path / "p")
    assert [row["n"] for row in read] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert len({row["draw"] for row in read}) == 12


def test_a_generator_is_given_what_it_has_parameters_for(tmp_path: Path) -> None:
    generate(generators.asks, str(tmp_path / "p"), args={"size": 8})
    assert rows(tmp_path / "p") == [[0, 1, "cpu", 8, "x"]]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({}, "needs 'size': give it a default or --arg size=VALUE"),
        ({"size": 1, "speed": 2}, "no parameter 'speed': it has worker, workers, device, size, name"),
    ],
)
def test_a_wrong_argument_is_a_usage_error(tmp_path: Path, args: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        generate(generators.asks, str(tmp_path / "p"), args=args)


def test_tuples_get_the_names_of_fields(tmp_path: Path) -> None:
    generate(generators.pairs, str(tmp_path / "x-%d.tar"), fields=("cls", "txt"))
    read = list(samples(str(tmp_path / "x-0.tar")))
    assert [(sample["cls"], sample["txt"]) for sample in read] == [(n, f"text {n}") for n in range(4)]


def test_a_bare_value_is_the_only_field(tmp_path: Path) -> None:
    generate(generators.bare, str(tmp_path / "x-%d.tar"), fields=("cls",))
    assert [sample["cls"] for sample in samples(str(tmp_path / "x-0.tar"))] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("function", "fields", "error", "told"),
    [
        (generators.triples, ("a", "b"), UserCodeError, r"line \d+ of .*yielded 3 values for 2 fields"),
        (generators.triples, None, UserCodeError, "yielded tuple: yield a dict of fields, or name"),
        (generators.five, ("a",), UserCodeError, "yields dicts, which name their fields: leave out --fields"),
        (generators.no_generator, None, UserCodeError, "returned int: it must be a generator function"),
        (generators.nothing, None, UserCodeError, "ended without yielding a sample"),
        (generators.unencodable, None, CodecError, "unencodable, sample 0 .* cannot encode object"),
        (generators.same_key, None, GroupingError, "same_key, sample 1 .* this key is in the shard already"),
        (generators.quits, None, UserCodeError, "SystemExit"),
    ],
)  # fmt: skip
def test_what_is_no_sample_is_an_error_that_says_what_and_where(
    tmp_path: Path, function: Any, fields: tuple[str, ...] | None, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        generate(function, str(tmp_path / "p"), fields=fields)


def test_an_error_carries_the_users_traceback_and_what_was_whole_is_sealed(tmp_path: Path) -> None:
    with pytest.raises(UserCodeError) as caught:
        generate(generators.fails, str(tmp_path / "p"))
    assert "generators.py" in caught.value.message
    assert "ValueError: the scanner is on fire" in caught.value.message
    assert "usercode.py" not in caught.value.message
    assert Pool(tmp_path / "p").rotate().promoted.samples == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_seals_what_is_whole_and_is_then_delivered(tmp_path: Path, number: int) -> None:
    code = (
        "import sys, generators;"
        "generators.generate(generators.blocking, sys.argv[1], args={'folder': sys.argv[2]})"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "p"), str(tmp_path)]
    with subprocess.Popen(run, env=environ(), stderr=subprocess.DEVNULL) as process:
        until(lambda: list(tmp_path.glob("hangs-*")), "the generator")
        process.send_signal(number)
        code_ended = process.wait(60)
    assert code_ended == -number  # Python ends by SIGINT after KeyboardInterrupt, too
    assert Pool(tmp_path / "p").rotate().promoted.samples == 3


def test_a_signal_inside_write_waits_for_the_whole_sample(tmp_path: Path) -> None:
    class Signals:
        """A buffer whose encoding is interrupted."""

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
            os.kill(os.getpid(), signal.SIGINT)
            return np.zeros(3)

    def two() -> Iterator[dict[str, Any]]:
        yield {"a.json": 1, "b.npy": Signals(), "c.json": 3}
        yield {"a.json": 2}

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        generate(two, str(tmp_path / "x-%d.tar"))
    assert signal.getsignal(signal.SIGINT) is before
    assert [sorted(s) for s in samples(str(tmp_path / "x-0.tar"))] == [
        ["__key__", "__url__", "a.json", "b.npy", "c.json"]
    ]


def seal(pool: Path, count: int) -> None:
    generate(generators.numbered, str(pool), samples=count)


def test_at_the_cap_it_waits_says_so_once_and_goes_on_after_a_rotation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = tmp_path / "p"
    seal(pool, 10)

    def rotate_when_it_waits() -> None:
        until(lambda: "waiting for a rotation" in caplog.text, "the warning")
        Pool(pool).rotate()

    rotator = threading.Thread(target=rotate_when_it_waits)
    rotator.start()
    made = generate(generators.numbered, str(pool), samples=4, cap=10)
    rotator.join()
    assert made.sealed == 4
    assert caplog.text.count("waiting for a rotation") == 1
    assert "is full (10 samples)" in caplog.text
    assert "going on after" in caplog.text


def test_at_the_cap_it_drops_if_asked_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pool = tmp_path / "p"
    seal(pool, 10)
    made = generate(generators.numbered, str(pool), samples=50, cap=12, when_full="drop")
    assert (made.generated, made.sealed, made.dropped) == (50, 2, 48)
    assert caplog.text.count("dropped so far") == 1


def test_a_shard_that_is_due_is_sealed_while_waiting(tmp_path: Path) -> None:
    pool = Pool(tmp_path / "p").create()
    seen: list[int] = []

    def report(progress: Progress) -> None:
        if progress.waiting_s is not None:  # it waits for its own, unsealed samples: only time seals them
            seen.append(progress.sealed)
            if progress.sealed:
                pool.rotate()

    job = Job("numbered", str(tmp_path / "p"), samples=8, cap=5, shard_seconds=0.2)
    assert run_job(job, generators.numbered, report).sealed == 8
    assert seen[0] == 0
    assert max(seen) >= 5


def test_a_cap_needs_a_pool(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a cap is for a pool"):
        generate(generators.five, str(tmp_path / "x-%d.tar"), cap=3)


def test_each_start_and_each_worker_has_its_own_seed(tmp_path: Path) -> None:
    drawn = set()
    for worker, start in ((0, 0), (0, 1), (1, 0)):
        target = str(tmp_path / f"{worker}-{start}-%d.tar")
        job = Job("five", target, seed=3, worker=worker, workers=2, start=start)
        run_job(job, generators.five, lambda _: None)
        shard = target % worker
        drawn |= {sample["json"]["draw"] for sample in samples(shard)}
    assert len(drawn) == 15


def test_a_full_disk_is_a_typed_error_and_what_was_sealed_stays(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("a full disk needs a tmpfs, which only root may mount")
    try:

        def large() -> Iterator[dict[str, Any]]:
            while True:
                yield {"bin": os.urandom(1 << 20)}

        with pytest.raises(StoreUnavailable, match="disk is full") as caught:
            generate(large, str(tmp_path / "p"), shard_samples=2)
        assert caught.value.code == 12
        whole = Pool(tmp_path / "p").buffer()
        assert sum(shard.samples for shard in whole) >= 4
        for sample in samples([Pool(tmp_path / "p").shard_url(shard.name) for shard in whole]):
            assert len(sample["bin"]) == 1 << 20
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_functions_are_found_by_module_and_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my-gen.py").write_text("import beside\ndef make():\n    yield {'cls': beside.X}\n")
    (tmp_path / "beside.py").write_text("X = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    assert list(load("my-gen.py:make")()) == [{"cls": 3}]
    assert load("generators:five") is generators.five
    assert load("generators:subjects.make") == generators.subjects.make


def test_a_file_in_a_package_has_its_relative_imports_and_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brains" / "sub").mkdir(parents=True)
    for name in ("__init__.py", "sub/__init__.py"):
        (tmp_path / "brains" / name).touch()
    (tmp_path / "brains" / "consts.py").write_text("X = 3\n")
    (tmp_path / "brains" / "sub" / "close_by.py").write_text("Y = 4\n")
    made = "from ..consts import X\nimport close_by\ndef make():\n    yield {'cls': X + close_by.Y}\n"
    (tmp_path / "brains" / "sub" / "gen.py").write_text(made)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    assert list(load("brains/sub/gen.py:make")()) == [{"cls": 7}]


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("generators", UsageError, "MODULE:FUNCTION"),
        ("generators:nix", NotFound, "its generators are: numbered, five"),
        ("generators:os", UsageError, "is module, no function"),
        ("no.such:f", NotFound, "there is no module no.such"),
        ("no/such.py:f", NotFound, "no such Python file"),
        ("broken.py:f", UserCodeError, "importing broken.py failed.*\n(.*\n)*NameError"),
        ("needs.py:f", UserCodeError, "No module named 'not_there'"),
    ],
)
def test_what_cannot_be_loaded_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception], told: str
) -> None:
    (tmp_path / "broken.py").write_text("nonsense\n")
    (tmp_path / "needs.py").write_text("import not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    with pytest.raises(error, match=told):
        load(name)
