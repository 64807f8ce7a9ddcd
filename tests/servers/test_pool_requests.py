"""What a pool in a bucket costs: requests, counted at the wire."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from faulty import faulty

from wlshard import Pool
from wlshard.pool.names import ShardName, new_writer
from wlshard.tar.header import BLOCK, END_MARK


@pytest.mark.parametrize("shards", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_a_rotation_takes_a_request_for_each_five_hundred_shards_and_few_besides(
    s3_url: str, moto: str, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    """A listing has 1,000 names a page, each page is a request; a shard has two names, with its index."""
    pool, writer, tar = Pool(s3_url).create(), new_writer(), bytes(BLOCK) + END_MARK

    def lay(seq: int) -> None:
        name = f"shards/{ShardName(writer, seq, 1, '0' * 32)}"
        pool.store.put(name, tar)
        pool.store.put(name.replace(".tar", ".idx"), b"")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lay, range(1, shards + 1)))
    with faulty(moto) as door:
        monkeypatch.setenv("AWS_ENDPOINT_URL", door.url)
        assert Pool(s3_url).rotate().promoted.shards == shards
    asked = [path for _, path, _ in door.requests]
    assert sum("shards%2F" in path for path in asked) == 2 * shards // 1000
    assert len(asked) < 30 + shards / 500
    slot = [method for method, path, _ in door.requests if path.endswith("generations/0000000001.json")]
    assert slot == ["GET", "GET", "PUT"]  # not what a listing said: on until nothing is newer
