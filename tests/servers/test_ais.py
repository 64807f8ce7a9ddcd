"""AIStore: shards written to and read from its buckets, through a gateway that redirects."""

from __future__ import annotations

import subprocess
import sys

import pytest
from ais import AisGateway

from wlshard import Loader, ShardWriter, samples
from wlshard.errors import NotFound, StoreUnavailable, UsageError
from wlshard.store.connect import connect, locate
from wlshard.store.far import FarStore


def write(url: str, count: int = 20, size: int = 10) -> None:
    with ShardWriter(f"{url}/x-%06d.tar", shard_samples=5) as writer:
        for number in range(count):
            writer.write({"cls": number, "bin": bytes([number]) * size})


def test_shards_are_written_listed_and_read_where_a_path_would_do(ais: AisGateway) -> None:
    write("ais://bucket/set")
    assert [row["cls"] for row in samples("ais://bucket/set/x-*.tar")] == list(range(20))
    with Loader("ais://bucket/set/", "cls", batch_size=5, shuffle=20) as loader:
        assert sorted(n for (labels,) in loader for n in labels.tolist()) == list(range(20))
    line = [sys.executable, "-m", "wlshard.cli.cat", "ais://bucket/set/x-{000000..000003}.tar", "cls", "17"]
    assert subprocess.run(line, capture_output=True, text=True, check=True).stdout == "17"
    assert {path.partition("?")[0] for _, path, _ in ais.requests} >= {
        "/v1/buckets/bucket", "/v1/objects/bucket/set/x-000000.tar"
    }  # fmt: skip


def test_an_object_that_changes_while_it_is_read_is_an_error(ais: AisGateway) -> None:
    write("ais://bucket/set", count=5, size=400_000)
    store, name = locate("ais://bucket/set/x-000000.tar")
    assert isinstance(store, FarStore)
    version = store.version(name)
    assert version is not None
    with store.open_version(name, version, 1 << 20, None) as reader:
        assert reader.readinto(bytearray(4096)) == 4096
    data, number = ais.objects["set/x-000000.tar"]
    ais.objects["set/x-000000.tar"] = data[::-1], number + 1
    # As whoever has read so far goes on: with a request for the rest.
    with (
        pytest.raises(StoreUnavailable, match="changed"),
        store.open_version(name, version, 1 << 20, None) as reader,
    ):
        reader.readinto(bytearray(4096))


def test_what_is_missing_is_told(ais: AisGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound):
        list(samples("ais://bucket/absent.tar"))
    with pytest.raises(NotFound):
        list(samples("ais://elsewhere/"))
    write("ais://bucket/a")
    with pytest.raises(UsageError, match="exists"):
        write("ais://bucket/a")
    monkeypatch.delenv("AIS_ENDPOINT")
    with pytest.raises(UsageError, match="AIS_ENDPOINT"):
        list(samples("ais://bucket/x.tar"))


def test_a_token_is_sent(ais: AisGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIS_AUTHN_TOKEN", "hunter2")
    connect("ais://bucket").put("a", b"1")
    assert {token for *_, token in ais.requests} == {"Bearer hunter2"}
