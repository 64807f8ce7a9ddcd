"""The scripts of notebooks/ train for real on photographs, and go on exactly where they were killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from processes import environ, until
from web import Quiet, served

from wlshard import ShardWriter, samples

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
SMALL = ["--classes", "10", "--image-size", "32", "--batch-size", "20", "--processes", "1"]
# What learns in ten seconds of a core. MobileNet is Keras' smallest.
SCRIPTS = {
    "pytorch-resnet50.py": ["--model", "resnet18", "--epochs", "3", "--lr", "0.05"],
    "keras-resnet50.py": ["--model", "MobileNet", "--epochs", "3", "--lr", "0.02"],
}
ENDS_S = 240


@contextmanager
def running(command: list[str], **options) -> Iterator[subprocess.Popen[str]]:
    """Run in a group of its own, all of which is gone at the end; torchrun's ranks have their own."""
    env = environ() | {"KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(command, env=env, text=True, start_new_session=True, **options)
    try:
        yield process
    finally:
        if "torch.distributed.run" in command:
            process.terminate()
            process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def finished(command: list[str]) -> list[dict]:
    """Run to the end; give the reports of the epochs."""
    with running(command, stdout=subprocess.PIPE) as process:
        out, _ = process.communicate(timeout=ENDS_S)
    assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


def killed(command: list[str], log: Path, steps: int) -> None:
    """Run until so many steps were logged."""
    with running(command, stdout=subprocess.DEVNULL) as process:
        until(lambda: len(losses(log)) >= steps or process.poll() is not None, f"{steps} steps")
    assert len(losses(log)) >= steps


def losses(log: Path) -> list[tuple[int, float]]:
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [(entry["step"], entry["loss"]) for entry in found]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_tells_its_options(script) -> None:
    with running([sys.executable, str(NOTEBOOKS / script), "--help"], stdout=subprocess.PIPE) as process:
        shown, _ = process.communicate(timeout=ENDS_S)
    assert process.returncode == 0
    assert "--checkpoint-every" in shown


@pytest.mark.timeout(300)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_learns_and_goes_on_exactly_where_it_was_killed(script, test_data, tmp_path) -> None:
    whole, parts = tmp_path / "whole.log", tmp_path / "parts.log"
    command = [sys.executable, str(NOTEBOOKS / script), *SMALL, *SCRIPTS[script]]
    command += ["--training-urls", str(test_data / "photos-{000000..000003}.tar"), "--checkpoint-every", "4"]
    val = ["--val-urls", str(test_data / "photos-000003.tar")]
    once = ["--losses", str(whole), "--checkpoint", str(tmp_path / "once")]
    reports = finished([*command, *once, *val])
    assert [report["epoch"] for report in reports] == list(range(3))
    accuracy = "top1" if "top1" in reports[-1] else "accuracy"
    assert reports[-1][accuracy] > 0.4  # a guess is right in one of ten
    assert reports[-1]["top5"] > 0.8
    assert reports[-1]["loss"] < reports[0]["loss"] * 0.8
    assert 0 <= reports[-1][f"val_{accuracy}"] <= 1
    expected = losses(whole)
    assert [step for step, _ in expected] == list(range(1, 31))

    resumable = [*command, "--losses", str(parts), "--checkpoint", str(tmp_path / "run")]
    killed(resumable, parts, 6)  # in the first epoch, behind the checkpoint of step 4
    before = len(losses(parts))
    killed(resumable, parts, before + 8)  # over the epoch's end
    found = losses(parts)
    assert found[before][0] in (5, 9)
    assert found[-1][0] > 10
    assert set(found) <= set(expected)


@pytest.mark.timeout(300)
def test_two_processes_train_together_and_one_goes_on_over_what_is_left(test_data, tmp_path) -> None:
    with ShardWriter(str(tmp_path / "x-%d.tar"), shard_samples=70) as writer:  # 70, 70, 60
        for sample in samples(str(test_data / "photos-{000000..000003}.tar"), decode=False):
            writer.write(sample)
    log = tmp_path / "log"
    script = [str(NOTEBOOKS / "pytorch-resnet50.py"), *SMALL, "--batch-size", "9"]
    script += ["--training-urls", str(tmp_path / "x-*.tar"), "--model", "resnet18", "--epochs", "2"]
    script += ["--losses", str(log), "--checkpoint", str(tmp_path / "run"), "--checkpoint-every", "3"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    killed([*torchrun, *script], log, 13)  # an epoch has 200 // (2 · 9) = 11 steps
    before = len(losses(log))
    saved = 12 if before < 15 else 15
    reports = finished([sys.executable, *script])
    left = 200 - (saved - 11) * 2 * 9
    assert [step for step, _ in losses(log)[before:]] == [saved + 1 + step for step in range(left // 9)]
    assert [report["epoch"] for report in reports] == [1]


class Proxy(Quiet):
    """A plain web server, which gives whole files only; and a proxy, as it takes what follows the host."""

    def translate_path(self, path: str) -> str:
        return super().translate_path("/" + path.rpartition("/")[2])


@pytest.mark.timeout(200)
def test_shards_come_from_a_web_server_by_its_proxy(test_data) -> None:
    with served(test_data, Proxy) as url:
        command = [sys.executable, str(NOTEBOOKS / "pytorch-resnet50.py"), *SMALL]
        command += ["--training-urls", "http://shards.example/photos-{000000..000001}.tar"]
        command += ["--training-size", "60", "--model", "resnet18", "--epochs", "1", "--http-proxy", url]
        reports = finished(command)
    assert [report["epoch"] for report in reports] == [0]
