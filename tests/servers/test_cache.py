"""This machine's cache of shards: what it spares, what it never serves, how much it holds, and its end."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from ais import AisGateway
from faulty import FaultyServer, Handler, answers, faulty, takes_its_time
from servers import WebServer

from wlshard import Loader, ShardWriter, samples
from wlshard.errors import NotFound, StoreUnavailable, WlshardError
from wlshard.shards.access import ShardAccess
from wlshard.shards.reader import open_shard
from wlshard.store import cache as cache_module
from wlshard.store import cached, options
from wlshard.store.cache import BLOCK_BYTES, Cache

SAMPLES, SHARDS = 40, 4
SAMPLE_BYTES = 200_000  # a shard is two blocks


@pytest.fixture(autouse=True)
def no_options_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(options.VARIABLE, "")
    monkeypatch.setattr(cached, "_known", {})


def write(folder: Path, add: int = 0) -> str:
    """Write four shards with indexes; give their URL's last part."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("x-*"):
        old.unlink()
    write_to(str(folder), add)
    return "x-{000000..000003}.tar"


def write_to(url: str, add: int = 0) -> None:
    with ShardWriter(f"{url}/x-%06d.tar", shard_samples=SAMPLES // SHARDS) as writer:
        for number in range(add, add + SAMPLES):
            writer.write({"cls": number, "bin": bytes([number]) * SAMPLE_BYTES})


@pytest.fixture(scope="module")
def shards(nginx: WebServer) -> str:
    return "cached/" + write(nginx.folder / "cached")


@pytest.fixture
def door(nginx: WebServer) -> Iterator[FaultyServer]:
    with faulty(nginx.url) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> dict[str, object]:
    return {"cache_dir": str(tmp_path / "cache"), "cache_bytes": 1 << 30}


def held(cache: dict[str, object]) -> int:
    """Sum up the files, while nobody makes room."""
    folder = Path(str(cache["cache_dir"])) / "shards"
    if not (folder / "bytes").exists():
        return 0
    with (folder / "bytes").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sizes = {}
        for file in folder.glob("*/*"):
            with suppress(FileNotFoundError):  # renamed: it is seen twice, or once
                sizes[file.stat().st_ino] = file.stat().st_size
    return sum(sizes.values())


def labels(url: str, **cache: object) -> list[int]:
    rows = [(label, data[0], len(data)) for label, data in samples(url, fields="cls bin", **cache)]
    assert all(row == (row[0], row[0], SAMPLE_BYTES) for row in rows)
    return [label for label, *_ in rows]


def asked(door: FaultyServer) -> list[str]:
    """Give the ranges asked for of tars, but for those that only find out their version."""
    return [
        range_ or ""
        for method, path, range_ in door.requests
        if method == "GET" and path.endswith(".tar") and range_ != "bytes=0-0"
    ]


def test_what_was_streamed_once_is_not_fetched_again(
    door: FaultyServer, shards: str, cache: dict[str, object]
) -> None:
    assert labels(f"{door.url}/{shards}", **cache) == list(range(SAMPLES))
    assert asked(door)
    door.requests.clear()
    assert labels(f"{door.url}/{shards}", **cache) == list(range(SAMPLES))
    assert not asked(door)
    assert len(door.requests) == SHARDS


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_in_another_order_comes_from_the_cache(
    door: FaultyServer, shards: str, cache: dict[str, object], workers: int
) -> None:
    """Workers share it; a part of a shard is no reason to ask for its version each time."""
    with Loader(
        f"{door.url}/{shards}", "cls bin", batch_size=4, shuffle=20, workers=workers, **cache
    ) as loader:
        for epoch in range(2):
            door.requests.clear()
            got = [int(label) for batch, data in loader for label in batch if data[0][0] is not None]
            assert sorted(got) == list(range(SAMPLES))
            assert bool(asked(door)) == (epoch == 0)
            if epoch and not workers:
                assert not [path for _, path, _ in door.requests if path.endswith(".tar")]


def test_the_first_sample_does_not_wait_for_the_shard(
    door: FaultyServer, shards: str, cache: dict[str, object]
) -> None:
    url = f"{door.url}/cached/x-000000.tar"
    rows = iter(samples(url, fields="cls", **cache))
    assert next(rows) == (0,)
    assert held(cache) <= BLOCK_BYTES
    assert sum(1 for _ in rows) == SAMPLES // SHARDS - 1


CHILD = """
import os, sys
from wlshard import samples
from wlshard.store import cache
url, folder, limit, die_at, where = sys.argv[1:]
kept, rename, write_all = [0], os.rename, cache.write_all
def dies(*_):
    kept[0] += 1
    if kept[0] == int(die_at):
        if where == "half":
            write_all(_[0], [_[1][0][:1000]], 0)
        os.kill(os.getpid(), 9)
if where == "rename":
    os.rename = lambda *names: (dies(), rename(*names))
else:
    cache.write_all = lambda *given: (dies(*given), write_all(*given))
for label, data in samples(url, fields="cls bin", cache_dir=folder, cache_bytes=int(limit)):
    assert data == bytes([label]) * len(data)
    print(label)
"""


def child(
    url: str, cache: dict[str, object], die_at: int = 0, where: str = "rename"
) -> subprocess.Popen[str]:
    words = [url, str(cache["cache_dir"]), str(cache["cache_bytes"]), str(die_at), where]
    return subprocess.Popen([sys.executable, "-c", CHILD, *words], stdout=subprocess.PIPE, text=True)


def waits(process: subprocess.Popen[str]) -> bool:
    """Tell whether a process has opened the lock of a block."""
    for fd in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if os.readlink(fd).endswith(".lock"):
                return True
    return False


@pytest.mark.parametrize("where", ["half", "write", "rename"])
def test_a_reader_killed_while_it_fills_leaves_nothing_half(
    door: FaultyServer, shards: str, cache: dict[str, object], where: str
) -> None:
    for die_at in (1, 2):
        process = child(f"{door.url}/{shards}", cache, die_at, where)
        process.communicate()
        assert process.returncode == -9
        assert labels(f"{door.url}/cached/x-000000.tar", **cache) == list(range(SAMPLES // SHARDS))
    assert labels(f"{door.url}/{shards}", **cache) == list(range(SAMPLES))


def test_a_block_that_a_power_cut_has_shortened_is_fetched_again(
    door: FaultyServer, shards: str, cache: dict[str, object]
) -> None:
    labels(f"{door.url}/{shards}", **cache)
    for number, block in enumerate(Path(str(cache["cache_dir"])).glob("shards/*/*")):
        os.truncate(block, 1000 * number)
    assert labels(f"{door.url}/{shards}", **cache) == list(range(SAMPLES))


def test_processes_read_and_fill_at_the_same_time_within_the_bound(
    door: FaultyServer, shards: str, cache: dict[str, object]
) -> None:
    cache["cache_bytes"] = limit = 3 * BLOCK_BYTES
    readers = [child(f"{door.url}/{shards}", cache) for _ in range(2)]
    most = 0
    while any(reader.poll() is None for reader in readers):
        most = max(most, held(cache))
    assert [reader.communicate()[0].split() for reader in readers] == [[str(n) for n in range(SAMPLES)]] * 2
    assert all(reader.returncode == 0 for reader in readers)
    assert 0 < most <= limit
    assert held(cache) > 0


def test_what_was_used_longest_ago_makes_room(
    door: FaultyServer, shards: str, cache: dict[str, object]
) -> None:
    cache["cache_bytes"] = 5 * BLOCK_BYTES
    often, once = f"{door.url}/cached/x-000000.tar", f"{door.url}/cached/x-00000%d.tar"
    labels(often, **cache)
    for number in (1, 2, 3):
        labels(once % number, **cache)
        door.requests.clear()
        labels(often, **cache)
        assert not asked(door)
    labels(once % 1, **cache)
    assert asked(door)


def test_blocks_used_within_one_tick_of_the_system_make_room_in_their_order(tmp_path: Path) -> None:
    blocks = Cache(str(tmp_path), 16 << 10)
    data = memoryview(bytearray(1 << 10))
    numbers = list(range(16))
    for number in numbers:
        blocks.keep(blocks.place("x", str(number)), number, data)
    for number in reversed(numbers):  # sizes are equal, names as random as digests
        assert blocks.load(blocks.place("x", str(number)), number, data)
    blocks.keep(blocks.place("x", "new"), 0, data)
    left = [number for number in numbers if blocks.has(blocks.place("x", str(number)), number)]
    assert left == numbers[: len(left)]
    assert 0 < len(left) < len(numbers)


def test_a_changed_object_is_read_anew_and_never_mixed(nginx: WebServer, cache: dict[str, object]) -> None:
    folder = nginx.folder / "changes"
    url = f"{nginx.url}/changes/{write(folder)}"
    assert labels(url, **cache) == list(range(SAMPLES))
    rows = iter(samples(url, fields="cls", **cache))
    assert [label for (label,) in islice(rows, 3)] == [0, 1, 2]
    write(folder, add=100)
    for shard in folder.glob("*.tar"):
        os.utime(shard, (1, 1))  # nginx's tags are of seconds
    shutil.rmtree(str(cache["cache_dir"]))
    with suppress(StoreUnavailable):  # begun before the change: its own, if all of it was on its way
        assert [label for (label,) in islice(rows, SAMPLES // SHARDS - 3)] == list(
            range(3, SAMPLES // SHARDS)
        )
    assert labels(url, **cache) == list(range(100, 100 + SAMPLES))
    (folder / "x-000001.tar").unlink()
    with pytest.raises(NotFound):
        labels(url, **cache)


def test_who_begins_again_after_a_change_sees_what_is_there_now(
    nginx: WebServer, cache: dict[str, object]
) -> None:
    write(nginx.folder / "again")
    options.use_options(None, **cache)
    shard = nginx.folder / "again" / "x-000000.tar"
    with ShardAccess(f"{nginx.url}/again/x-000000.tar") as access:
        assert access.read(1, 1)[0]["cls"] == b"1"
        shard.write_bytes(shard.read_bytes().replace(b"\1" * SAMPLE_BYTES, b"x" * SAMPLE_BYTES))
        os.utime(shard, (1, 1))
        assert access.read(1, 1)[0]["bin"] == b"\1" * SAMPLE_BYTES  # within a minute, and all of it is here
        with pytest.raises(StoreUnavailable, match="changed"):
            access.read(SAMPLES // SHARDS - 1, 1)
        assert access.read(1, 1)[0]["bin"] == b"x" * SAMPLE_BYTES


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder on another file system than the test's."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm that can be written")
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="far-") as folder:
        if os.stat(folder).st_dev == os.stat(tempfile.gettempdir()).st_dev:
            pytest.skip("temporary files lie in shared memory, too")
        yield Path(folder)


def test_slow_shared_folders_are_kept_by_size_and_time(shared_folder: Path, cache: dict[str, object]) -> None:
    url = f"{shared_folder}/{write(shared_folder)}"
    assert labels(url, **cache) == list(range(SAMPLES))
    shard = shared_folder / "x-000000.tar"
    state = shard.stat()
    shard.write_bytes(bytes(state.st_size))
    os.utime(shard, ns=(state.st_mtime_ns, state.st_mtime_ns))  # what nobody can tell comes from the cache
    assert labels(str(shard), **cache) == list(range(SAMPLES // SHARDS))
    write(shared_folder, add=100)
    assert labels(url, **cache) == list(range(100, 100 + SAMPLES))
    rows = iter(samples(url, fields="cls", **cache))
    next(rows)
    shutil.rmtree(str(cache["cache_dir"]))
    with shard.open("r+b") as file:  # in place, while it is read
        file.write(b"x")
    with pytest.raises(StoreUnavailable, match="changed"):
        list(rows)


def test_a_shard_on_the_same_disk_is_read_where_it_is(tmp_path: Path, cache: dict[str, object]) -> None:
    assert labels(f"{tmp_path}/d/{write(tmp_path / 'd')}", **cache) == list(range(SAMPLES))
    assert not held(cache)


def test_commands_take_a_cache_too(door: FaultyServer, shards: str, cache: dict[str, object]) -> None:
    given = f"cache_dir={cache['cache_dir']},cache_bytes=1G"
    line = [sys.executable, "-m", "wlshard.cli.extract", "-f", "cls", f"{door.url}/{shards}"]
    for _ in range(2):
        door.requests.clear()
        done = subprocess.run([*line, "--storage-options", given], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [str(number) for number in range(SAMPLES)]
    assert not asked(door)


RANK = """
import sys
from wlshard import Loader
url, folder, rank, world = *sys.argv[1:3], *map(int, sys.argv[3:])
with Loader(url, "cls bin", batch_size=4, shuffle=20, workers=2, rank=rank, world_size=world, epochs=2,
            cache_dir=folder, cache_bytes=1 << 30) as loader:
    for labels, data in loader:
        assert all(row == bytes([label]) * len(row) for label, row in zip(labels, data))
        print(*labels.tolist())
"""


@pytest.mark.parametrize("scheme", ["s3", "gs", "ais"])
def test_ranks_and_workers_of_a_host_fetch_each_block_once(
    scheme: str,
    request: pytest.FixtureRequest,
    moto: str,
    gcs_stub: str,
    ais: AisGateway,
    monkeypatch: pytest.MonkeyPatch,
    cache: dict[str, object],
) -> None:
    url = "ais://bucket" if scheme == "ais" else request.getfixturevalue(f"{scheme}_url")
    write_to(url)
    with faulty({"s3": moto, "gs": gcs_stub, "ais": ais.url}[scheme]) as door:
        for variable in ("AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST", "AIS_ENDPOINT"):
            monkeypatch.setenv(variable, door.url)
        words = [sys.executable, "-c", RANK, f"{url}/x-{{000000..000003}}.tar", str(cache["cache_dir"])]
        ranks = [
            subprocess.Popen([*words, str(rank), "2"], stdout=subprocess.PIPE, text=True) for rank in (0, 1)
        ]
        seen = [int(label) for rank in ranks for label in rank.communicate()[0].split()]
        assert sorted(seen) == sorted([*range(SAMPLES)] * 2)
        blocks: Counter[tuple[str, int]] = Counter()
        for method, path, range_ in door.requests:
            name = unquote(path).partition("?")[0].rpartition("/")[2]
            told = range_ == "bytes=0-0" or (scheme == "gs" and "alt=media" not in path)  # of it, not it
            if method == "GET" and name.endswith(".tar") and not told:
                begin, end = (int(at or 1 << 21) for at in (range_ or "=0-").partition("=")[2].split("-"))
                blocks.update(
                    (name, number) for number in range(begin // BLOCK_BYTES, end // BLOCK_BYTES + 1)
                )
        assert set(blocks.values()) == {1}, blocks
        assert {name for name, _ in blocks} == {f"x-{number:06d}.tar" for number in range(SHARDS)}


SMALL = """
import sys, wlshard
url, folder = sys.argv[1:]
for _ in range(2):
    print([label for (label,) in wlshard.samples(url, fields="cls", cache_dir=folder, cache_bytes=1 << 30)])
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="only root may mount a small disk"
)
def test_a_full_disk_ends_the_cache_not_the_reading(door: FaultyServer, shards: str, tmp_path: Path) -> None:
    inside = f'mount -t tmpfs -o size=3m none {tmp_path} && exec {sys.executable} -c "$SCRIPT" "$@"'
    words = ["unshare", "-m", "sh", "-c", inside, "sh", f"{door.url}/{shards}", f"{tmp_path}/c"]
    done = subprocess.run(words, env=os.environ | {"SCRIPT": SMALL}, capture_output=True, text=True)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    assert done.stdout.splitlines() == [str(list(range(SAMPLES)))] * 2
    assert done.stderr.count("reading goes on without it") == 1
    assert "No space left" in done.stderr


def test_a_cache_that_cannot_be_made_is_done_without(
    door: FaultyServer, shards: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    got = labels(f"{door.url}/{shards}", cache_dir=str(tmp_path / "file"), cache_bytes=1 << 30)
    assert got == list(range(SAMPLES))
    assert len([record for record in caplog.records if "reading goes on" in record.message]) == 1


def test_faults_of_the_store_stay_errors(door: FaultyServer, shards: str, cache: dict[str, object]) -> None:
    with pytest.raises(WlshardError):
        labels(f"{door.url}/cached/absent.tar", **cache)


def test_what_several_processes_read_at_once_is_fetched_once(
    door: FaultyServer, shards: str, cache: dict[str, object]
) -> None:
    door.fault = takes_its_time
    readers = [child(f"{door.url}/{shards}", cache) for _ in range(3)]
    assert [reader.communicate()[0].split() for reader in readers] == [[str(n) for n in range(SAMPLES)]] * 3
    ranges = Counter((path, range_) for _, path, range_ in door.requests if range_ != "bytes=0-0")
    assert max(ranges.values()) == 1, ranges
    assert not list(Path(str(cache["cache_dir"])).glob("shards/*/*.lock"))


def test_a_process_that_dies_while_others_wait_for_its_block_is_not_waited_for(
    door: FaultyServer, shards: str, cache: dict[str, object]
) -> None:
    arrived, ended = threading.Event(), threading.Event()

    def hangs(handler: Handler) -> bool:
        if handler.command == "GET" and handler.headers.get("Range") != "bytes=0-0" and not arrived.is_set():
            arrived.set()
            ended.wait(20)
        return False

    door.fault = hangs
    url = f"{door.url}/cached/x-000000.tar"
    holder = child(url, cache)
    assert arrived.wait(20)
    follower = child(url, cache)
    while not waits(follower):
        assert follower.poll() is None
    holder.kill()
    holder.communicate()
    assert follower.communicate()[0].split() == [str(n) for n in range(SAMPLES // SHARDS)]
    ended.set()


def test_who_is_slow_with_a_block_is_not_waited_for_long(
    door: FaultyServer, shards: str, cache: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{door.url}/cached/x-000000.tar"
    rows = iter(samples(url, fields="cls", **cache))
    assert next(rows) == (0,)  # and claims the next block
    got: list[int] = []
    monkeypatch.setattr(cached, "WAIT_S", 0.05)
    other = threading.Thread(target=lambda: got.extend(labels(url, **cache)))
    other.start()
    other.join()
    assert got == list(range(SAMPLES // SHARDS))
    assert len(list(rows)) == len(got) - 1
    again = iter(samples(f"{door.url}/cached/x-000001.tar", fields="cls", **cache))
    next(again)
    monkeypatch.setattr(cached, "WAIT_S", 1e6)  # who waited for itself would wait for ever
    assert len(labels(f"{door.url}/cached/x-000001.tar", **cache)) == len(got)
    assert len(list(again)) == len(got) - 1


def test_a_block_has_its_size_with_its_last_byte(
    door: FaultyServer, shards: str, cache: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut leaves zeros, which look like a block."""
    sizes, write_all = [], cache_module.write_all

    def seen(fd: int, *given: Any) -> int:
        sizes.append(os.fstat(fd).st_size)
        return write_all(fd, *given)

    monkeypatch.setattr(cache_module, "write_all", seen)
    labels(f"{door.url}/cached/x-000000.tar", **cache)
    assert sizes == [0, 0]


NO_WRITING = {
    "wlshard.store.cache.write_all": OSError(errno.EIO, "Input/output error"),
    "os.rename": OSError(errno.ENOSPC, "No space left on device"),
    "os.utime": OSError(errno.EROFS, "Read-only file system"),
}


@pytest.mark.parametrize("name", NO_WRITING)
def test_a_write_that_fails_ends_the_cache_not_the_reading(
    door: FaultyServer,
    shards: str,
    cache: dict[str, object],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise NO_WRITING[name]

    with monkeypatch.context() as broken:
        broken.setattr(name, fails)
        for _ in range(2):
            assert labels(f"{door.url}/{shards}", **cache) == list(range(SAMPLES))
    assert caplog.text.count("reading goes on without it") == 1
    assert not list(Path(str(cache["cache_dir"])).glob("shards/*/*"))


def test_where_no_thread_can_be_had_what_is_read_is_kept_all_the_same(
    door: FaultyServer, shards: str, cache: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as crowded:
        crowded.setattr(cached.futures.ThreadPoolExecutor, "submit", none_left)
        assert labels(f"{door.url}/cached/x-000000.tar", **cache) == list(range(SAMPLES // SHARDS))
    door.requests.clear()
    assert labels(f"{door.url}/cached/x-000000.tar", **cache) == list(range(SAMPLES // SHARDS))
    assert not asked(door)


class Slow:
    """Writes nothing before it is let."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.let = threading.Event(), threading.Event()
        self._write_all = cache_module.write_all
        monkeypatch.setattr(cache_module, "write_all", self)

    def __call__(self, fd: int, parts: Any, at: int) -> int:
        self.began.set()
        assert self.let.wait(20)
        return self._write_all(fd, parts, at)


def test_who_leaves_while_a_block_is_written_leaves_it_whole(
    door: FaultyServer, shards: str, cache: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    rows = iter(samples(f"{door.url}/cached/x-000000.tar", fields="cls", **cache))
    assert next(rows) == (0,)
    assert slow.began.wait(20)
    leaving = threading.Thread(target=rows.close)
    leaving.start()
    slow.let.set()
    leaving.join()
    (block,) = Path(str(cache["cache_dir"])).glob("shards/*/*")
    assert (block.name, block.stat().st_size) == ("00000000", BLOCK_BYTES)


def test_a_block_that_is_being_written_is_not_read_into_after_an_error(
    door: FaultyServer,
    shards: str,
    cache: dict[str, object],
    nginx: WebServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options.use_options(None, **cache)
    slow, block = Slow(monkeypatch), memoryview(bytearray(BLOCK_BYTES))
    gone = answers(404)
    door.fault = lambda handler: "=0-" not in str(handler.headers["Range"]) and gone(handler)
    with open_shard(f"{door.url}/cached/x-000000.tar", cached=True) as reader:
        assert reader.readinto(block) == BLOCK_BYTES
        assert slow.began.wait(20)
        with pytest.raises(NotFound):
            reader.readinto(block)
        rest = (nginx.folder / "cached" / "x-000000.tar").read_bytes()[BLOCK_BYTES:]
        (folder,) = Path(str(cache["cache_dir"])).glob("shards/*/")
        (folder / "00000001").write_bytes(rest)  # another process has fetched it meanwhile
        reading = threading.Thread(target=reader.readinto, args=(block,))
        reading.start()
        reading.join(0.2)
        slow.let.set()
        reading.join()
    assert (folder / "00000000").read_bytes() + rest == (
        nginx.folder / "cached" / "x-000000.tar"
    ).read_bytes()
