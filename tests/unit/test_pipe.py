"""`pipe:` URLs: run where that is allowed only, never half, and ended with who reads them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest
from processes import environ, gone, until

from wlshard import Loader, ShardWriter, samples
from wlshard.errors import AccessDenied, StoreUnavailable, UsageError
from wlshard.store import options, pipe
from wlshard.store.connect import locate

SAMPLES = 30


@pytest.fixture(autouse=True)
def no_options_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(options.VARIABLE, "")


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A shard of three megabytes, more than a pipe holds."""
    with ShardWriter(f"{tmp_path}/x-%06d.tar") as writer:
        for number in range(SAMPLES):
            writer.write({"cls": number, "bin": bytes(100_000)})
    return tmp_path / "x-000000.tar"


def test_a_command_is_a_shard(shard: Path) -> None:
    url = f"pipe:cat {shard} | gzip -1"
    assert [row["cls"] for row in samples(url, allow_pipe=True)] == list(range(SAMPLES))
    with Loader(url, "cls", batch_size=10, epochs=2) as loader:
        assert [n for (labels,) in loader for n in labels.tolist()] == [*range(SAMPLES)] * 2
    urls = f"pipe:cat {shard.parent}/x-{{000000..000000}}.tar::{shard}"
    assert [row["cls"] for row in samples(urls)] == [*range(SAMPLES)] * 2


def test_nobody_runs_a_command_unasked(shard: Path, tmp_path: Path) -> None:
    url = f"pipe:touch {tmp_path}/owned"
    (tmp_path / "list.json").write_text(f'{{"shardlist": [{{"url": "{url}; cat http://x"}}]}}')
    for source in (url, [url], f"{tmp_path}/list.json", f"{shard}::{url}"):
        with pytest.raises(UsageError):
            list(samples(source))
    options.use_options(None, allow_pipe=True)
    with pytest.raises(UsageError, match="may not name commands"):
        list(samples(f"{tmp_path}/list.json"))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("cat {}; exit 7", "status 7"),
        ("cat {}; kill -9 $$", "SIGKILL"),
        ("head -c 1500000 {}; exit 3", "status 3"),
        ("{{ cat {}; exit 5; }} | cat", "status 5"),
        ("no-such-program {}", "status 127"),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_command_that_fails_is_an_error_and_no_shorter_shard(
    shard: Path, command: str, how: str, on_error: str
) -> None:
    url = "pipe:" + command.format(shard)
    with pytest.raises(StoreUnavailable, match=how) as caught:
        list(samples([url], allow_pipe=True, on_error=on_error))
    assert caught.value.url == url
    with pytest.raises(StoreUnavailable, match=how), Loader([url], "cls", batch_size=4) as loader:
        list(loader)


def test_what_a_command_says_is_shown(shard: Path, capfd: pytest.CaptureFixture[str]) -> None:
    list(samples(f"pipe:echo here I am >&2; cat {shard}", allow_pipe=True))
    assert "here I am" in capfd.readouterr().err


@pytest.fixture
def pids(tmp_path: Path) -> str:
    """Commands that write their process's id, and that of a child that sleeps."""
    return f"echo $$ >{tmp_path}/a; sleep 1000 & echo $! >{tmp_path}/b"


def started(folder: Path) -> list[int]:
    return [
        int(until(lambda n=name: (folder / n).exists() and (folder / n).read_text(), name)) for name in "ab"
    ]


def test_who_stops_reading_ends_the_whole_group(shard: Path, pids: str, tmp_path: Path) -> None:
    rows = iter(samples(f"pipe:{pids}; cat {shard}; wait", allow_pipe=True))
    assert len(list(islice(rows, 5))) == 5
    ids = started(tmp_path)
    rows.close()
    gone(ids)


def test_a_deaf_command_is_killed(
    shard: Path, pids: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "_PATIENCE_S", 0.05)
    rows = iter(samples(f"pipe:trap '' TERM; {pids}; cat {shard}", allow_pipe=True))
    next(rows)
    ids = started(tmp_path)
    rows.close()
    gone(ids)


def test_interrupting_a_command_ends_what_it_reads_from(shard: Path, pids: str, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "wlshard.cli.extract", "-f", "cls", f"pipe:cat {shard}; {pids}; wait"]
    refused = subprocess.run(line, env=environ(), capture_output=True, text=True)
    assert (refused.returncode, "--allow-pipe" in refused.stderr) == (2, True)
    with subprocess.Popen(
        [*line, "--allow-pipe"], env=environ(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        ids = started(tmp_path)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait() == 130
        assert process.stderr is not None
        assert process.stderr.read() == ""
    gone(ids)


INTERRUPTED = """
import os, signal, sys
from wlshard.store import pipe
class Popen(pipe.subprocess.Popen):
    def _execute_child(self, *given):
        super()._execute_child(*given)
        if sys.argv[2] == "starting":
            os.kill(os.getpid(), signal.SIGINT)
pipe.subprocess.Popen = Popen
reader = pipe.PipeReader(sys.argv[1])
if sys.argv[2] == "started":
    while not os.path.exists(sys.argv[3]):
        pass
    raise KeyboardInterrupt
"""


@pytest.mark.parametrize("when", ["starting", "started"])
def test_interrupting_a_command_the_instant_it_starts_ends_it(pids: str, tmp_path: Path, when: str) -> None:
    line = [sys.executable, "-c", INTERRUPTED, f"pipe:{pids}; wait", when, f"{tmp_path}/b"]
    done = subprocess.run(line, env=environ(), capture_output=True, text=True, timeout=60)
    assert "KeyboardInterrupt" in done.stderr
    gone([int(path.read_text() or 0) for path in (tmp_path / "a", tmp_path / "b") if path.exists()])
    assert not sleeping(tmp_path)


def sleeping(folder: Path) -> list[str]:
    """List the processes whose command names a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = process.read_bytes().split(b"\0")
            if words[:1] == [b"bash"] and str(folder).encode() in b" ".join(words):
                found.append(process.parent.name)
    return found


def test_nothing_is_written_to_a_command(tmp_path: Path) -> None:
    options.use_options(None, allow_pipe=True)
    store, name = locate(f"pipe:cat >{tmp_path}/out")
    with pytest.raises(AccessDenied):
        store.put(name, b"x")
    with pytest.raises(UsageError), ShardWriter(f"pipe:cat >{tmp_path}/%d") as writer:
        writer.write({"cls": 1})
    assert not list(tmp_path.iterdir())
