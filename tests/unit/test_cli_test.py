"""wl-test, as a shell sees it: relations, never timings."""

from __future__ import annotations

import http.server
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
from mapping import run, shard
from web import Quiet, serving

from wlshard import Loader, Pool, ShardWriter
from wlshard.cli.test import lines
from wlshard.codecs import encode
from wlshard.errors import NotFound, UsageError, UserCodeError
from wlshard.jobs.mixing import labels_of, mixing, order_of, quality
from wlshard.shards.output import OutputShard
from wlshard.shards.reader import read_samples
from wlshard.shards.watch import watching
from wlshard.stream.order import shape_of

STAGES = ["storage", "tar", "decode", "transport", "consumer"]
QUICK = ("--seconds", "0.3", "--json")


def measured(folder: Path, *args: object, stdin: bytes = b"", code: int = 0) -> dict[str, Any]:
    ended = run("test", *QUICK, *args, cwd=folder, stdin=stdin)
    assert ended.returncode == code, ended.stderr.decode()
    return json.loads(ended.stderr.splitlines()[-1] if code else ended.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small samples; images that take long to decode; a cut shard; one class; class-sorted shards."""
    parent = tmp_path_factory.mktemp("shards")
    data = shard(parent / "small.tar", 400).read_bytes()
    (parent / "cut.tar").write_bytes(data[: len(data) // 2 + 700])
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    with OutputShard(str(parent / "images.tar")) as out:
        for n in range(20):
            out.write({"__key__": str(n), "png": bytes(encode("png", image)), "cls": b"0"})
    with ShardWriter(str(parent / "sorted-%d.tar"), shard_samples=300) as writer:
        for n in range(3000):
            writer.write({"cls": n // 300, "txt": "x"})
    return parent


class Slow(Quiet):
    """Serves a folder at a few MB/s."""

    def copyfile(self, source, outputfile):
        while block := source.read(2**16):
            threading.Event().wait(0.02)
            outputfile.write(block)


@pytest.fixture
def slow_url(folder: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Slow, directory=str(folder)))
    server.daemon_threads = False  # so that closing it waits for those that still answer
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}/small.tar"


def test_the_promised_numbers_are_there_and_shares_add_up(folder: Path) -> None:
    found = measured(folder, "small.tar", "--batchsize", 8)
    promised = ["samples_per_s", "bytes_per_s", "first_sample_s", "p50_ms", "p99_ms"]
    assert [*promised, "share", "verdict", "because"] == list(found)[:8]
    assert all(found[name] > 0 for name in promised)
    assert found["p50_ms"] <= found["p99_ms"]
    assert list(found["share"]) == STAGES
    assert sum(found["share"].values()) == pytest.approx(1)
    assert min(found["share"].values()) >= 0
    largest = max(STAGES, key=found["share"].__getitem__)
    assert found["verdict"] == f"{largest}-bound"
    assert f"{largest} takes {100 * found['share'][largest]:.0f} %" in found["because"]
    assert found["samples_per_s"] == pytest.approx(found["samples"] / found["seconds"])


def test_a_slow_store_is_the_verdict(folder: Path, slow_url: str) -> None:
    assert measured(folder, slow_url, "--decode", "none")["verdict"] == "storage-bound"


def test_slow_decoding_is_the_verdict_unless_it_is_left_out(folder: Path) -> None:
    assert measured(folder, "images.tar")["verdict"] == "decode-bound"
    assert measured(folder, "images.tar", "--decode", "none")["share"]["decode"] < 0.9


def test_a_slow_consumer_is_the_verdict(folder: Path) -> None:
    found = measured(folder, "small.tar", "--consumer-ms", 20)
    assert found["verdict"] == "consumer-bound"
    assert found["samples_per_s"] <= 50


@pytest.mark.parametrize("shuffle", [0, 100])
def test_a_count_of_steps_is_kept_over_the_ends_of_epochs(folder: Path, shuffle: int) -> None:
    options = ["--seconds", 50, "-c", 120, "--skip", 3, "--batchsize", 8, "--fields", "raw.bin cls"]
    found = json.loads(run("test", "small.tar", *options, "--shuffle", shuffle, "--json", cwd=folder).stdout)
    assert (found["steps"], found["samples"], found["batch"]) == (120, 960, 8)


def test_with_worker_processes_the_shares_are_of_their_time_and_of_taking_over(
    folder: Path, slow_url: str
) -> None:
    found = measured(folder, "images.tar", "-P", 2)
    assert sum(found["share"].values()) == pytest.approx(1)
    assert (found["verdict"], found["workers"]) == ("decode-bound", 2)
    assert found["bytes_per_s"] > 0
    assert found["share"]["transport"] > 0
    assert measured(folder, "small.tar", "-P", 1, "--consumer-ms", 20)["verdict"] == "consumer-bound"
    assert measured(folder, slow_url, "-P", 1, "--decode", "none")["verdict"] == "storage-bound"


def test_stdin_is_read_once(folder: Path) -> None:
    data = (folder / "small.tar").read_bytes()
    assert measured(folder, "-", "--seconds", 50, stdin=data)["samples"] == 399
    assert (
        measured(folder, "-", "--seconds", 50, "--skip", 99, "--batchsize", 2, stdin=data)["samples"] == 200
    )


def test_a_table_for_people(folder: Path) -> None:
    ended = run("test", "small.tar", "--seconds", 0.2, cwd=folder)
    assert (ended.returncode, ended.stderr) == (0, b"")
    words = ended.stdout.decode()
    for word in ("samples/s", "MB/s", "first sample", "p50", "p99", "storage", "decode", "-bound: "):
        assert word in words


def test_measuring_a_pool_is_not_told_to_it_as_training(tmp_path: Path) -> None:
    pool = Pool(str(tmp_path / "pool")).create()
    assert measured(tmp_path, "pool", code=10)["error"] == "NotFound"  # at once, not after ten minutes
    with ShardWriter(pool) as writer:
        for n in range(50):
            writer.write({"cls": n})
    pool.rotate()
    before = sorted(path for path in (tmp_path / "pool").rglob("*") if path.is_file())
    assert measured(tmp_path, "pool")["samples"] > 0
    assert sorted(path for path in (tmp_path / "pool").rglob("*") if path.is_file()) == before
    assert pool.status().served == 0


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["none.tar"], 10, "none.tar"),
        (["cut.tar", "--decode", "none"], 20, "cut"),
        (["cut.tar", "--shuffle", "100"], 20, "cut"),
        (["small.tar", "--fields", "jpg"], 10, "no field jpg"),
        (["small.tar", "--decode", "rgb9"], 2, "rgb9"),
        (["small.tar", "--seconds", "0"], 2, "seconds"),
        (["small.tar", "--vs", "tensorflow"], 2, "tensorflow"),
        (["small.tar", "--processes", "-1"], 2, "processes"),
        (["cut.tar", "--shuffle", "100", "-P", "2"], 20, "cut"),
        (["-", "--vs", "webdataset"], 2, "stdin"),
        (["-"], 10, "too few samples"),
        (["small.tar", "--shuffle-quality", "--field", "none"], 10, "no field 'none'"),
        (["small.tar", "--shuffle-quality", "--field", "json"], 2, "holds dict"),
        (["images.tar", "--shuffle-quality"], 2, "same cls"),
        (["sorted-{0..9}.tar", "--shuffle-quality", "--world", "100"], 2, "too few samples"),
    ],
)
def test_what_goes_wrong_is_told_by_the_exit_code(
    args: list[str], code: int, told: str, folder: Path
) -> None:
    one = (folder / "small.tar").read_bytes()[:5632] + bytes(1024)  # a single sample
    assert told in json.dumps(measured(folder, *args, stdin=one, code=code))


def test_webdataset_does_the_same_work_in_turns(folder: Path) -> None:
    whole = measured(folder, "small.tar", "--vs", "webdataset", "--batchsize", 4, "--fields", "raw.bin cls")
    found = whole["vs"]
    assert found["name"] == "webdataset"
    assert found["samples"] % 4 == 0
    speeds = found["samples_per_s"]
    assert found["ratio"] == pytest.approx(speeds["wlshard"]["median"] / speeds["webdataset"]["median"])
    for speed in speeds.values():
        assert 0 < speed["min"] <= speed["median"] <= speed["max"]
    assert "decoded by OpenCV here and by Pillow there: --decode none" in lines(whole)[-1]


# It leaves its files to the garbage collector when it is not read to the end.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_unpickles_nothing_and_its_failures_are_its_own(tmp_path: Path) -> None:
    from wlshard.testing.versus import steps

    how: dict[str, Any] = {"batch_size": None, "fields": None, "decode": "rgb8", "shuffle": 0, "workers": 0}
    sample = {"__key__": "a", "pkl": pickle.dumps(np.zeros(3)), "txt": b"x"}
    with OutputShard(str(tmp_path / "a.tar")) as out:
        out.write(sample)
    with steps([str(tmp_path / "a.tar")], **how)() as found:
        assert next(found)["pkl"] == next(found)["pkl"] == sample["pkl"]
    with OutputShard(str(tmp_path / "b.tar")) as out:
        out.write({"__key__": "a", "json": b"{"})
    failed = pytest.raises(UserCodeError, match="webdataset failed")
    with steps([str(tmp_path / "b.tar")], **how)() as found, failed:
        next(found)
    with OutputShard(str(tmp_path / "c.tar")) as out:
        for n in (1, 2):
            out.write({"__key__": str(n), "npy": bytes(encode("npy", np.zeros(n)))})
    with steps([str(tmp_path / "c.tar")], **how | {"batch_size": 2, "fields": "npy"})() as found:
        assert [array.shape for array in next(found)[0]] == [(1,), (2,)]
    with steps([str(tmp_path / "a.tar")], **how | {"batch_size": 2})() as found, pytest.raises(NotFound):
        next(found)


def test_without_a_comparison_neither_webdataset_nor_torch_is_loaded(folder: Path) -> None:
    code = """if True:
        import sys
        from wlshard.cli.test import main
        try: main(["small.tar", "--seconds", "0.1"])
        finally: print([m for m in ("torch", "webdataset", "fsspec") if m in sys.modules], file=sys.stderr)
    """
    command = [sys.executable, "-P", "-c", code]
    ended = subprocess.run(command, cwd=folder, env=processes.environ(), capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "[]\n")


def test_watching_counts_the_bytes_of_shards_and_nothing_outside(folder: Path) -> None:
    path = str(folder / "small.tar")
    with watching() as cost:
        assert len(list(read_samples(path))) == 400
    assert cost.bytes == os.path.getsize(path)
    assert cost.store_s > 0
    before = cost.requests
    assert len(list(read_samples(path))) == 400
    assert cost.requests == before


def sorted_urls(folder: Path) -> list[str]:
    return [str(folder / f"sorted-{n}.tar") for n in range(10)]


@pytest.mark.parametrize(("world", "shuffle"), [(1, 0), (1, 200), (2, 300), (3, 200)])
def test_the_order_that_is_judged_is_the_loaders(folder: Path, world: int, shuffle: int) -> None:
    urls, batch = sorted_urls(folder), 8
    found = order_of(labels_of(urls, "cls"), shape_of(batch, shuffle, world, seekable=True), seed=5)
    options = {"batch_size": batch, "shuffle": shuffle, "seed": 5, "world_size": world, "drop_last": True}
    ranks = []
    for rank in range(world):
        with Loader(urls, "cls", rank=rank, **options) as loader:
            ranks.append([labels.tolist() for (labels,) in loader])
    steps = [batch for step in zip(*ranks, strict=True) for batch in step]
    assert found[: len(steps)].tolist() == steps


def test_quality_is_one_for_a_full_shuffle_and_worse_for_less(folder: Path) -> None:
    urls = sorted_urls(folder)
    labels = labels_of(urls, "cls")
    found = {
        shuffle: mixing(urls, labels, batch=16, shuffle=shuffle, world=2, seed=0)
        for shuffle in (0, 200, 3000)
    }
    for group in ("batch", "global", "run"):
        assert 0.6 < found[0]["full"][group] < 1.5
        assert found[3000]["wlshard"][group] < 4 < found[0]["wlshard"][group]
        assert found[200]["wlshard"][group] < found[0]["wlshard"][group]
    # By hand: all of one class in each batch of 4, of two classes as frequent: (4-2)²/2 + (0-2)²/2 = 4.
    halves = [np.array([0] * 4 + [1] * 4)]
    assert quality(halves[0].reshape(2, 1, 4), halves) == {"batch": 4.0, "global": 4.0, "run": None}


def test_the_shell_sees_the_quality(folder: Path) -> None:
    args = ["sorted-{0..9}.tar", "--shuffle-quality", "--world", 2, "--batchsize", 16, "--shuffle", 100]
    found = measured(folder, *args)
    assert (found["field"], found["samples"], found["world"]) == ("cls", 3000, 2)
    assert list(found["shuffle_quality"]) == ["wlshard", "full"]
    assert all(list(groups) == ["batch", "global", "run"] for groups in found["shuffle_quality"].values())
    assert "16 in a row" in run("test", *args, cwd=folder).stdout.decode()


def test_webdatasets_shuffle_mixes_less_over_many_batches(folder: Path) -> None:
    from wlshard.testing.versus import shuffled

    urls = sorted_urls(folder)
    labels = labels_of(urls, "cls")
    theirs = shuffled(labels, batch=16, shuffle=100, world=2, seed=0)
    assert theirs.shape == (93, 2, 16)
    ours = mixing(urls, labels, batch=16, shuffle=100, world=2, seed=0)["wlshard"]
    assert (ours["run"] or 0) < (quality(theirs, labels)["run"] or 0)
    with pytest.raises(UsageError, match="some get none"):
        shuffled(labels, batch=16, shuffle=100, world=11, seed=0)
