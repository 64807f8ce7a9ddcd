"""One index for a data set in a bucket: how few requests open it, and what is asked of each shard."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty import FaultyServer, faulty
from servers import WebServer

from wlshard import Loader, ShardWriter
from wlshard.shards.dataset import write_dataset
from wlshard.shards.expand import expand
from wlshard.store.connect import connect
from wlshard.stream.data import FETCHERS

SHARDS = 30


def write(url: str) -> list[str]:
    with ShardWriter(f"{url}/x-%06d.tar", shard_samples=4) as writer:
        for number in range(4 * SHARDS):
            writer.write({"cls": number})
    return writer.shards


@pytest.fixture
def door(moto: str, s3_url: str, s3_door: Callable[[str], None]) -> Iterator[FaultyServer]:
    with faulty(moto) as server:
        s3_door(server.url)
        yield server


def labels(url: str) -> list[int]:
    with Loader(url, "cls", batch_size=4, shuffle=40) as loader:
        return sorted(n for (batch,) in loader for n in batch.tolist())


def test_a_bucket_opens_with_a_get_and_a_list(door: FaultyServer, s3_url: str) -> None:
    list(write_dataset(write(s3_url), f"{s3_url}/all.idx"))
    door.requests.clear()
    with Loader(f"{s3_url}/all.idx", "cls", batch_size=4, shuffle=40) as loader:
        assert len(loader) == SHARDS
        assert [method for method, *_ in door.requests] == ["GET", "GET"], door.requests
        door.requests.clear()
        assert sorted(n for (batch,) in loader for n in batch.tolist()) == list(range(4 * SHARDS))
        assert not [path for _, path, _ in door.requests if ".idx" in path]
        assert {method for method, *_ in door.requests} == {"GET"}


def test_a_shard_replaced_in_the_bucket_is_looked_at_itself(
    door: FaultyServer, s3_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    shards = write(s3_url)
    list(write_dataset(shards, f"{s3_url}/all.idx"))
    with ShardWriter(f"{s3_url}/y-%06d.tar") as writer:
        writer.write({"cls": 1000})
    store = connect(s3_url)
    for ending in (".tar", ".idx"):
        store.put(f"x-000003{ending}", store.read(f"y-000000{ending}"))
    with caplog.at_level(logging.WARNING):
        got = labels(f"{s3_url}/all.idx")
    assert got == [n for n in range(4 * SHARDS) if n // 4 != 3] + [1000]
    assert "1 shard changed since" in caplog.text


def test_a_web_server_that_does_not_list_is_trusted(nginx: WebServer) -> None:
    folder = nginx.folder / "indexed"
    shards = write(str(folder))
    list(write_dataset(shards, f"{folder}/all.idx"))
    for path in Path(folder).glob("x-*.idx"):
        os.unlink(path)
    with faulty(nginx.url) as server:
        assert expand(f"{server.url}/indexed/all.idx") == [
            f"{server.url}/indexed/{os.path.basename(shard)}" for shard in shards
        ]
        assert len(server.requests) == 1
        assert labels(f"{server.url}/indexed/all.idx") == list(range(4 * SHARDS))


def test_without_any_index_the_first_sample_waits_for_no_other_shard(nginx: WebServer) -> None:
    folder = nginx.folder / "bare-set"
    write(str(folder))
    for path in Path(folder).glob("x-*.idx"):
        os.unlink(path)
    with (
        faulty(nginx.url) as server,
        Loader(f"{server.url}/bare-set/x-{{000000..000999}}.tar", "cls") as loader,
    ):
        assert next(iter(loader)) == (0,)
        assert len(server.requests) < 3 * FETCHERS, len(server.requests)
