"""The contract, kept by real servers: S3, Google's storage, a web server."""

from __future__ import annotations

import os

import pytest
from ais import AisGateway
from servers import WebServer

from wlshard.store.base import Store
from wlshard.store.bucket import PART_BYTES
from wlshard.store.connect import connect
from wlshard.store.local import LocalStore
from wlshard.testing.contract import OBJECTS, ReadContract, StoreContract


class TestS3(StoreContract):
    @pytest.fixture
    def store(self, s3_url: str) -> Store:
        return connect(s3_url)


class TestGoogleStorage(StoreContract):
    @pytest.fixture
    def store(self, gs_url: str) -> Store:
        return connect(gs_url)


class TestGoogleStorageAsEmulated(StoreContract):
    """The emulator ignores preconditions: what needs them is tested with the stub above."""

    @pytest.fixture
    def store(self, gcs_emulator: str, gs_url: str, monkeypatch: pytest.MonkeyPatch) -> Store:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_emulator)
        return connect(gs_url)

    test_create_never_replaces = None
    test_of_many_creators_one_wins = None
    test_publishing_never_replaces_unless_asked = None


class TestAIStore(StoreContract):
    @pytest.fixture
    def store(self, ais: AisGateway) -> Store:
        return connect("ais://bucket/some/prefix")

    test_of_many_creators_one_wins = None  # it has no conditional writes


class TestNginx(ReadContract):
    @pytest.fixture
    def laid(self, nginx: WebServer) -> Store:
        store = LocalStore(str(nginx.folder), str(nginx.folder))
        for name, data in OBJECTS.items():
            store.put(name, data)
        return connect(nginx.url)


@pytest.fixture(params=["s3_url", "gs_url"])
def bucket(request: pytest.FixtureRequest) -> Store:
    return connect(request.getfixturevalue(request.param))


def test_a_large_object_is_sent_in_parts_and_only_once(bucket: Store) -> None:
    data = os.urandom(2 * PART_BYTES + 12345)
    for published in (True, False):
        with bucket.draft("large") as draft:
            draft.write([data])
            assert draft.publish("large") is published
    with bucket.draft("large") as draft:
        draft.write([data[::-1]])
        assert draft.publish("large", replace=True) is True
    assert bucket.stat("large").bytes == len(data)
    assert bucket.read("large") == data[::-1]


def test_a_long_list_comes_in_pages(bucket: Store) -> None:
    names = {f"shards/{number:03d}" for number in range(8)}
    for name in names:
        bucket.put(name, b"x")
    assert {entry.name for entry in bucket.list("shards/")} == names
    assert {entry.name for entry in bucket.list("shards/00")} == names
