"""Shards that are far away: how few requests they take, what is read ahead, and that it is all the same."""

from __future__ import annotations

import gc
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from faulty import FaultyServer, Handler, faulty
from servers import WebServer

from wlshard import Loader, Pool, ShardWriter, samples
from wlshard.errors import NotFound
from wlshard.shards.access import ShardAccess
from wlshard.shards.dataset import write_dataset
from wlshard.shards.reader import open_shard
from wlshard.store import options, ranges
from wlshard.store.base import Reader
from wlshard.store.connect import write_object
from wlshard.stream.data import FETCHERS, Data
from wlshard.stream.window import Strips

SAMPLES, SHARDS = 120, 4


@pytest.fixture(scope="session")
def shards(nginx: WebServer) -> str:
    """Four shards with indexes, and the same without, of 30 samples of 100 kB each: the URL's last part."""
    (nginx.folder / "far").mkdir()
    (nginx.folder / "bare").mkdir()
    with ShardWriter(f"{nginx.folder}/far/x-%06d.tar", shard_samples=SAMPLES // SHARDS) as writer:
        for number in range(SAMPLES):
            writer.write({"cls": number, "bin": bytes([number]) * 100_000})
    for shard in (nginx.folder / "far").glob("*.tar"):
        (nginx.folder / "bare" / shard.name).write_bytes(shard.read_bytes())
    return "x-{000000..000003}.tar"


@pytest.fixture
def door(nginx: WebServer) -> Iterator[FaultyServer]:
    """The web server, ten milliseconds away."""
    with faulty(nginx.url) as server:
        server.fault = late
        yield server


def late(_: Handler) -> bool:
    time.sleep(0.01)
    return False


def gets(door: FaultyServer) -> list[tuple[str, str]]:
    return [
        (path.rpartition("/")[2], asked or "") for method, path, asked in door.requests if method == "GET"
    ]


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("folder", ["far", "bare"])
def test_shards_read_in_turn_are_begun_before_their_turn(
    door: FaultyServer,
    shards: str,
    folder: str,
    cached: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(options.VARIABLE, "")
    given: dict[str, Any] = {"cache_dir": str(tmp_path), "cache_bytes": 1 << 30} if cached else {}
    rows = samples(f"{door.url}/{folder}/{shards}", fields="cls bin", **given)
    assert [(label, data[0]) for label, data in rows] == [(n, n) for n in range(SAMPLES)]
    order = gets(door)
    last_of_first = max(number for number, (name, _) in enumerate(order) if name == "x-000000.tar")
    first_of_second = min(number for number, (name, _) in enumerate(order) if name == "x-000001.tar")
    assert first_of_second <= last_of_first + 1
    assert (
        sum(name == "x-000001.tar" for name, _ in order) <= 4
    )  # begun once, not once ahead and once in turn


def test_a_consumer_that_leaves_early_leaves_nothing_open(door: FaultyServer, shards: str) -> None:
    for count, _ in enumerate(samples(f"{door.url}/bare/{shards}")):
        if count == 25:
            break


def test_a_loader_that_is_left_early_waits_for_no_garbage_collector(door: FaultyServer, shards: str) -> None:
    gc.disable()
    try:
        with Loader(f"{door.url}/far/{shards}", "cls") as loader:
            rows = iter(loader)
            next(rows)
        assert not [thread.name for thread in threading.enumerate() if "wlshard" in thread.name]
    finally:
        gc.enable()


def test_a_shard_that_is_missing_is_told_in_its_turn(door: FaultyServer, shards: str) -> None:
    rows = iter(samples([f"{door.url}/bare/x-000000.tar", f"{door.url}/bare/absent.tar"]))
    assert len(list(islice(rows, SAMPLES // SHARDS))) == SAMPLES // SHARDS
    with pytest.raises(NotFound) as caught:
        next(rows)
    assert caught.value.url == f"{door.url}/bare/absent.tar"


@pytest.mark.parametrize(
    "options", [{}, {"shuffle": 50}, {"shuffle": 50, "workers": 2}, {"rank": 1, "world_size": 2}]
)
@pytest.mark.parametrize("folder", ["far", "bare"])
def test_the_loader_gives_from_afar_what_it_gives_from_here(
    door: FaultyServer, nginx: WebServer, shards: str, folder: str, options: dict[str, int]
) -> None:
    def read(root: str) -> list[int]:
        with Loader(f"{root}/{folder}/{shards}", "cls bin", batch_size=7, seed=3, **options) as loader:
            return [label for labels, _ in loader for label in labels.tolist()]

    far, here = read(door.url), read(str(nginx.folder))
    if folder == "bare" and "rank" in options:  # streamed: other samples, as many
        far, here = [len(far)], [len(here)]
    elif folder == "bare" and options:  # another order
        far, here = sorted(far), sorted(here)
    assert far == here


class RoundTrips:
    """A fault: no request of a wave is answered before all of it have come, no other before `done`.

    A wave: what its requests are like, and how many they are.
    """

    def __init__(self, waves: list[tuple[str, int]]) -> None:
        self.waves, self.missed = waves, list[str]()
        self.done, self._lock, self._counts = threading.Event(), threading.Lock(), [0] * len(waves)
        self._whole = [threading.Event() for _ in waves]

    def __call__(self, handler: Handler) -> bool:
        asked, gate = f"{handler.command} {unquote(handler.path)}", self.done
        with self._lock:
            for number, (words, size) in enumerate(self.waves):
                if self._counts[number] < size and re.search(words, asked):
                    self._counts[number] += 1
                    gate = self._whole[number]
                    if self._counts[number] == size:
                        gate.set()
                    break
        if not gate.wait(20):
            self.missed.append(asked)
            gate.set()
        return False


INDEX, LOOK, PART, ALL, LIST = r"\.idx", r"HEAD|/o/[^?]*\.tar$", r"GET .*\.tar", r"all\.idx", "prefix="
SLOT = r"/generations/0000000002\.json"
POOL = [
    (r"/wlshard\.json", 1),
    (LIST, 1),
    (SLOT, 1),
    (r"/leases/|POST /upload", 1),
    (rf"/condemned/|{SLOT}", 2),
]
INDEXES, LOOKS, PARTS = (INDEX, SHARDS), (LOOK, SHARDS), (PART, FETCHERS)


@pytest.mark.parametrize(
    ("source", "shuffle", "waves"),
    [
        ("http far/x-{000000..000003}.tar", 50, [INDEXES, LOOKS, PARTS]),
        ("http far/all.idx", 50, [(ALL, 1), PARTS]),
        ("http far/x-000000.tar", 0, [(INDEX, 1), (LOOK, 1), (PART, 1)]),
        ("http bare/x-000000.tar", 0, [(INDEX, 1), (LOOK, 1), (PART, 1)]),
        ("s3 far/x-{000000..000003}.tar", 50, [INDEXES, LOOKS, PARTS]),
        ("s3 far/all.idx", 50, [(ALL, 1), (LIST, 1), PARTS]),
        ("s3 far/x-*.tar", 50, [(LIST, 1), INDEXES, PARTS]),
        ("s3 pool", 50, [*POOL, INDEXES, PARTS]),
        ("s3 pool", 0, [*POOL, (PART, 1)]),
        ("gs far/x-{000000..000003}.tar", 50, [INDEXES, LOOKS, PARTS]),
        ("gs far/x-000000*", 0, [(LIST, 1), (INDEX, 1), (PART, 1)]),
        ("gs bare/x-000000.tar", 0, [(INDEX, 1), (LOOK, 1), (PART, 1)]),
        ("gs pool", 50, [*POOL, INDEXES, PARTS]),
    ],
)
def test_the_first_of_a_list_comes_after_three_round_trips_and_of_a_pool_after_seven(
    request: pytest.FixtureRequest,
    nginx: WebServer,
    moto: str,
    gcs_stub: str,
    shards: str,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    shuffle: int,
    waves: list[tuple[str, int]],
) -> None:
    """So of as many shards as FETCHERS; of more with an index of the data set."""
    scheme, name = source.split()
    folder = name.partition("/")[0]
    here = f"{nginx.folder}/{folder}" if scheme == "http" else str(request.getfixturevalue(f"{scheme}_url"))
    there = here if scheme == "http" else f"{here}/{folder}"
    if folder == "pool":
        pool = Pool(there).create()
        for count in (1, SAMPLES):
            with ShardWriter(pool, shard_samples=SAMPLES // SHARDS) as writer:
                for number in range(count):
                    writer.write({"cls": number, "bin": bytes(100_000)})
            pool.rotate()
    elif scheme != "http":
        for file in (nginx.folder / folder).glob("x-*"):
            write_object(f"{there}/{file.name}", file.read_bytes())
    if "all" in name:
        urls = [f"{there}/x-{number:06d}.tar" for number in range(SHARDS)]
        list(write_dataset(urls, f"{there}/all.idx", force=True))
    with faulty({"http": nginx.url, "s3": moto, "gs": gcs_stub}[scheme]) as door:
        monkeypatch.setenv("AWS_ENDPOINT_URL", door.url)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", door.url)
        door.fault = trips = RoundTrips(waves)
        with Loader(f"{door.url if scheme == 'http' else here}/{name}", "cls", shuffle=shuffle) as loader:
            rows = iter(loader)
            next(rows)
            trips.done.set()
    assert not trips.missed
    assert len(waves) <= (7 if name == "pool" else 3)


def test_seeking_a_sample_takes_two_requests(door: FaultyServer, shards: str) -> None:
    with ShardAccess(f"{door.url}/far/x-000002.tar") as access:
        (sample,) = access.read(17, 1)
        assert bytes(sample["cls"]) == b"77"
    assert [method for method, *_ in door.requests] == ["GET", "GET"]


def test_shuffled_reading_keeps_the_streams_of_all_lanes_busy(door: FaultyServer, shards: str) -> None:
    """None of the first requests is answered before as many as there may be have come."""
    enough, lock, here, missed = threading.Event(), threading.Lock(), [0], [0]

    def waits_for_the_others(handler: Handler) -> bool:
        if handler.path.endswith(".tar") and handler.command == "GET":
            with lock:
                here[0] += 1
                if here[0] == FETCHERS:
                    enough.set()
            if not enough.wait(20):
                missed[0] = here[0]
                enough.set()
        return False

    door.fault = waits_for_the_others
    with Loader(f"{door.url}/far/{shards}", "cls", shuffle=50) as loader:
        assert sorted(label for (label,) in loader) == list(range(SAMPLES))
    assert not missed[0]


@pytest.mark.parametrize("options", [{"shuffle": 50}, {"batch_size": 7, "rank": 1, "world_size": 2}])
def test_what_is_fetched_and_not_yet_read_is_bounded(
    nginx: WebServer, shards: str, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    most, waiting = [0], Counter[tuple[int, int, int]]()
    monkeypatch.setattr("wlshard.stream.window.AHEAD_BYTES", 2_000_000)
    fetch, read = Data.fetch, Strips._read_span

    def begun(data: Data, *span: int) -> Any:
        waiting[span] += span[2]
        most[0] = max(most[0], waiting.total())
        return fetch(data, *span)

    def over(strips: Strips, *span: int) -> Any:
        waiting.pop(span)
        return read(strips, *span)

    monkeypatch.setattr(Data, "fetch", begun)
    monkeypatch.setattr(Strips, "_read_span", over)
    with Loader(f"{nginx.url}/far/{shards}", "cls", **options) as loader:
        assert sum(1 for _ in loader) in (SAMPLES, 9)
    assert not waiting
    window = 40 if "shuffle" in options else 7
    assert 10 < most[0] <= 20 + window


def test_a_near_server_that_is_late_once_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_lately", {})
    waits_s = [0.01, 0.001, 0.01, 0.05, *[0.01] * ranges.LATELY]
    found = [ranges._latency_of("http://near/x.tar", waited_s) for waited_s in waits_s]
    assert found[:4] == [0.01, 0.001, 0.001, 0.05]
    assert found[-1] == 0.01  # for good
    assert ranges._latency_of("http://far/x.tar", 0.01) == 0.01


def test_what_the_web_gives_goes_straight_into_the_readers_memory(
    nginx: WebServer, shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib3.response.HTTPResponse.read1", None)
    with open_shard(f"{nginx.url}/far/x-000000.tar") as reader:
        block = bytearray(1 << 22)
        assert reader.readinto(block) == reader.bytes
    assert block[: reader.bytes] == (nginx.folder / "far" / "x-000000.tar").read_bytes()


def test_a_shard_that_is_begun_does_not_wait_for_itself(door: FaultyServer, shards: str) -> None:
    urls = [f"{door.url}/bare/x-{number:06d}.tar" for number in range(SHARDS)]

    def noted(url: str) -> Reader:
        while url in urls[1:] and url not in ranges._begun:
            time.sleep(0.001)  # who begins it has not noted it down yet
        return open_shard(url)

    with ranges.reading_in_turn(urls, noted):
        for url in urls:
            with open_shard(url) as reader:
                block, size = bytearray(1 << 20), 0
                while count := reader.readinto(block):
                    size += count
                assert size == reader.bytes
