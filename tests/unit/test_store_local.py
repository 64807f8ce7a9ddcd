"""Local folders: what is particular to files."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlshard import clock
from wlshard.errors import AccessDenied, NotFound, StoreUnavailable, UsageError
from wlshard.store.connect import connect, is_local, local_path, locate
from wlshard.store.files import write_all
from wlshard.store.local import NEWBORN_S


@pytest.fixture
def store(tmp_path):
    return connect(str(tmp_path))


def failing(number):
    def call(*_, **__):
        raise OSError(number, os.strerror(number))

    return call


def in_child(action):
    """Run action in a forked child of this process; give its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(
    ("number", "kind", "advice"),
    [
        (errno.ENOSPC, StoreUnavailable, "free some space"),
        (errno.EDQUOT, StoreUnavailable, "quota"),
        (errno.EIO, StoreUnavailable, "I/O error"),
        (errno.ESTALE, StoreUnavailable, "check the disk"),
        (errno.EROFS, AccessDenied, "read-only"),
        (errno.EACCES, AccessDenied, "owner and mode"),
    ],
)
def test_what_the_system_refuses_is_an_error_with_advice(store, monkeypatch, number, kind, advice):
    for call in ("pwritev", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(number))
            with pytest.raises(kind, match=advice) as caught:
                store.put("folder/name", b"data")
            assert store.url in caught.value.url
    assert list(store.list()) == []
    assert list(store.drafts()) == []


def test_a_full_disk_leaves_no_scratch_and_the_old_object(store, monkeypatch):
    store.put("a", b"old")
    monkeypatch.setattr(os, "pwritev", failing(errno.ENOSPC))
    with pytest.raises(StoreUnavailable):
        store.put("a", b"new")
    assert store.read("a") == b"old"
    assert os.listdir(store.root) == ["a"]


def test_a_draft_can_be_ended_properly_after_the_disk_was_full_for_a_while(store, monkeypatch):
    real = os.pwritev

    def half(fd, parts, at):
        if at > 6:
            raise OSError(errno.ENOSPC, "full")
        return real(fd, [memoryview(parts[0])[:5]], at)

    with store.draft("x") as draft:
        draft.write([b"whole", b"END"])
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", half)
            with pytest.raises(StoreUnavailable):
                draft.write([b"cut in the middle"], at=5)
        draft.write([b"END"], at=5)
        draft.publish("x")
    assert store.read("x") == b"wholeEND"


def test_short_writes_are_continued(store, monkeypatch):
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, at: real(fd, [memoryview(parts[0])[:3]], at))
    store.put("a", b"more than three bytes")
    assert store.read("a") == b"more than three bytes"


@given(sizes=st.lists(st.sampled_from([0, 1, 511, 70_000, 126_976, 126_977, 300_001]), max_size=6))
def test_no_write_is_as_large_as_the_pages_that_a_host_takes_back(tmp_path_factory, sizes):
    written, real = [], os.pwritev
    parts = [bytes([number]) * size for number, size in enumerate(sizes)]
    with (
        (tmp_path_factory.getbasetemp() / "pieces").open("w+b") as file,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(os, "pwritev", lambda fd, some, at: written.append(real(fd, some, at)) or written[-1])
        assert write_all(file.fileno(), parts, 0) == sum(sizes)
        assert file.read() == b"".join(parts)
    assert max(written, default=0) < 1 << 17


def test_the_umask_holds(store):
    before = os.umask(0o027)
    try:
        store.put("a/b", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(store.path("a/b")).st_mode) == 0o640
    assert stat.S_IMODE(os.stat(store.path("a")).st_mode) == 0o750


def test_publishing_over_an_empty_folder_is_refused(store, tmp_path):
    (tmp_path / "generations" / "1").mkdir(parents=True)
    assert store.create("generations/1", b"manifest") is False
    with pytest.raises(NotFound, match="folder"):
        store.put("generations/1", b"manifest")
    with pytest.raises(NotFound, match="folder"):
        store.read("generations/1")


@pytest.mark.parametrize("call", ["link", "unlink", "replace"])
def test_a_request_that_was_repeated_after_a_lost_reply_has_worked(store, monkeypatch, call):
    real = getattr(os, call)

    def twice(*args, **options):
        real(*args, **options)
        real(*args, **options)

    store.put("old", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, twice)
        store.put("old", b"new") if call == "replace" else store.create("new", b"new")
    assert store.read("old" if call == "replace" else "new") == b"new"
    assert list(store.drafts()) == []


def test_without_hard_links_publishing_is_said_to_be_unsafe_and_done_under_a_lock(store, monkeypatch):
    real = os.rename

    def watched(scratch, path):
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(folder)
        real(scratch, path)

    assert store.can.create
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    monkeypatch.setattr(os, "rename", watched)
    assert store.create("a", b"x") is True
    assert store.create("a", b"y") is False
    with store.draft("b") as draft:
        assert draft.publish("a") is False
    assert not store.can.create
    assert os.listdir(store.root) == ["a"]


def test_a_folder_that_cannot_be_synced_is_as_durable_as_it_gets(store, monkeypatch):
    real = os.fsync

    def files_only(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "no fsync of folders here")
        real(fd)

    monkeypatch.setattr(os, "fsync", files_only)
    store.put("folder/a", b"x")
    assert store.read("folder/a") == b"x"


def test_writing_syncs_the_file_before_its_name_and_the_folder_after(store, monkeypatch):
    happened = []

    def watched(name):
        real = getattr(os, name)

        def call(*args, **options):
            happened.append(name if name != "fsync" else f"fsync {stat.S_ISDIR(os.fstat(args[0]).st_mode)}")
            return real(*args, **options)

        return call

    for name in ("fsync", "replace", "pwritev", "link", "unlink"):
        monkeypatch.setattr(os, name, watched(name))
    store.put("a", b"x")
    assert happened == ["pwritev", "fsync False", "replace", "fsync True"]
    happened.clear()
    store.create("b", b"x")
    assert happened == ["pwritev", "fsync False", "link", "unlink"]


def test_a_new_folder_is_durable_in_its_parent(store, tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1]
    )
    store.draft("new/deeper/x").discard()
    assert synced == [str(tmp_path), str(tmp_path / "new")]


def test_a_forked_child_does_not_keep_the_scratch_of_its_dead_parent(store):
    read_end, write_end = os.pipe()

    def parent():
        draft = store.draft("x")
        draft.write([b"data"])
        child = os.fork()
        if child == 0:
            os.write(write_end, b"%d" % os.getpid())
            signal.pause()
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        assert in_child(parent) == -signal.SIGKILL
        grandchild = int(os.read(read_end, 20))
        left = [entry.name for entry in store.drafts()]
        os.kill(grandchild, signal.SIGKILL)
        assert left == ["x"]
    finally:
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize("locks", [True, False])
def test_a_forked_child_cannot_write_its_parents_draft(store, monkeypatch, locks):
    if not locks:
        monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))

    def child():
        with pytest.raises(UsageError, match="parent"):
            draft.write([b"x"])
        draft.discard()

    with store.draft("x") as draft:
        assert in_child(child) == 0
        draft.write([b"mine"])
        assert draft.publish("x")


def test_scratch_of_a_killed_process_is_abandoned(store):
    code = (
        "import sys, os, signal; from wlshard.store.connect import connect\n"
        "draft = connect(sys.argv[1]).draft('shards/x'); draft.write([b'data'])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, store.url], cwd=os.getcwd(), env={**os.environ})
    assert done.returncode == -signal.SIGKILL
    assert [entry.name for entry in store.drafts()] == ["shards/x"]


def test_newborn_scratch_is_left_to_its_writer(store, tmp_path):
    (tmp_path / "x.partial").touch()
    assert list(store.drafts()) == []

    class Later:
        time = staticmethod(lambda: os.stat(tmp_path / "x.partial").st_mtime + NEWBORN_S + 1)

    with clock.use(Later):
        assert [entry.name for entry in store.drafts()] == ["x"]


def test_scratch_that_goes_before_it_is_locked_is_not_taken(store, monkeypatch):
    draft = store.draft("x")
    draft.write([b"data"])
    draft.abandon()
    real = fcntl.flock

    def late(fd, how):
        store.drop("x")
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert store.reopen("x") is None


@pytest.mark.parametrize("stolen", [True, False])
def test_a_writer_that_slept_while_its_newborn_scratch_was_taken_notices(store, monkeypatch, stolen):
    real = fcntl.flock

    def late(fd, how):
        if stolen:
            raise BlockingIOError
        store.drop("x")
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(StoreUnavailable, match="try again"):
        store.draft("x")


def test_a_file_system_without_locks_works_and_never_calls_scratch_abandoned(store, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    store.put("a", b"x")
    assert store.create("b", b"x")
    draft = store.draft("x")
    draft.write([b"data"])
    draft.abandon()
    assert list(store.drafts()) == []
    assert store.reopen("x") is None


def test_scratch_is_taken_over_where_only_a_writable_file_can_be_locked(store, monkeypatch):
    """As on NFS, see flock(2)."""
    real = fcntl.flock

    def strict(fd, how):
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", strict)
    draft = store.draft("x")
    draft.write([b"data"])
    draft.abandon()
    assert [entry.name for entry in store.drafts()] == ["x"]
    with store.reopen("x") as reader:
        assert reader.bytes == 4


def test_listing_goes_on_past_links_to_nowhere(store, tmp_path):
    store.put("a", b"x")
    (tmp_path / "b").symlink_to(tmp_path / "nowhere")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    assert sorted(entry.name for entry in store.list()) == ["a", "c"]


class StaleFolder:
    """A folder of which a network file system tells the names, and nothing else now."""

    def __init__(self, path):
        with os.scandir(path) as entries:
            self.entries = [self.Entry(entry.name) for entry in entries]

    def __enter__(self):
        return self.entries

    def __exit__(self, *_):
        pass

    class Entry:
        stat = failing(errno.ESTALE)

        def __init__(self, name):
            self.name = name

        def is_dir(self, **_):
            return False


def test_an_object_that_cannot_be_looked_at_now_is_an_error_not_a_shorter_list(store, monkeypatch):
    store.put("a", b"x")
    folder = StaleFolder(store.root)
    monkeypatch.setattr(os, "scandir", lambda _: folder)
    with pytest.raises(StoreUnavailable, match="Stale") as caught:
        list(store.list())
    assert caught.value.url == f"{store.url}/a"


def test_reading_a_file_as_a_folder_is_not_found(store):
    store.put("a", b"x")
    with pytest.raises(NotFound):
        store.read("a/b")
    with pytest.raises(NotFound):
        store.put("a/b", b"x")


def test_a_reader_has_a_file_number(store):
    store.put("a", b"0123456789")
    with store.open("a", 4) as reader:
        assert os.pread(reader.fileno(), 3, 0) == b"012"
        assert reader.bytes == 10


def test_urls_find_their_store_and_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    connect("sub").put("x.tar", b"1")
    for url in ("sub/x.tar", f"{tmp_path}/sub/x.tar", f"file://{tmp_path}/sub/x.tar", "./sub/../sub/x.tar"):
        store, name = locate(url)
        assert store.read(name) == b"1"
        assert is_local(url)
    connect(".").put("a b.tar", b"2")
    store, name = locate(f"file://localhost{tmp_path}/a%20b.tar")
    assert store.read(name) == b"2"
    assert local_path("file:///a%20b") == "/a b"
    store, name = locate("a b.tar")
    assert store.read(name) == b"2"
    with pytest.raises(NotFound) as caught:
        store.read("absent")
    assert caught.value.url == "absent"
    assert locate("http://host/a.tar?sign=/x/y")[1] == "a.tar?sign=/x/y"
    assert not is_local("http://host/a.tar")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense://b/x",
        "pipe:cat x",
        "file://elsewhere/x",
        "file:relative",
        "s3://",
        "gs:///x",
        "http:///x",
    ],
)
def test_urls_that_lead_nowhere_are_refused(url):
    if url == "file:relative":
        assert is_local(url)  # a plain, if odd, file name
        return
    with pytest.raises(UsageError):
        connect(url)


@pytest.mark.parametrize("url", ["folder/", "memory://x", "http://host", "http://host/", ".."])
def test_a_url_without_a_name_is_no_object(url):
    with pytest.raises(UsageError):
        locate(url)


def test_a_sync_that_failed_is_not_taken_for_done_when_the_next_one_succeeds(store, monkeypatch) -> None:
    with store.draft("x") as draft:
        draft.write([b"data"])
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", failing(errno.EIO))
            with pytest.raises(StoreUnavailable):
                draft.sync()
        with pytest.raises(StoreUnavailable):
            draft.sync()
