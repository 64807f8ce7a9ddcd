"""wl-reshard: what becomes of samples on their way into other shards."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import processes
import pytest
from mapping import contents, done, files, run, shard

from wlshard.errors import GroupingError, NotFound, UsageError, UserCodeError, WlshardError
from wlshard.jobs.reshard import Resharding, reshard
from wlshard.shards.output import OutputShard
from wlshard.shards.reader import read_samples


@pytest.fixture(autouse=True)
def in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def into(output: str, *inputs: str, **how: Any) -> list[tuple[str, dict[str, bytes]]]:
    """Reshard inputs into one output in this process; give what is in it."""
    reshard(Resharding([[one] for one in inputs], output, **how))
    return contents(output)


def keys(*paths: str) -> list[str]:
    return [sample["__key__"] for path in paths for sample in read_samples(path)]


def two(first: int = 0) -> list[str]:
    return [str(shard(Path("a.tar"), 20)), str(shard(Path("b.tar"), 7, first=20))]


def test_merging_and_splitting_keep_every_byte() -> None:
    whole = [sample for name in two() for sample in contents(name)]
    done("reshard", "a.tar", "b.tar", "-o", "both.tar", cwd=Path())
    assert contents("both.tar") == whole
    told = run("reshard", "both.tar", "-o", "s-%04d.tar", "--shard-samples", 10, "--json", cwd=Path())
    result = json.loads(told.stdout)
    assert (result["samples"], result["shards"]) == (27, 3)
    assert result["bytes"] == sum(os.path.getsize(f"s-000{n}.tar") for n in range(3))
    assert [len(contents(f"s-000{n}.tar")) for n in range(3)] == [10, 10, 7]
    back = run("reshard", "s-*.tar", "-o", "-", cwd=Path())
    assert back.stdout == Path("both.tar").read_bytes()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset's open files
def test_others_read_what_is_written() -> None:
    webdataset = pytest.importorskip("webdataset")
    two()
    into("both.tar", "a.tar", "b.tar", shuffle=True, rename=[("left.bin", ["raw.bin"])])
    listed = subprocess.run(
        ["tar", "tf", "both.tar"], capture_output=True, check=True, text=True
    ).stdout.split()
    with tarfile.open("both.tar") as tar:
        assert tar.getnames() == listed
    theirs = list(webdataset.WebDataset("both.tar", shardshuffle=False))
    assert [(one["__key__"], one["left.bin"]) for one in theirs] == [
        (key, fields["left.bin"]) for key, fields in contents("both.tar")
    ]
    assert listed[0].partition(".")[0] == theirs[0]["__key__"]


def test_bytes_split_shards_too() -> None:
    two()
    reshard(Resharding([["a.tar"]], "s-%d.tar", shard_bytes=30_000))
    sizes = [
        os.path.getsize(name) for name in files(Path()) if name.startswith("s-") and name.endswith("tar")
    ]
    assert len(sizes) > 2
    assert all(20_000 < size <= 30_000 for size in sizes[:-1])
    assert keys(*(f"s-{n}.tar" for n in range(len(sizes)))) == keys("a.tar")


@pytest.mark.parametrize("output", ["e-{0..3}.tar", "e-@4.tar"])
def test_named_outputs_get_equal_parts(output: str) -> None:
    two()
    reshard(Resharding([["a.tar"], ["b.tar"]], output))
    parts = [keys(f"e-{n}.tar") for n in range(4)]
    assert [len(part) for part in parts] == [6, 7, 7, 7]
    assert [key for part in parts for key in part] == keys("a.tar", "b.tar")


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar.zst", "x-%d.tgz"])
def test_the_name_packs(name: str) -> None:
    two()
    reshard(Resharding([["a.tar"]], name))
    assert contents(name.replace("%d", "0")) == contents("a.tar")
    assert not Path("x.idx").exists()


SLICES = [
    (3, 9, None),
    (None, None, 4),
    (-5, None, None),
    (2, -3, 5),
    (None, -20, None),
    (22, None, 2),
    (50, 60, 1),
]


@pytest.mark.parametrize("span", SLICES)
@pytest.mark.parametrize("mix", [False, True])
def test_a_slice_is_pythons(span: tuple[int | None, int | None, int | None], mix: bool) -> None:
    whole = into("all.tar", *two(), mix=mix)
    assert into("x.tar", "a.tar", "b.tar", span=span, mix=mix) == whole[slice(*span)]


def test_a_slice_from_the_end_of_a_pipe_is_refused() -> None:
    data = shard(Path("a.tar")).read_bytes()
    ended = run("reshard", "--slice", "-3:", "-", "-o", "x.tar", cwd=Path(), stdin=data)
    assert ended.returncode == 2
    assert b"at its end only" in ended.stderr
    ended = run("reshard", "--slice", "3:5", "-", "-o", "-", cwd=Path(), stdin=data)
    Path("y.tar").write_bytes(ended.stdout)
    assert keys("y.tar") == ["k0003", "k0004"]


def test_fields_are_kept_dropped_and_renamed() -> None:
    before = contents(shard(Path("a.tar"), 3))
    assert into(
        "x.tar", "a.tar", fields="png;json cls", drop=["cls"], rename=[("meta.json", ["txt", "json"])]
    ) == [(key, {"meta.json": fields["json"]}) for key, fields in before]
    for number, (wrong, error) in enumerate(
        {
            (("fields", "jpg cls"),): NotFound,
            (("drop", ("jpg",)),): NotFound,
            (("rename", (("jpg", ("png",)),)),): NotFound,
            (("rename", (("cls", ("json",)),)),): GroupingError,
            (("rename", (("A", ("json",)),)),): GroupingError,
            (("fields", "cls"), ("drop", ("cls",))): GroupingError,
        }.items()
    ):
        with pytest.raises(error):
            into(f"w{number}.tar", "a.tar", **dict(wrong))
    assert files(Path()) == ["a.idx", "a.tar", "x.idx", "x.tar"]


def test_a_key_that_comes_twice_is_told_with_both_places_and_a_cure() -> None:
    shard(Path("a.tar"), 5)
    shard(Path("b.tar"), 9, first=4)
    ended = run("reshard", "a.tar", "b.tar", "-o", "x-%d.tar", "--shard-samples", 2, cwd=Path())
    assert ended.returncode == 21
    told = ended.stderr.decode()
    assert all(word in told for word in ("a.tar", "b.tar", "k0004", "--rekey"))
    assert files(Path()) == ["a.idx", "a.tar", "b.idx", "b.tar"]
    done("reshard", "a.tar", "b.tar", "-o", "x.tar", "--rekey", "{shard}/{key}", cwd=Path())
    assert keys("x.tar")[3:6] == ["a/k0003", "a/k0004", "b/k0004"]
    assert [key for key, _ in into("y.tar", "a.tar", "b.tar", rekey="{index:06d}", sort="-_.cls")] == [
        f"{n:06d}" for n in range(14)
    ]
    with pytest.raises(GroupingError, match=r"in a\.tar and comes again"):
        into("z.tar", "a.tar", "b.tar", rekey="{basename}")
    for template in ("{nope}", "{index", "{key:d}", "{}"):
        with pytest.raises(UsageError, match="no template"):
            into("z.tar", "a.tar", rekey=template)


def test_one_shard_after_the_other_or_mixed() -> None:
    two()
    mixed = [key for key, _ in into("x.tar", "a.tar", "b.tar", mix=True)]
    assert mixed[:4] == ["k0000", "k0020", "k0001", "k0021"]
    assert mixed[14:] == [f"k{n:04d}" for n in range(7, 20)]
    heavy = [key for key, _ in into("y.tar", "a.tar", "b.tar", mix=True, weights=[1, 1e9])]
    assert heavy[:7] == [f"k{n:04d}" for n in range(20, 27)]
    assert heavy[7:] == keys("a.tar")
    for n, count in enumerate((1, 2, 2)):
        shard(Path(f"t{n}.tar"), count, first=10 * n)
    turns = [key for key, _ in into("t.tar", "t0.tar", "t1.tar", "t2.tar", mix=True)]
    assert turns == ["k0000", "k0010", "k0020", "k0011", "k0021"]  # who has ended costs nobody a turn
    reshard(Resharding([["a.tar", "b.tar"]], "z.tar", mix=True))  # the shards of a single source
    assert keys("z.tar") == mixed
    for how in ({"weights": [1, 1]}, {"mix": True, "weights": [1]}, {"mix": True, "weights": [1, 0]}):
        with pytest.raises(UsageError, match=r"give as many weights|add --mix"):
            into("w.tar", "a.tar", "b.tar", **how)


def test_sorting_by_key_field_and_expression() -> None:
    with OutputShard("in.tar") as out:
        for n, (key, number) in enumerate([("b", 10), ("c", 9), ("a", 10), ("d", 100)]):
            out.write({"__key__": key, "cls": number, "txt": "x" * n, "f.npy": b"no array"})
    assert [key for key, _ in into("k.tar", "in.tar", sort="key")] == ["a", "b", "c", "d"]
    assert [key for key, _ in into("c.tar", "in.tar", sort="cls")] == ["c", "b", "a", "d"]
    assert [key for key, _ in into("e.tar", "in.tar", sort="-len(_.txt)")] == ["d", "a", "c", "b"]
    assert [key for key, _ in into("l.tar", "in.tar", sort='[-_["cls"], _["__key__"]]')] == [
        "d",
        "a",
        "b",
        "c",
    ]
    mixed = into("m.tar", "in.tar", sort='_["cls"] if _["cls"] > 9 else "text"')
    assert [key for key, _ in mixed] == ["b", "a", "d", "c"]
    with pytest.raises(NotFound, match="no field png"):
        into("x.tar", "in.tar", sort="png")
    for bad in ("(None)", "{}", "float('nan')"):
        with pytest.raises(UserCodeError, match="has no order"):
            into("x.tar", "in.tar", sort=bad)
    assert not Path("x.tar").exists()


def test_shards_of_earlier_runs_are_not_mixed_in() -> None:
    two()
    reshard(Resharding([["a.tar"]], "s-%02d.tar", shard_samples=3))
    assert Path("s-06.tar").exists()
    Path("s-00.tar").unlink()
    Path("s-ab.tar").touch()
    for output in ("s-%02d.tar", "s-{00..01}.tar", "s-@02.tar"):
        with pytest.raises(UsageError, match="exists already"):
            reshard(Resharding([["b.tar"]], output))
    reshard(Resharding([["b.tar"]], ".//s-%02d.tar", shard_samples=4, force=True))
    assert files(Path()) == [
        "a.idx", "a.tar", "b.idx", "b.tar", "s-00.idx", "s-00.tar", "s-01.idx", "s-01.tar", "s-ab.tar"
    ]  # fmt: skip
    assert keys("s-00.tar", "s-01.tar") == keys("b.tar")


def test_shards_can_be_replaced_by_what_is_made_of_them() -> None:
    two()
    before = [one for name in ("a.tar", "b.tar") for one in contents(name)]
    reshard(Resharding([["a.tar"], ["b.tar"]], "s-%d.tar", shard_samples=2))
    reshard(Resharding([[f"s-{n}.tar" for n in range(14)]], "s-%d.tar", shard_samples=9, force=True))
    assert [one for n in range(3) for one in contents(f"s-{n}.tar")] == before
    assert not Path("s-3.tar").exists()


def test_no_samples_make_an_empty_shard() -> None:
    two()
    reshard(Resharding([["a.tar"]], "x-%d.tar", span=(5, 5, None)))
    assert keys("x-0.tar") == []


WRONG: dict[str, list[str]] = {
    "an ending": ["a.tar", "-o", "x"],
    "limits of one": ["a.tar", "-o", "x.tar", "--shard-samples", "3"],
    "too many": ["a.tar", "-o", "x-{0..99}.tar"],
    "backwards": ["a.tar", "-o", "x.tar", "--slice", "::-1"],
    "no step": ["a.tar", "-o", "x.tar", "--slice", "::0"],
    "no slice": ["a.tar", "-o", "x.tar", "--slice", "3"],
    "both": ["a.tar", "-o", "x.tar", "--sort", "key", "--shuffle"],
    "memory": ["a.tar", "-o", "x.tar", "--shuffle", "--memory", "1M"],
    "rename": ["a.tar", "-o", "x.tar", "--rename", "cls"],
    "weights": ["a.tar", "-o", "x.tar", "--mix", "--weights", "x"],
    "one index": ["a.tar", "-o", "x.%d.tar"],
    "stdin twice": ["-", "-", "-o", "x.tar"],
    "no output": ["a.tar"],
}


@pytest.mark.parametrize("args", WRONG.values(), ids=WRONG)
def test_what_makes_no_sense_is_refused(args: list[str]) -> None:
    shard(Path("a.tar"))
    done("reshard", *args, cwd=Path(), code=2)
    assert files(Path()) == ["a.idx", "a.tar"]


@pytest.mark.parametrize("how", [[], ["--shuffle", "--memory", "16M"]])
def test_a_killed_run_leaves_nothing_that_is_seen_and_the_next_one_cleans_up(how: list[str]) -> None:
    data = shard(Path("a.tar"), 9000).read_bytes()
    words = [
        sys.executable,
        "-P",
        "-m",
        "wlshard.cli.reshard",
        "-",
        "-o",
        "out/x-%02d.tar",
        "--shard-samples",
        "100",
    ]
    process = subprocess.Popen([*words, *how], stdin=subprocess.PIPE, env=processes.environ())
    assert process.stdin is not None
    process.stdin.write(data[:-4_000_000])
    process.stdin.flush()
    processes.until(
        lambda: len(list(Path("out").glob("*.partial"))) > (0 if how else 50), "shards being written"
    )
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    assert {name.partition(".")[2] for name in files(Path("out"))} == {"tar.partial"}
    for name in ("x-07", "y-07"):  # as a kill leaves them while an index is being put
        Path(f"out/.{name}.idx.0123456789abcdef.partial").write_bytes(b"v1.2 1")
    reshard(Resharding([["a.tar"]], "out/x-%02d.tar", shard_samples=5000))
    left = [name for name in files(Path("out")) if os.path.getsize(f"out/{name}")]  # one may be newborn
    assert left == [
        ".y-07.idx.0123456789abcdef.partial",
        "x-00.idx",
        "x-00.tar",
        "x-01.idx",
        "x-01.tar",
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 30 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.parametrize("output", ["x-%d.tar", "x.tgz", "x.tar"])
@pytest.mark.parametrize("how", [[], ["--shuffle", "--memory", "16M"]])
def test_a_full_disk_is_told_and_nothing_is_published(output: str, how: list[str], small_disk: Path) -> None:
    with OutputShard("a.tar") as out:
        for n in range(400):
            out.write({"__key__": f"{n:04d}", "bin": os.urandom(100_000)})
    told = done("reshard", "a.tar", "-o", small_disk / output, *how, cwd=Path(), code=12)
    assert "the disk is full" in told
    assert files(small_disk) == []


def test_more_outputs_than_files_may_be_open_are_written_as_far_as_the_system_lets_us() -> None:
    shard(Path("a.tar"), 200)
    words = [sys.executable, "-P", "-m", "wlshard.cli.reshard", "a.tar", "--shard-samples", "1", "-o"]

    def limited(output: str, soft: int, hard: int) -> subprocess.CompletedProcess[bytes]:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        return subprocess.run(
            [*words, output], env=processes.environ(), capture_output=True, preexec_fn=limit, check=False
        )

    assert limited("x-%03d.tar", 64, 1000).returncode == 0
    assert len(files(Path())) == 2 + 400
    told = limited("y-%03d.tar", 64, 64)
    assert (told.returncode, "raise `ulimit -n`" in told.stderr.decode()) == (12, True)
    assert len(files(Path())) == 2 + 400


def test_an_error_publishes_none_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    shard(Path("a.tar"), 20)
    data = Path("a.tar").read_bytes()
    Path("cut.tar").write_bytes(data[:-20_000])
    with pytest.raises(WlshardError):
        reshard(Resharding([["cut.tar"]], "x-%d.tar", shard_samples=2))
    assert files(Path()) == ["a.idx", "a.tar", "cut.tar"]
