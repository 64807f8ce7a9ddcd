"""Every store passes the contract, also behind wrappers; a web server the reading part."""

from __future__ import annotations

import io
import os
from contextlib import ExitStack

import pytest
from web import Quiet, served

from wlshard.errors import AccessDenied
from wlshard.store.connect import connect
from wlshard.store.http import HttpStore
from wlshard.store.local import LocalStore
from wlshard.testing.contract import OBJECTS, ReadContract, StoreContract
from wlshard.testing.storage import FaultyStore, RecordingStore


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return connect(str(tmp_path / "root"))


class TestLocalStoreWithoutHardLinks(StoreContract):
    @pytest.fixture
    def store(self, tmp_path, monkeypatch):
        def no_links(*_, **__):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "link", no_links)
        return connect((tmp_path / "root").as_uri())


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self, memory_url):
        return connect(memory_url)


class TestCountingWrapper(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        store = RecordingStore(connect(str(tmp_path)))
        yield store
        assert [operation.number for operation in store.operations] == [*range(1, len(store.operations) + 1)]


class TestFaultyWrapperWithoutFaults(StoreContract):
    @pytest.fixture
    def store(self, memory_url):
        return FaultyStore(connect(memory_url))


class RangeHandler(Quiet):
    """Files, with `Range: bytes=N-`."""

    def send_head(self):
        if "Range" not in self.headers:
            return super().send_head()
        start, _, last = self.headers["Range"][6:].partition("-")
        path = self.translate_path(self.path)
        if not os.path.isfile(path):
            return self.send_error(404)
        size, start = os.path.getsize(path), int(start)
        end = min(size, int(last or size) + 1)
        self.send_response(206 if start < size else 416)
        self.send_header(
            "Content-Range", f"bytes {start}-{end - 1}/{size}" if start < size else f"bytes */{size}"
        )
        self.send_header("Content-Length", str(max(end - start, 0)))
        self.end_headers()
        with open(path, "rb") as file:
            file.seek(start)
            return io.BytesIO(file.read(max(end - start, 0)))


@pytest.fixture
def serve(tmp_path):
    with ExitStack() as stack:
        yield lambda handler: stack.enter_context(served(tmp_path, handler)) + "/"


def lay(tmp_path):
    store = LocalStore(str(tmp_path), str(tmp_path))
    for name, data in OBJECTS.items():
        store.put(name, data)


class TestForeignStore(ReadContract):
    """A scheme that fsspec knows and we do not."""

    @pytest.fixture
    def laid(self, tmp_path):
        lay(tmp_path)
        return connect(f"local://{tmp_path}")

    def test_it_lists_and_takes_no_writes(self, laid):
        assert {entry.name: entry.bytes for entry in laid.list()} == {n: len(d) for n, d in OBJECTS.items()}
        assert [entry.name for entry in laid.list("shards/la")] == ["shards/large.tar"]
        with pytest.raises(AccessDenied, match="reading"):
            laid.put("x", b"")


class TestHttpStoreWithRanges(ReadContract):
    @pytest.fixture
    def laid(self, tmp_path, serve):
        lay(tmp_path)
        return connect(serve(RangeHandler))


class TestHttpStoreWithoutRanges(ReadContract):
    @pytest.fixture
    def laid(self, tmp_path, serve):
        lay(tmp_path)
        return HttpStore(serve(Quiet).rstrip("/"))
