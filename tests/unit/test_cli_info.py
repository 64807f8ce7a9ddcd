"""wl-info, as a shell sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wlshard.pool.names import ShardName, new_writer
from wlshard.pool.pool import Pool
from wlshard.pool.writer import ShardWriter
from wlshard.shards.writer import RollingWriter, TemplateTarget

FIELD = ["count", "types", "dtype", "shapes", "min", "max"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def info(*args: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "wlshard.cli.info", *map(str, args)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


def told(*args: object, stdin: bytes = b"") -> dict[str, Any]:
    done = info(*args, "--json", stdin=stdin)
    assert (done.returncode, done.stderr) == (0, b"")
    found: dict[str, Any] = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(name))
    return found


def row(found: dict[str, Any], field: str) -> list[Any]:
    return [found["fields"][field][name] for name in FIELD]


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Six samples in two shards."""
    with RollingWriter(TemplateTarget(f"{tmp_path}/x-%06d.tar"), shard_samples=3) as out:
        for number in range(6):
            sample: dict[str, Any] = {
                "cls": number - 2,
                "img.npy": np.full((2, 3 + number % 2), number, np.float32),
                "all.npz": {"a": np.arange(3), "b": np.zeros((2, 2), np.int64)},
                "json": {"a": 1},
                "bin": b"12345",
            }
            if number == 4:
                sample["txt"] = "only one"
                sample["img.npy"] = np.array([[np.nan, np.inf, -5.0]], np.float32)
            out.write(sample)
    return f"{tmp_path}/x-{{000000..000001}}.tar"


def test_the_keys_of_its_json_are_those_promised(shards: str, tmp_path: Path) -> None:
    found = told(shards)
    assert {"kind", "shards", "samples", "bytes", "fields"} <= found.keys()
    sizes = sum(os.path.getsize(path) for path in tmp_path.glob("*.tar"))
    assert (found["kind"], found["shards"], found["samples"], found["bytes"]) == ("shards", 2, 6, sizes)
    assert list(found["fields"]) == ["all.npz", "bin", "cls", "img.npy", "json", "txt"]


def test_types_dtypes_shapes_and_ranges_are_those_of_the_values(shards: str) -> None:
    found = told(shards)
    assert row(found, "cls") == [6, ["int"], None, [], -2, 3]
    assert row(found, "img.npy") == [6, ["ndarray"], "float32", [[2, 4], [2, 3], [1, 3]], -5.0, None]
    assert row(found, "all.npz") == [6, ["dict"], "int64", [[3], [2, 2]], 0, 2]
    assert row(found, "json") == [6, ["dict"], None, [], None, None]
    assert row(found, "bin") == [6, ["bytes"], None, [], None, None]
    assert row(found, "txt")[:2] == [1, ["str"]]
    assert found["fields"]["bin"]["bytes"] == 30


def test_count_limits_what_is_looked_into_not_what_is_counted(shards: str) -> None:
    found = told(shards, "-c", 2)
    assert (found["samples"], found["looked_at"]) == (6, 2)
    assert row(found, "cls") == [2, ["int"], None, [], -2, -1]
    assert b"first 2 samples" in info(shards, "-c", 2).stdout


def test_nothing_is_decoded_if_so_asked(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(f"{tmp_path}/x-%06d.tar")) as out:
        out.write({"npy": b"no array", "cls": b"x"})
    assert row(told(out.shards[0], "-d", "none"), "cls") == [1, ["bytes"], None, [], None, None]
    done = info(out.shards[0], "--json")
    error = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, error["code"], error["key"]) == (22, 22, "000000000")
    assert error["url"] == out.shards[0]
    assert error["member"] == "000000000.cls"


def test_stdin_is_counted_to_its_end(shards: str, tmp_path: Path) -> None:
    found = told("-", "-c", 1, stdin=(tmp_path / "x-000000.tar").read_bytes())
    assert (found["samples"], found["bytes"], found["looked_at"]) == (3, None, 1)


def test_a_shard_without_an_index_is_counted(shards: str, tmp_path: Path) -> None:
    (tmp_path / "x-000001.idx").unlink()
    assert told(shards, "-c", 1)["samples"] == 6


def test_a_pool_adds_its_state(tmp_path: Path) -> None:
    pool = Pool(f"{tmp_path}/pool").create()
    empty = told(tmp_path / "pool")
    assert (empty["kind"], empty["generation"], empty["samples"], empty["fields"]) == ("pool", 0, 0, {})
    with ShardWriter(pool, shard_samples=2) as out:
        for number in range(5):
            out.write({"cls": number})
            if number == 3:
                pool.rotate()
    found = told(tmp_path / "pool")
    keys = {"generation", "buffer", "generated_per_s", "served_per_s", "reuse", "oldest_age_s", "leases"}
    assert keys <= found.keys()
    assert (found["generation"], found["shards"], found["samples"]) == (1, 2, 4)
    assert found["buffer"] == {"shards": 1, "samples": 1, "bytes": 2048}
    assert row(found, "cls") == [4, ["int"], None, [], 0, 3]
    pool.rotate()
    assert row(told(tmp_path / "pool"), "cls")[0] == 1
    old = told(f"{tmp_path}/pool@1")
    assert (old["generation"], old["samples"], row(old, "cls")[0]) == (1, 4, 4)
    assert found["leases"] == []  # not its own
    pool.pin("best")
    pool.store.put(f"shards/{ShardName(new_writer(), 1, 1, '0' * 32)}", b"torn")
    with ShardWriter(pool) as out:
        out.write({"cls": 6})
    pool.rotate()
    lines = info(tmp_path / "pool").stdout.decode()
    assert "generation 3 of the pool" in lines
    assert "generation 2 held by pin best for 604," in lines
    assert "set aside: 1 bad shard (" in lines


def test_before_the_first_rotation_the_fields_are_those_of_the_write_buffer(tmp_path: Path) -> None:
    with ShardWriter(Pool(f"{tmp_path}/pool").create()) as out:
        out.write({"cls": 3})
    found = told(tmp_path / "pool")
    assert (found["samples"], found["looked_at"], row(found, "cls")[0]) == (0, 1, 1)
    lines = info(tmp_path / "pool").stdout.decode().splitlines()
    assert lines[3:5] == ["read pool: 0 samples in 0 shards, 0 bytes",
                          "fields of the first sample of the write buffer:"]  # fmt: skip
    assert told(f"{tmp_path}/pool@0")["fields"] == {}


def test_people_get_a_table(shards: str) -> None:
    lines = info(shards).stdout.decode().splitlines()
    assert lines[0].startswith("6 samples in 2 shards, ")
    assert lines[1].split() == ["field", "count", "type", "dtype", "shape", "min", "max", "bytes"]
    assert lines[4].split() == ["cls", "6", "int", "-2", "3", "8"]


def test_control_characters_in_a_field_do_not_reach_the_terminal(tmp_path: Path) -> None:
    from wlshard.tar.header import END_MARK, member_header

    (tmp_path / "x.tar").write_bytes(member_header("a.\x1b[2J", 0) + END_MARK)
    assert b"\x1b" not in info(tmp_path / "x.tar").stdout


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["none.tar"], 10),
        (["."], 10),
        (["none.tar", "--verify"], 10),
        (["x-000000.tar", "-d", "bogus"], 2),
        (["x-000000.tar", "-c", "-1"], 2),
    ],
)
def test_errors_end_with_their_exit_code(args: list[str], code: int, tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(f"{tmp_path}/shards/x-%06d.tar")) as out:
        out.write({"png": b"1"})
    folder = tmp_path / "shards" if args[0] != "." else tmp_path
    done = info(folder / args[0], *args[1:])
    assert (done.returncode, done.stdout) == (code, b"")
    assert b"Traceback" not in done.stderr


def verified(*args: object, stdin: bytes = b"") -> tuple[int, dict[str, Any]]:
    done = info(*args, "--verify", "--json", stdin=stdin)
    assert done.stderr == b""
    return done.returncode, json.loads(done.stdout)


def test_verify_adds_what_its_json_promises(shards: str, tmp_path: Path) -> None:
    code, whole = verified(shards)
    assert (code, whole["ok"], whole["faults"], whole["leftovers"]) == (0, True, [], [])
    assert {**whole, **told(shards)} == whole  # and all that is there without it
    assert verified(shards, "-c", 2)[1]["looked_at"] == 2
    path = tmp_path / "x-000001.tar"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data[:-1024])
    code, broken = verified(shards)
    assert (code, broken["ok"]) == (20, False)
    assert [fault["kind"] for fault in broken["faults"]] == ["tar", "index", "tar", "index"]
    assert list(broken["faults"][0]) == ["url", "member", "key", "offset", "kind", "message"]
    assert (broken["faults"][0]["url"], broken["faults"][0]["offset"]) == (str(path), 0)
    assert row(broken, "cls")[0] == broken["samples"] == 4


def test_verify_lists_faults_for_people(shards: str, tmp_path: Path) -> None:
    path = tmp_path / "x-000000.tar"
    path.write_bytes(path.read_bytes()[:-1024])
    done = info(shards, "--verify")
    assert (done.returncode, done.stderr) == (20, b"")
    lines = done.stdout.decode().splitlines()
    assert lines[-1] == "verified: 2 faults"
    assert lines[-3].startswith(f"{path}, byte ")
    assert ": tar: the tar has no end mark" in lines[-3]
    assert info(tmp_path / "x-000001.tar", "--verify").stdout.endswith(b"verified: no faults\n")


def test_verify_reads_stdin_and_a_pool_once(shards: str, tmp_path: Path) -> None:
    code, found = verified("-", "-c", 2, stdin=(tmp_path / "x-000000.tar").read_bytes()[:-1024])
    assert (code, found["samples"], found["looked_at"]) == (20, 2, 2)
    pool = Pool(f"{tmp_path}/pool").create()
    with ShardWriter(pool, shard_samples=2) as out:
        for number in range(5):
            out.write({"cls": number})
            if number == 3:
                pool.rotate()
    code, found = verified(tmp_path / "pool")
    assert (code, found["samples"], found["generation"], row(found, "cls")[0]) == (0, 4, 1, 4)
    (tmp_path / "pool/generations/0000000001.json").write_bytes(b"{}")
    code, found = verified(tmp_path / "pool")
    assert (code, [fault["kind"] for fault in found["faults"]]) == (20, ["manifest"])
    assert info(tmp_path / "pool", "--verify").returncode == 20


def test_a_field_that_does_not_decode_is_counted_while_verifying(tmp_path: Path) -> None:
    with RollingWriter(TemplateTarget(f"{tmp_path}/x-%06d.tar")) as out:
        out.write({"npy": b"no array", "cls": b"1"})
    code, found = verified(out.shards[0])
    assert (code, found["fields"]["npy"]["undecodable"], found["fields"]["cls"]["undecodable"]) == (0, 1, 0)
    assert b"1 field could not be decoded" in info(out.shards[0], "--verify").stdout


def test_watch_tells_a_pools_state_until_it_is_interrupted(shards: str, tmp_path: Path) -> None:
    pool = Pool(f"{tmp_path}/pool").create()
    command = [sys.executable, "-m", "wlshard.cli.info", pool.url, "--watch", "0.01", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["generation"] == 0
        with ShardWriter(pool) as out:
            out.write({"cls": 1})
        pool.rotate()
        while json.loads(watching.stdout.readline())["generation"] != 1:
            pass
        watching.send_signal(signal.SIGINT)
        watching.stdout.read()
    assert watching.returncode == 130
    for words in ([shards, "--watch"], [pool.url, "--watch", "1", "--verify"]):
        assert info(*words).returncode == 2


def test_real_files(test_data: Path) -> None:
    photos = told(f"{test_data}/photos-*.tar")
    assert (photos["shards"], photos["samples"]) == (4, 200)
    assert row(photos, "cls") == [200, ["int"], None, [], 0, 9]
    assert photos["fields"]["jpg"]["dtype"] == "uint8"
    assert photos["fields"]["jpg"]["shapes_omitted"] > 0
    digits = told(test_data / "sample.tgz", "-c", 5)
    assert (digits["samples"], digits["looked_at"]) == (90, 5)
    assert digits["fields"]["png"]["shapes"] == [[28, 28]]
    assert told(test_data / "mpdata.tar")["samples"] == 100
    assert row(told(test_data / "compressed.tar"), "txt.gz")[:2] == [3, ["str"]]
