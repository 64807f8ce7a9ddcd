"""What every test shares: real input files, and the promise that nothing is left behind."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

LIBC = ctypes.CDLL(None)
SHARED_MEMORY = Path("/dev/shm")
# What multiprocessing's, torch's and our shared memory is called; other programs keep files there too.
NAMED = ("psm_", "sem.", "torch_", "wlshard")

# nohup, and a shell's `&`, make children deaf to these: those that are sent signals here must hear them.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _usual)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real input files, named by WLSHARD_TEST_DATA."""
    folder = os.environ.get("WLSHARD_TEST_DATA")
    if not folder:
        pytest.skip("set WLSHARD_TEST_DATA to the folder of real input files to run this")
    if not Path(folder).is_dir():
        pytest.fail(f"WLSHARD_TEST_DATA={folder} is no folder")
    return Path(folder)


@pytest.fixture
def memory_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty memory:// root of this test's own, emptied at the end."""
    from wlshard.store.connect import connect

    url = f"memory://{request.node.nodeid}"
    yield url
    store = connect(url)
    for entry in list(store.list()):
        store.delete(entry.name)
    for entry in list(store.drafts()):
        store.drop(entry.name)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what stands now stays: later collections need not look at it


@pytest.fixture(autouse=True, scope="module")
def memory_is_given_back() -> Iterator[None]:
    """Keep the process small: each fork of a later test copies its page tables."""
    yield
    gc.collect()
    if hasattr(LIBC, "malloc_trim"):
        LIBC.malloc_trim(0)


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Fail a test that leaves an open fd, a thread, a child process or a named piece of shared memory."""
    before = things_held()
    yield
    end_connections()
    left = things_held() - before
    if left:
        gc.collect()  # a caught exception's traceback may hold frames, and they what they had open
        end_feeders()
        left = things_held() - before
        left -= mapped_by_others(left)
    assert not left, f"left behind: {sorted(left)}"


def end_connections() -> None:
    """Close the connections that stores keep for their next request, as long as their process lives."""
    for module in ("wlshard.store.wire", "wlshard.store.s3"):
        if module in sys.modules:
            sys.modules[module].forget_connections()


def end_feeders() -> None:
    """Wait for the threads of multiprocessing's queues: torch closes its own and does not wait for them."""
    for thread in threading.enumerate():
        if thread.name == "QueueFeederThread":
            thread.join(5)


def things_held() -> set[str]:
    return {*open_files(), *running_threads(), *child_processes(), *shared_memory()}


def open_files() -> Iterator[str]:
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    exempt = str(tracker._resource_tracker._fd) if tracker else ""  # lives as long as the interpreter
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the one that listed the folder
        if fd != exempt:
            yield f"fd {fd} → {target}"


def running_threads() -> Iterator[str]:
    return (f"thread {thread.name}" for thread in threading.enumerate())


def child_processes() -> Iterator[str]:
    for task in os.listdir("/proc/self/task"):
        try:
            children = Path(f"/proc/self/task/{task}/children").read_text().split()
        except FileNotFoundError:
            continue  # a thread that ended meanwhile
        for child in children:
            command = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
            if "resource_tracker" not in command:
                yield f"child {child}: {command}"


def mapped_by_others(held: set[str]) -> set[str]:
    """Give the shared memory among these that other processes have, other tests at the same time among them.

    Our own children that live are told as such.
    """
    found: set[str] = set()
    inodes = {}
    for one in held:
        with suppress(OSError):  # it is gone, or is no file
            inodes[str(os.stat(one).st_ino)] = one  # a semaphore is mapped under another name
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        if process.name != str(os.getpid()):
            with suppress(OSError):  # it has ended meanwhile, or is another user's
                lines = (process / "maps").read_text(errors="replace").splitlines()
                mapped = {line.split()[4] for line in lines if "/dev/shm/" in line}
                found |= {one for inode, one in inodes.items() if inode in mapped}
    return found


def shared_memory() -> Iterator[str]:
    if SHARED_MEMORY.is_dir():
        names = (entry.name for entry in SHARED_MEMORY.iterdir())
        yield from (f"{SHARED_MEMORY}/{name}" for name in names if name.startswith(NAMED))
