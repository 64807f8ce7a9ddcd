"""Whole jobs on buckets behind a server that fails all the time: no sample is lost, none comes twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty import (
    Fault,
    FaultyServer,
    answers,
    closes_after,
    commits_and_drops_the_reply,
    drops,
    faulty,
    now_and_then,
    resets_after,
    takes_its_time,
)
from processes import environ

from wlshard import Pool, ShardWriter, samples

BIN = Path(__file__).resolve().parents[2] / "bin"
SAMPLES, EPOCHS = 240, 2
FAULTS: list[Fault] = [
    resets_after(700),
    closes_after(30_000),
    answers(503),
    takes_its_time,
    answers(429, Retry_After="0"),
    drops,
    commits_and_drops_the_reply,
    closes_after(0),
]


@pytest.fixture(params=["s3", "gs"])
def bucket(
    request: pytest.FixtureRequest, moto: str, gcs_stub: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, FaultyServer]]:
    """The URL of a prefix, and the door before it, which fails from when it is told to."""
    url = request.getfixturevalue(f"{request.param}_url")
    with faulty(moto if request.param == "s3" else gcs_stub) as door:
        monkeypatch.setenv("AWS_ENDPOINT_URL", door.url)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", door.url)
        yield url, door


def row(number: int) -> dict[str, object]:
    return {"__key__": f"{number:04d}", "cls": number, "bin": bytes([number]) * 3000}


def test_wl_map_from_bucket_to_bucket(bucket: tuple[str, FaultyServer], tmp_path: Path) -> None:
    url, door = bucket
    with ShardWriter(f"{url}/in-%03d.tar", shard_samples=40) as writer:
        for number in range(SAMPLES):
            writer.write(row(number))
    door.fault = now_and_then(2, *FAULTS)
    words = [f"{url}/in-*.tar", "-o", f"{url}/out.tar"]
    command = [str(BIN / "wl-map"), "-P", "2", "-c", "_['cls'] += 1000", *words]
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=tmp_path, env=environ() | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(door.requests) > 2 * len(FAULTS)  # each has struck
    door.fault = None
    found = [
        (it["__key__"], int(it["cls"]), bytes(it["bin"])) for it in samples(f"{url}/out.tar", decode=False)
    ]
    assert found == [(f"{n:04d}", n + 1000, bytes([n]) * 3000) for n in range(SAMPLES)]


TRAIN = f"""
import json, sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import wlshard
url, file, out, rank, cache = *sys.argv[1:4], int(sys.argv[4]), sys.argv[5:]
dist.init_process_group("gloo", init_method=f"file://{{file}}", rank=rank, world_size=2)
torch.set_num_threads(1)
model = DistributedDataParallel(torch.nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), 0.001)
options = {{"cache_dir": cache[0], "cache_bytes": 1 << 30}} if cache else {{}}
options |= {{"batch_size": 8, "shuffle": 100, "workers": 1, "seed": 5, "job": "train"}}
with wlshard.Loader(url, "cls bin", **options) as loader:
    for epoch in range({EPOCHS}):
        seen = []
        for labels, rows in loader:
            assert all(bytes(data) == bytes([label]) * 3000 for label, data in zip(labels, rows))
            seen += labels.tolist()
            pixels = torch.tensor([list(bytes(data[:8])) for data in rows], dtype=torch.float32) / 255
            loss = (model(pixels).squeeze(1) - torch.as_tensor(labels) / 255).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with open(f"{{out}}/{{epoch}}-{{rank}}", "w") as told:
            json.dump(seen, told)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("bucket", "cached"), [("s3", False), ("gs", False), ("s3", True)], indirect=["bucket"]
)
def test_a_training_of_two_ranks(bucket: tuple[str, FaultyServer], tmp_path: Path, cached: bool) -> None:
    url, door = bucket
    pool = Pool(f"{url}/pool").create()
    with ShardWriter(pool, shard_samples=40) as writer:
        for number in range(SAMPLES):
            writer.write(row(number))
    pool.rotate()
    door.fault = now_and_then(3, *FAULTS)
    command = [sys.executable, "-c", TRAIN, pool.url, str(tmp_path / "meet"), str(tmp_path)]
    cache = [str(tmp_path / "cache")] if cached else []
    ranks = [
        subprocess.Popen([*command, rank, *cache], env=environ(), stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    told = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
    for epoch in range(EPOCHS):
        seen = [json.loads((tmp_path / f"{epoch}-{rank}").read_text()) for rank in "01"]
        assert len(seen[0]) == len(seen[1])
        assert sorted(seen[0] + seen[1]) == list(range(SAMPLES))
    blocks = [path for path in tmp_path.glob("cache/shards/*/*") if "." not in path.name]
    assert len(blocks) == (SAMPLES // 40 if cached else 0)  # a shard is smaller than one
    assert not list(tmp_path.glob("cache/shards/*/*.*"))
