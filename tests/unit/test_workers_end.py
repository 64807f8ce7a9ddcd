"""However a loader with workers ends, nothing of it is left: killed, interrupted, forgotten, stopped."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from ending import Run
from loading import row
from processes import environ, gone, until

from wlshard import Loader, ShardWriter, UsageError
from wlshard.workers.main import Back
from wlshard.workers.memory import Memory, shared_file
from wlshard.workers.worker import Slot


@pytest.mark.parametrize("phase", ["starting", "waiting", "consuming", "between", "thread"])
def test_when_the_parent_is_killed_its_workers_end(tmp_path, phase) -> None:
    with Run(tmp_path, "fork", phase) as run:
        run.until_now()
        workers = run.others()
        run.process.kill()
        assert run.process.wait(20) == -signal.SIGKILL
        assert len(workers) == 2 or phase == "starting"
        until(lambda: not run.others(), "the end of the workers")


@pytest.mark.parametrize("phase", ["starting", "waiting", "consuming", "between"])
def test_an_interrupt_at_the_terminal_ends_all_with_one_traceback(tmp_path, phase) -> None:
    with Run(tmp_path, "fork", phase) as run:
        run.until_now()
        os.killpg(run.process.pid, signal.SIGINT)
        _, told = run.process.communicate(timeout=20)
        assert run.process.returncode == -signal.SIGINT
        assert told.count("KeyboardInterrupt\n") == told.count("most recent call last") == 1
        until(lambda: not run.others(), "the end of the workers")  # one just forked sees its parent's end


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_workers_of_another_start_method_work_and_end(tmp_path, method) -> None:
    with Run(tmp_path, method, "forgotten") as run:
        shown, told = run.process.communicate(timeout=60)
        assert (run.process.returncode, shown, told) == (0, "199\n", "")
        until(lambda: not run.others(), "the end of the workers")
    with Run(tmp_path, method, "waiting") as run:  # each in user code, which looks at nothing
        run.until_now()
        run.until_now()
        run.process.kill()
        until(lambda: not run.others(), "the end of the workers")


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_that_have_not_begun_end_with_their_parent_whatever_they_import(
    tmp_path, method, number
) -> None:
    with Run(tmp_path, method, "importing") as run:
        run.until_now()
        run.until_now()
        run.process.send_signal(number)
        assert run.process.wait(20) == -number
        until(lambda: not run.others(), "the end of the workers")


NOTEBOOK = """
import sys
from wlshard import Loader

class Times:
    def __init__(self, by):
        self.by = by

    def __call__(self, sample):
        return twice(sample["n"]) * self.by

def twice(number):
    return 2 * number

rows = [{"n": n} for n in range(12)]
for function in (lambda sample: twice(sample["n"]), Times(3)):
    with Loader(rows, batch_size=6, transform=function, workers=2, start_method=sys.argv[1]) as loader:
        print([batch.tolist() for batch in loader])
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_what_a_notebook_defines_is_sent_to_workers(method) -> None:
    """A program without a file, as a notebook is: nothing of it can be imported."""
    command = [sys.executable, "-c", NOTEBOOK, method]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environ(),
        stdin=subprocess.DEVNULL,
    )
    once = [list(range(0, 12, 2)), list(range(12, 24, 2))]
    thrice = [[3 * n for n in batch] for batch in once]
    assert (done.stderr, done.stdout) == ("", f"{once}\n{thrice}\n")


@pytest.mark.parametrize("size", [1, 1 << 20])  # what fits into a pipe is sent before the worker has begun
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_program_that_works_when_it_is_imported_is_told_why_its_workers_ended(
    tmp_path, method, size
) -> None:
    path = tmp_path / "train.py"
    path.write_text(
        NOTEBOOK.replace("workers=2", "workers=1").replace('{"n": n}', f'{{"n": n, "x": "x" * {size}}}')
    )
    done = subprocess.run(
        [sys.executable, str(path), method],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environ(),
    )
    assert "WorkerDied: worker 0" in (last := done.stderr.splitlines()[-1])
    assert '__name__ == "__main__"' in last
    assert done.stdout == ""


def test_a_loader_that_is_never_closed_holds_up_nothing(tmp_path) -> None:
    with Run(tmp_path, "fork", "forgotten") as run:
        shown, told = run.process.communicate(timeout=20)
        assert (run.process.returncode, shown, told) == (0, "199\n", "")
        assert run.others() == []


FORGOTTEN = """
from wlshard import Loader
loader = Loader([{"n": n} for n in range(40)], workers=2, shuffle=6)
steps = iter(loader)
for _ in range(3):
    next(steps)
while not loader.stats()["ready"]:
    next(steps)
"""


def test_a_program_may_end_in_mid_epoch_while_batches_wait_for_it() -> None:
    command = [sys.executable, "-c", FORGOTTEN]
    done = subprocess.run(command, capture_output=True, text=True, env=environ(), timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_interrupt_while_an_array_goes_is_not_lost_and_neither_is_the_slot() -> None:
    class End:
        words: ClassVar[list[bytes]] = []

        def send(self, word: bytes, _flags: int) -> None:
            self.words.append(word)
            if len(self.words) == 1:
                raise KeyboardInterrupt

    memory = Memory(fd := shared_file(4096), 4096)
    os.close(fd)
    held = [Slot(7, memory, End()).whole()]
    assert End.words == []
    with pytest.raises(KeyboardInterrupt):
        until(held.clear, "the interrupt")
    assert [pickle.loads(word) for word in End.words] == [Back(7, left=False)] * 2


def test_a_stopped_worker_does_not_hold_up_close() -> None:
    loader = Loader([row(n) for n in range(4000)], batch_size=2, workers=2)
    next(iter(loader))
    workers = [worker.pid for worker in loader._hands._workers]
    os.kill(workers[0], signal.SIGSTOP)
    loader.close()
    gone(workers)


def test_a_worker_that_is_busy_ends_with_its_loader_and_need_not_be_killed(monkeypatch) -> None:
    (never, writer), (told, tell) = os.pipe(), os.pipe()

    def wait(sample):
        if sample["n.index"] == 2:
            os.write(tell, b".")
            os.read(never, 1)
        return sample

    loader = Loader([row(n) for n in range(8)], batch_size=2, transform=wait, workers=1)
    iterator = iter(loader)
    next(iterator)
    (worker,) = loader._hands._workers
    kill, killed = worker._process.kill, []
    monkeypatch.setattr(worker._process, "kill", lambda: killed.append(worker) or kill())
    os.read(told, 1)
    loader.close()
    for end in (never, writer, told, tell):
        os.close(end)
    assert not killed


FINALIZER = """
import os, select, sys
from wlshard import Loader
os.mkfifo(sys.argv[1])
class Slow:
    def __del__(self):
        open(sys.argv[1], "w").close()
        select.select([], [], [], 20)
def late(sample):
    if sample["n"] == 1:
        Slow()
    return sample["n"]
with Loader([{"n": n} for n in range(8)], workers=1, transform=late) as loader:
    steps = iter(loader)
    next(steps)
    open(sys.argv[1]).close()  # once the finalizer has opened the other end
"""


def test_a_worker_told_to_end_within_a_finalizer_ends_and_prints_nothing(tmp_path) -> None:
    command = [sys.executable, "-c", FINALIZER, f"{tmp_path}/mark"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ(), timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_child_forked_by_the_user_leaves_the_workers_alone_and_may_begin_anew() -> None:
    rows = [row(n) for n in range(400)]
    with Loader(rows, batch_size=2, workers=2) as loader:
        iterator = iter(loader)
        batch = next(iterator)
        child = os.fork()
        if child == 0:
            del batch  # gives no slot back: it is the parent's
            code = 1
            try:
                next(iterator)
            except UsageError:
                code = 0 if sum(1 for _ in loader) == 200 else 2
            finally:
                loader.close()
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert batch["n.index"].tolist() == [0, 1]
        assert sum(1 for _ in iterator) == 199
        assert sum(1 for _ in loader) == 200


def test_a_process_that_may_have_no_children_says_so(tmp_path) -> None:
    code = """
import multiprocessing
from wlshard import Loader, UsageError

def inner():
    try:
        next(iter(Loader([{"n": 1}], workers=1)))
    except UsageError as error:
        print(error.message, flush=True)

process = multiprocessing.get_context("fork").Process(target=inner, daemon=True)
process.start()
process.join()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "use workers=0" in done.stdout
    assert done.stderr == ""


MEMORY = """
import sys
from wlshard import Loader
import wlshard.loader, wlshard.stream.collate, wlshard.workers.crew


def held(process):
    with open(f"/proc/{process}/smaps_rollup") as file:
        return int(file.read().partition("\\nPss:")[2].split()[0]) * 1024


base, most, announced = held("self"), 0, 0
batch, shuffle, epochs = map(int, sys.argv[2:])
with Loader(sys.argv[1], batch_size=batch, shuffle=shuffle, workers=2, epochs=epochs) as loader:
    for number, _ in enumerate(loader):
        if number % (40 // batch):
            continue
        workers = [worker.pid for worker in loader._hands._workers]
        most = max(most, held("self") - base + sum(map(held, workers)))
        announced = max(announced, loader.stats()["announced_bytes"])
print(most, announced)
"""


@pytest.mark.parametrize("shuffle", [0, 40])
def test_memory_is_what_was_announced(tmp_path, shuffle) -> None:
    with ShardWriter(str(tmp_path / "x-%d.tar"), shard_samples=20) as writer:
        for n in range(80):
            writer.write({"x.npy": np.full(2**20, n, np.uint8)})
    held, announced = memory(tmp_path, 4, shuffle, 2)
    assert 0.6 * announced < held < 1.1 * announced  # less where reading does not come as far ahead as it may


def test_memory_stays_as_announced_with_small_ragged_samples_read_in_pieces_of_all_sizes(tmp_path) -> None:
    with ShardWriter(str(tmp_path / "x-%d.tar"), shard_samples=500) as writer:
        for n in range(4000):
            image = np.full((64, 64, 3), n % 256, np.uint8)
            writer.write({"image.npy": image, "ragged.npy": np.arange(n % 100, dtype=np.float32)})
    held, announced = memory(tmp_path, 32, 1000, 8)
    assert held < 1.1 * announced


def memory(folder: Path, *arguments: int) -> tuple[int, int]:
    """Give what a loader with two workers held, and what it announced."""
    script = [sys.executable, "-c", MEMORY, str(folder), *map(str, arguments)]
    done = subprocess.run(script, capture_output=True, check=True)
    held, announced = map(int, done.stdout.split())
    return held, announced


@pytest.mark.long
def test_a_thousand_loaders_come_and_go_without_growth(tmp_path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    sizes = []
    for number in range(1000):
        with Loader([row(n) for n in range(20)], batch_size=2, workers=2) as loader:
            next(iter(loader))
        if number % 100 == 99:
            sizes.append((resident(), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))))
    assert sizes[-1][1:] == sizes[0][1:]
    assert sizes[-1][0] - sizes[1][0] < 2**22, sizes
