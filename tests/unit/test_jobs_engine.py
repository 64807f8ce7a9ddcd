"""The local engine: tasks in other processes, answers in order, nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import processes
import pytest

from wlshard.errors import TarError, UsageError, WorkerDied
from wlshard.jobs.engine import Task, open_engine
from wlshard.jobs.frames import Frames, send


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", processes.environ()["PYTHONPATH"])


def doubles(count: int) -> Iterator[Task]:
    for n in range(count):
        yield Task("tasks:double", {"n": n, "wait_s": 0.05 if n == 0 else 0}, [b"%d" % n, b"." * 100_000])


@pytest.mark.parametrize("ahead", [None, 1, 4])
def test_answers_come_in_the_order_of_the_tasks(ahead: int | None) -> None:
    with open_engine("local", 3) as engine:
        answers = list(engine.run(doubles(20), ahead=ahead))
    assert [answer.value["n"] for answer in answers] == list(range(20))
    for n, answer in enumerate(answers):
        assert b"".join(answer.body) == 2 * (b"%d" % n + b"." * 100_000)
    assert len({answer.value["pid"] for answer in answers}) <= 3


def test_tasks_are_taken_no_further_ahead_than_told() -> None:
    taken = []

    def tasks() -> Iterator[Task]:
        for task in doubles(20):
            taken.append(task)
            yield task

    with open_engine("local", 2) as engine, closing(engine.run(tasks(), ahead=4)) as answers:
        for n, _ in enumerate(answers):
            assert len(taken) <= n + 1 + 4 + 1


def test_an_error_of_ours_is_raised_in_its_turn() -> None:
    tasks = [*doubles(3), Task("tasks:fail", {"n": 512}), *doubles(3)]
    with open_engine("local", 2) as engine:
        answers = engine.run(tasks)
        assert [next(answers).value["n"] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(TarError, match="cut here") as caught:
            next(answers)
    assert (caught.value.url, caught.value.offset) == ("x.tar", 512)


def test_a_process_that_dies_is_an_error_not_a_hang() -> None:
    with open_engine("local", 2) as engine, pytest.raises(WorkerDied, match="exit code 7"):
        list(engine.run([*doubles(2), Task("tasks:die", {})]))


def test_leaving_early_ends_what_runs(tmp_path: Path) -> None:
    marks = [f"{tmp_path}/{n}" for n in range(2)]
    with open_engine("local", 3) as engine:
        answers = engine.run([*doubles(1), *(Task("tasks:hang", {"mark": mark}) for mark in marks)])
        next(answers)
        pids = [
            int(
                Path(
                    processes.until(lambda m=mark: os.path.exists(m + ".pid") and m + ".pid", mark)
                ).read_text()
            )
            for mark in marks
        ]
        answers.close()
    assert not any(map(processes.lives, pids))


def test_an_unknown_engine_is_told() -> None:
    with pytest.raises(UsageError, match="no engine"):
        open_engine("moon", 1)


def test_frames_pass_whole_through_small_reads_and_end_quietly() -> None:
    theirs, ours = os.pipe()
    try:
        send(ours, {"a": "é\udcff"}, [b"abc", memoryview(b""), b"\n{"])
        send(ours, {"b": 1})
        send(ours, {"c": 1}, [b"x" * 30_000])
        os.write(ours, b'[{"cut')
        os.close(ours)
        frames = Frames(theirs)
        got = [frames.next() for _ in range(3)]
        assert [(head, bytes(body)) for head, body in filter(None, got)] == [
            ({"a": "é\udcff"}, b"abc\n{"),
            ({"b": 1}, b""),
            ({"c": 1}, b"x" * 30_000),
        ]
        assert frames.next() is None
    finally:
        os.close(theirs)
