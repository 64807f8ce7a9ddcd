"""wl-run as it is typed: generators, rotation and a consumer end together, however the end comes."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from processes import environ, gone, hanging, lives, until

from wlshard.cli.run import StatusLine, main, told
from wlshard.jobs.job import Job
from wlshard.jobs.run import Snapshot, run
from wlshard.jobs.supervise import Totals
from wlshard.pool.pool import Pool

RUN = [sys.executable, "-P", "-c", "from wlshard.cli.run import main; main()"]

TRAINS = """
import os, sys, wlshard
with wlshard.Loader(os.environ["WL_POOL"], "json", batch_size=10) as loader:
    print(sum(len(rows) for epoch in range(int(sys.argv[1])) for (rows,) in loader) >= 20 * int(sys.argv[1]))
"""

# Hangs until SIGINT or SIGTERM, of which it tells the name and the number.
HANGS = """
import os, signal, sys, time
heard = []
def hear(number, _):
    heard.append(signal.Signals(number).name)
    open(os.path.join(sys.argv[1], "heard"), "w").write(" ".join(heard))
    if sys.argv[2] != "deaf" or number == signal.SIGTERM and sys.argv[2] == "half-deaf":
        sys.exit(5)
signal.signal(signal.SIGINT, hear)
signal.signal(signal.SIGTERM, hear)
if sys.argv[2] == "parent":
    child = os.fork()
    if not child:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while True:
            time.sleep(60)
    open(os.path.join(sys.argv[1], f"hangs-child-{child}"), "w")
open(os.path.join(sys.argv[1], f"hangs-consumer-{os.getpid()}"), "w")
while True:
    time.sleep(60)
"""


def words(function: str, pool: Path, *args: object, consumer: list[object]) -> list[str]:
    return [*RUN, f"generators:{function}", str(pool), *map(str, args), "--", *map(str, consumer)]


def hangs(folder: Path, how: str = "") -> list[object]:
    return [sys.executable, "-c", HANGS, folder, how]


@contextmanager
def running(command: list[str], **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """Run it in a session of its own: no terminal sends it signals."""
    with subprocess.Popen(
        command, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, **settings,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def family(process: subprocess.Popen[str]) -> list[int]:
    """List all processes below."""
    found, new = list[int](), [process.pid]
    while new:
        new = [
            int(child)
            for pid in new
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
        found += new
    return found


def test_it_generates_rotates_and_trains_until_the_consumer_ends(tmp_path: Path) -> None:
    command = words(
        "numbered", tmp_path / "p", "--at", 20, "-P", 2, consumer=[sys.executable, "-c", TRAINS, 3]
    )
    ended = subprocess.run(command, env=environ(), capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr
    assert "a rotation each 20 samples, generators pause at 80" in ended.stderr
    assert "generated" in ended.stderr
    pool = Pool(tmp_path / "p")
    assert pool.generations()[-1] >= 1
    assert not list((tmp_path / "p" / "shards").glob("*.partial"))


def test_what_a_finished_generator_left_is_promoted_though_it_is_little(tmp_path: Path) -> None:
    command = words(
        "five", tmp_path / "p", "--at", 1000, consumer=[sys.executable, "-c", TRAINS.replace("20", "5"), 1]
    )
    ended = subprocess.run(command, env=environ(), capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr


@pytest.mark.parametrize(
    ("consumer", "code"), [(["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -9 $$"], 137)]
)
def test_the_consumers_exit_code_is_ours(tmp_path: Path, consumer: list[object], code: int) -> None:
    command = words("numbered", tmp_path / "p", consumer=consumer)
    ended = subprocess.run(command, env=environ(), capture_output=True)
    assert ended.returncode == code


def test_the_consumer_has_our_stdin_and_the_pools_place(tmp_path: Path) -> None:
    command = words("numbered", Path("p"), consumer=["sh", "-c", 'cat; echo "$WL_POOL"'])
    ended = subprocess.run(
        command, env=environ(), cwd=tmp_path, input="hello\n", capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (0, f"hello\n{tmp_path}/p\n")


def test_what_the_consumer_leaves_running_is_ended(tmp_path: Path) -> None:
    command = words(
        "numbered", tmp_path / "p", consumer=["sh", "-c", f"sleep 1000 & echo $! > {tmp_path}/left"]
    )
    subprocess.run(command, env=environ(), capture_output=True)
    gone([int((tmp_path / "left").read_text())])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("how", ["", "parent"])
def test_a_signal_while_training_ends_the_consumer_then_the_generators_which_seal(
    tmp_path: Path, number: int, how: str
) -> None:
    command = words("blocking", tmp_path / "p", "--arg", f"folder={tmp_path}", consumer=hangs(tmp_path, how))
    with running(command) as process:
        hanging(tmp_path, 3 if how else 2)
        below = family(process)
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
        gone(below)
    assert (process.returncode, out) == (130, "")
    number = signal.SIGTERM if number == signal.SIGHUP else number
    assert (tmp_path / "heard").read_text() == signal.Signals(number).name
    assert Pool(tmp_path / "p").rotate().promoted.samples == 3


def test_a_signal_at_the_very_start_leaves_nothing(tmp_path: Path) -> None:
    command = words("blocking", tmp_path / "p", "--arg", f"folder={tmp_path}", consumer=hangs(tmp_path))
    with running(command) as process:
        assert process.stderr is not None
        process.stderr.readline()  # it is about to start them
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    gone([int(path.name.split("-")[2]) for path in tmp_path.glob("hangs-*")])


def test_a_signal_while_the_trainer_waits_for_samples_leaves_nothing(tmp_path: Path) -> None:
    command = words(
        "blocking", tmp_path / "p", "--arg", f"folder={tmp_path}", "--at", 1000,
        consumer=[sys.executable, "-c", TRAINS, 1],
    )  # fmt: skip
    with running(command) as process:
        assert process.stderr is not None
        hanging(tmp_path, 1)
        while "waiting for samples" not in process.stderr.readline():
            pass
        below = family(process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        gone(below)
    assert process.returncode == 130
    assert Pool(tmp_path / "p").rotate().promoted.samples == 3


def test_a_second_signal_kills_who_does_not_hear_the_first(tmp_path: Path) -> None:
    command = words("deaf", tmp_path / "p", "--arg", f"folder={tmp_path}", consumer=hangs(tmp_path, "deaf"))
    with running(command) as process:
        hanging(tmp_path, 2)
        below = family(process)
        process.send_signal(signal.SIGINT)
        until((tmp_path / "heard").exists, "the first signal")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        gone(below)
    assert process.returncode == 130


def test_nothing_survives_the_kill_of_wl_run(tmp_path: Path) -> None:
    command = words(
        "blocking", tmp_path / "p", "--arg", f"folder={tmp_path}", consumer=hangs(tmp_path, "parent")
    )
    with running(command) as process:
        hanging(tmp_path, 3)
        below = family(process)
        assert len(below) >= 4
        process.kill()
        gone(below)
    assert (tmp_path / "heard").read_text() == "SIGTERM"
    assert sum(shard.samples for shard in Pool(tmp_path / "p").buffer()) == 3


def test_control_c_on_a_terminal_reaches_the_consumer_once(tmp_path: Path) -> None:
    ours, theirs = os.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    command = words("blocking", tmp_path / "p", "--arg", f"folder={tmp_path}", consumer=hangs(tmp_path))
    process = subprocess.Popen(
        command, env=environ(), stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, preexec_fn=take_terminal,
    )  # fmt: skip
    os.close(theirs)
    try:
        pids = hanging(tmp_path, 2)
        os.write(ours, b"\x03")
        shown = b""
        while data := _read(ours):
            shown += data
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    gone(pids)
    assert (tmp_path / "heard").read_text() == "SIGINT"
    assert b"\r\x1b[Kgenerated" in shown
    assert Pool(tmp_path / "p").rotate().promoted.samples == 3


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # its last user has closed it
        return b""


def test_a_generator_that_is_given_up_ends_the_consumer_and_the_run(tmp_path: Path) -> None:
    command = words("nothing", tmp_path / "p", consumer=hangs(tmp_path))
    with running(command) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 23
    assert "ended without yielding a sample" in err.splitlines()[-1]
    gone([int(path.name.split("-")[2]) for path in tmp_path.glob("hangs-*")])


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["f:f", "p"], 2, "say what generates"),
        (["f:f", "--", "true"], 2, "say what generates"),
        (["f:f", "p", "--demo"], 2, "leave them out"),
        (["f:f", "p", "--at", "10", "--cap", "5", "--", "true"], 2, "a cap of 5"),
        (["f:f", "x-%d.tar", "--", "true"], 2, "plain shards cannot be rotated"),
        (["f:f", "p", "--", "no-such-command"], 10, "there is no command 'no-such-command'"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, args)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def snapshot(**totals: Any) -> Snapshot:
    return Snapshot(Totals(**totals), buffered=8, cap=40, generation=3, samples=20, served=50, reuse=2.5)


def test_the_status_line_says_all_in_one() -> None:
    assert told(snapshot(generated=60)) == (
        "generated 60 · buffered 8/40 · generation 3 (20 samples) · served 50 · reuse 2.5"
    )
    waits = told(snapshot(generated=60, waiting_s=12.3, dropped=2, restarts=1))
    assert waits.endswith("· generators wait 12 s · dropped 2 · restarts 1")
    large = Snapshot(Totals(generated=12345, waiting_s=12), 400, 400, 123, 1000, 54321, 12.5)
    narrow = "made 12345, buffered 400/400, generation 123 (1000), served 54321, reuse 12.5"
    assert told(large, 77) == f"{narrow}, generators wait 12 s"
    assert len(narrow) == 77  # all that must be seen, on a terminal of 80 columns


def test_off_a_terminal_a_status_line_comes_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    with StatusLine() as line:
        for _ in range(5):
            line.show(snapshot())
    assert capsys.readouterr().err.count("\n") == 1


def test_the_last_status_line_says_how_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    with StatusLine() as line:
        line.show(snapshot(generated=1))
        line.show(snapshot(generated=2))
    assert [text.split()[1] for text in capsys.readouterr().err.splitlines()] == ["1", "2"]


def test_a_terminal_that_is_closed_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def isatty(self) -> bool:
            return True

        def write(self, _: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Closed())
    with StatusLine() as line:
        line.show(snapshot())


def test_the_demo_runs_and_leaves_a_table_and_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "demo"
    command = [*RUN, "--demo", "--out", str(out), "--size", "24", "--steps", "6", "--seed", "1"]
    ended = subprocess.run(command, env=environ(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "served to the trainer" in ended.stdout
    assert (out / "pool" / "wlshard.json").exists()
    if "picture is" in ended.stdout:
        assert list(out.glob("*.png"))
    again = subprocess.run(command, env=environ(), capture_output=True, text=True)
    assert again.returncode == 2
    assert "exists already" in again.stderr


@pytest.fixture(autouse=True)
def _nobody_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    left = [pid for path in tmp_path.glob("hangs-*") if lives(pid := int(path.name.split("-")[2]))]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def test_json_is_no_option_here(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["f:f", str(tmp_path / "p"), "--json", "--", "true"])
    assert result.exit_code == 2
    assert json.loads(result.stderr.splitlines()[-1])["error"] == "UsageError"


READS_ON = """
import os, sys, wlshard
pool = wlshard.Pool(os.environ["WL_POOL"])
most = 0
with wlshard.Loader(pool, "json", batch_size=5) as loader:
    while pool.newest() is None or pool.newest().generation < 16:
        for batch in loader:
            there = [name for name in os.listdir(pool.url + "/shards") if name.endswith(".tar")]
            most = max(most, sum(int(name.split("-")[-2]) for name in there))
open(sys.argv[1], "w").write(str(most))
"""


def test_what_lies_on_the_disk_does_not_grow_with_the_generations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wlshard.jobs.run.TURN_S", 0.05)
    monkeypatch.setattr(os, "environ", environ())
    job = Job("generators:numbered", str(tmp_path / "p"), cap=40, shard_samples=5)
    consumer = [sys.executable, "-c", READS_ON, str(tmp_path / "most")]
    assert run(job, consumer, parallel=2, at=20, show=lambda _: None) == 0
    pool = Pool(tmp_path / "p")
    assert pool.newest().generation >= 16  # each of 20 samples or more: 320 in all
    # The newest two, the one that the consumer still read, and the write buffer, each of 50 at most.
    assert int((tmp_path / "most").read_text()) <= 200
    pool.retire()
    named = {shard.name for g in pool.generations() for shard in pool.manifest(g).shards}
    waiting = {shard.name for shard in pool.buffer()}
    assert len(pool.generations()) == 2
    assert {path.name for path in (tmp_path / "p" / "shards").glob("*.tar")} == named | waiting
