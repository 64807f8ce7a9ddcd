"""wl-map, as a shell sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mapping import PARALLEL, contents, done, files, run, shard


@pytest.mark.parametrize("parallel", PARALLEL)
def test_the_code_changes_one_field_and_all_else_is_copied(parallel: list[str], tmp_path: Path) -> None:
    before = contents(shard(tmp_path / "in.tar"))
    done("map", *parallel, "-c", '_["cls"] -= 1', "in.tar", "-o", "out.tar", cwd=tmp_path)
    expected = [(key, fields | {"cls": b"%d" % (int(fields["cls"]) - 1)}) for key, fields in before]
    assert contents(tmp_path / "out.tar") == expected
    assert files(tmp_path) == ["in.idx", "in.tar", "out.idx", "out.tar"]


CODES = {
    "nothing": "pass",
    "looking": 'assert _["json"]["n"] >= 0',
    "many": '_ = [{"__key__": _["__key__"] + c, "cls": ord(c), "raw.bin": _["raw.bin"]} for c in "ab"]',
    "unnamed": '_ = [{"cls": 1}, {"cls": 2}]',
    "some": 'if _["cls"] % 3: _ = None',
    "in place": '_["json"]["more"] = [1.5, "é"]',
    "rename": '_["b.json"] = _.pop("json"); del _["cls"]',
}


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_the_output_does_not_depend_on_parallelism(code: str, tmp_path: Path) -> None:
    shard(tmp_path / "in.tar", 150)
    done("map", "-c", code, "in.tar", "-o", "one.tar", cwd=tmp_path)
    done("map", "-P", "2", "-O", "-c", code, "in.tar", "-o", "two.tar", cwd=tmp_path)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    assert (tmp_path / "one.tar").stat().st_size > 10_000


def test_results_may_be_none_one_or_many(tmp_path: Path) -> None:
    shard(tmp_path / "in.tar", 3)
    code = (
        'n = _["cls"]; _ = None if n == 0 else _ if n == 1 else [{"__key__": "x", "txt": "1"}, {"txt": "2"}]'
    )
    done("map", "-c", code, "in.tar", "-o", "out.tar", cwd=tmp_path)
    found = contents(tmp_path / "out.tar")
    assert [key for key, _ in found] == ["k0001", "x", "k0002-1"]
    assert found[0][1]["json"] == b'{ "n" : 1 }'


def test_a_file_has_transform_and_precode_its_names(tmp_path: Path) -> None:
    shard(tmp_path / "in.tar", 3)
    (tmp_path / "t.py").write_text("def transform(sample):\n    sample['cls'] += 10\n    return sample\n")
    done("map", "-l", "t.py", "in.tar", "-o", "a.tar", cwd=tmp_path)
    assert [fields["cls"] for _, fields in contents(tmp_path / "a.tar")] == [b"10", b"11", b"12"]
    twice = ["-l", "t.py", "-C", "k = 2", "-C", "f = lambda n: n * k", "-c", '_["cls"] = f(_["cls"])']
    done("map", *twice, "in.tar", "-o", "b.tar", cwd=tmp_path)
    assert [fields["cls"] for _, fields in contents(tmp_path / "b.tar")] == [b"20", b"22", b"24"]


@pytest.mark.parametrize("parallel", PARALLEL)
def test_an_error_shows_key_line_and_traceback_and_leaves_nothing(
    parallel: list[str], tmp_path: Path
) -> None:
    shard(tmp_path / "in.tar")
    code = 'x = _["cls"]\nassert x != 7, "seven"'
    told = done("map", *parallel, "-c", code, "in.tar", "-o", "out.tar", cwd=tmp_path, code=23)
    assert "k0007" in told
    assert 'File "<-c>", line 2' in told
    assert 'assert x != 7, "seven"' in told
    assert "transform.py" not in told
    assert files(tmp_path) == ["in.idx", "in.tar"]


@pytest.mark.parametrize("parallel", PARALLEL)
def test_skip_writes_a_ledger_and_its_samples_can_be_tried_again(parallel: list[str], tmp_path: Path) -> None:
    shard(tmp_path / "in.tar")
    code = 'assert _["cls"] not in (3, 11)'
    done("map", *parallel, "--on-error", "skip", "-c", code, "in.tar", "-o", "out.tar", cwd=tmp_path, code=3)
    assert len(contents(tmp_path / "out.tar")) == 18
    lines = [json.loads(line) for line in (tmp_path / "out.failed.jsonl").read_text().splitlines()]
    assert [(line["url"], line["key"], line["number"]) for line in lines] == [
        ("in.tar", "k0003", 3),
        ("in.tar", "k0011", 11),
    ]
    assert lines[0]["error"]["code"] == 23
    retry = ["--retry-failed", "out.failed.jsonl", "-o", "rest.tar"]
    done("map", *parallel, "-c", '_["cls"] += 1', *retry, cwd=tmp_path)
    assert [(k, f["cls"]) for k, f in contents(tmp_path / "rest.tar")] == [("k0003", b"4"), ("k0011", b"12")]


def test_ignore_takes_what_fails_unchanged(tmp_path: Path) -> None:
    before = contents(shard(tmp_path / "in.tar", 5))
    code = '_["cls"] = 9; assert _["json"]["n"] != 2'
    done("map", "--on-error", "ignore", "-c", code, "in.tar", "-o", "out.tar", cwd=tmp_path, code=3)
    assert contents(tmp_path / "out.tar") == [
        (key, fields if key == "k0002" else fields | {"cls": b"9"}) for key, fields in before
    ]


BAD = {
    "no dict": ("_ = 3", 23, "made int"),
    "a list of no dicts": ("_ = [3]", 23, "made int"),
    "upper case": ('_["A"] = b""', 21, "lower-case"),
    "no codec": ('_["x.qqq"] = object()', 22, "no codec"),
    "a key twice": ('_["__key__"] = "same"', 21, "in the shard already"),
    "no fields": ("_ = {}", 21, "without fields"),
    "no field": ('_["png"]', 23, "KeyError"),
    "no python": ("_ = (", 2, "is no Python"),
    "exit": ("exit(0)", 23, "SystemExit"),
}


@pytest.mark.parametrize("parallel", PARALLEL)
@pytest.mark.parametrize(("code", "status", "told"), BAD.values(), ids=BAD)
def test_bad_results_are_told(code: str, status: int, told: str, parallel: list[str], tmp_path: Path) -> None:
    shard(tmp_path / "in.tar", 4)
    shown = done("map", *parallel, "-c", code, "in.tar", "-o", "out.tar", cwd=tmp_path, code=status)
    assert told in shown
    assert files(tmp_path) == ["in.idx", "in.tar"]


@pytest.mark.parametrize("parallel", PARALLEL)
def test_many_shards_and_again_only_those_that_are_missing(parallel: list[str], tmp_path: Path) -> None:
    for n in range(5):
        shard(tmp_path / f"in-{n}.tar", 4, first=4 * n)
    args = [*parallel, "-c", '_["cls"] += 1', "in-{0..4}.tar", "-o", "out-{0..4}.tar", "--json"]
    first = json.loads(run("map", *args, cwd=tmp_path).stdout)
    assert (first["read"], first["written"], first["shards"], first["already_done"]) == (20, 20, 5, 0)
    whole = {n: (tmp_path / f"out-{n}.tar").read_bytes() for n in range(5)}
    assert contents(tmp_path / "out-3.tar")[1][1]["cls"] == b"14"
    (tmp_path / "out-1.tar").unlink()
    (tmp_path / "in-3.tar").unlink()  # not needed any more
    again = json.loads(run("map", *args, cwd=tmp_path).stdout)
    assert (again["shards"], again["already_done"]) == (1, 4)
    assert {n: (tmp_path / f"out-{n}.tar").read_bytes() for n in range(5)} == whole


@pytest.mark.parametrize("parallel", PARALLEL)
def test_a_shard_that_fails_stops_the_rest_and_those_before_it_stay(
    parallel: list[str], tmp_path: Path
) -> None:
    for n in range(6):
        shard(tmp_path / f"in-{n}.tar", 2, first=2 * n)
    code = 'assert _["cls"] < 4'
    done("map", *parallel, "-c", code, "in-{0..5}.tar", "-o", "out-%d.tar", cwd=tmp_path, code=23)
    assert {"out-0.tar", "out-1.tar"} <= {*files(tmp_path)}
    assert not {f"out-{n}.tar" for n in range(2, 6)} & {*files(tmp_path)}
    assert not [name for name in files(tmp_path) if name.endswith(".partial")]


def test_without_a_template_many_shards_become_one(tmp_path: Path) -> None:
    for n in range(3):
        shard(tmp_path / f"in-{n}.tar", 2, first=2 * n)
    done("map", "-P", "2", "-c", "pass", "in-{0..2}.tar", "-o", "all.tar.gz", cwd=tmp_path)
    assert [key for key, _ in contents(tmp_path / "all.tar.gz")] == [f"k{n:04d}" for n in range(6)]


def test_an_output_that_is_there_is_refused_unless_forced(tmp_path: Path) -> None:
    shard(tmp_path / "in.tar", 2)
    args = ["-c", "pass", "in.tar", "-o", "out.tar"]
    done("map", *args, cwd=tmp_path)
    assert "exists" in done("map", *args, cwd=tmp_path, code=2)
    done("map", *args, "--force", cwd=tmp_path)


@pytest.mark.parametrize("parallel", PARALLEL)
def test_pipes(parallel: list[str], tmp_path: Path) -> None:
    data = shard(tmp_path / "in.tar").read_bytes()
    ended = run("map", *parallel, "-c", 'print("hello")', "-", "-o", "-", cwd=tmp_path, stdin=data)
    assert ended.stdout == data
    assert b"hello" in ended.stderr  # what the code prints is no data
    assert files(tmp_path) == ["in.idx", "in.tar"]


def test_only_and_every(tmp_path: Path) -> None:
    shard(tmp_path / "in.tar")
    shown = done("map", "--only", "5", "-e", "2", "-c", "pass", "in.tar", "-o", "out.tar", cwd=tmp_path)
    assert len(contents(tmp_path / "out.tar")) == 5
    assert [line for line in shown.splitlines() if line[0].isdecimal()] == ["0 k0000", "2 k0002", "4 k0004"]


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["-c", "pass", "in.tar"], 2, "--output"),
        (["in.tar", "-o", "o.tar"], 2, "no code"),
        (["-c", "pass", "-o", "o.tar"], 2, "name the shards"),
        (["-c", "pass", "none.tar", "-o", "o.tar"], 10, "none.tar"),
        (["-l", "none.py", "in.tar", "-o", "o.tar"], 10, "no such Python file"),
        (["-c", "pass", "in.tar", "-o", "o-{0..3}.tar"], 2, "4 outputs for 1"),
        (["-c", "pass", "in.tar", "-o", "o.zip"], 2, r"ends in .tar"),
        (["-c", "pass", "-F", "rgb9", "in.tar", "-o", "o.tar"], 2, "rgb9"),
        (["-c", "pass", "--retry-failed", "none", "-o", "o.tar"], 10, "no such ledger"),
        (["-c", "pass", "--engine", "moon", "-P", "2", "in.tar", "-o", "o.tar"], 2, "'moon'"),
        (["-c", "pass", "cut.tar", "-o", "o.tar"], 20, "cut"),
    ],
)
def test_what_makes_no_sense_is_told(args: list[str], code: int, told: str, tmp_path: Path) -> None:
    data = shard(tmp_path / "in.tar", 3).read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[:6000])
    assert told in done("map", *args, cwd=tmp_path, code=code)
    assert files(tmp_path) == ["cut.tar", "in.idx", "in.tar"]


def test_damage_in_the_input_is_skipped_and_told_by_the_exit_code(tmp_path: Path) -> None:
    data = bytearray(shard(tmp_path / "in.tar", 10).read_bytes())
    data[5 * 5632 : 5 * 5632 + 512] = b"\xaa" * 512
    (tmp_path / "in.tar").write_bytes(data)
    done("map", "--on-error", "skip", "-c", "pass", "in.tar", "-o", "out.tar", cwd=tmp_path, code=3)
    assert 8 <= len(contents(tmp_path / "out.tar")) < 10


def test_images_decode_as_asked(test_data: Path, tmp_path: Path) -> None:
    code = '_ = {"txt": f"{_["jpg"].dtype} {_["jpg"].ndim}"}'.replace('"jpg"', "'jpg'")
    photos = test_data / "photos-000000.tar"
    for format_, expected in {"rgb8": b"uint8 3", "gray": b"float32 2"}.items():
        out = f"{format_}.tar"
        done("map", "--only", "1", "-F", format_, "-c", code, photos, "-o", out, cwd=tmp_path)
        assert contents(tmp_path / out)[0][1]["txt"] == expected


@pytest.mark.parametrize("value", ["A", "memoryview(A)", "memoryview(A).toreadonly()"])
def test_memory_that_the_code_uses_again_is_written_as_it_was(value: str, tmp_path: Path) -> None:
    shard(tmp_path / "in.tar")
    precode = "import numpy; A = numpy.zeros(100_000, 'uint8')"
    code = f"A[:] = _.cls; _['big.{'npy' if value == 'A' else 'bin'}'] = {value}"
    done("map", "-C", precode, "-c", code, "in.tar", "-o", "out.tar", cwd=tmp_path)
    for n, (_, sample) in enumerate(contents(tmp_path / "out.tar")):
        big = sample.get("big.npy") or sample["big.bin"]
        assert set(big[-100_000:]) == {n}


def test_samples_that_failed_are_not_kept_in_memory(tmp_path: Path) -> None:
    shard(tmp_path / "in.tar", 8)
    (tmp_path / "t.py").write_text(
        "import gc, weakref\n"
        "gc.disable()\n"
        "made = []\n"
        "class Large: pass\n"
        "def transform(sample):\n"
        "    sample['cls'], odd = sum(one() is not None for one in made), sample['cls'] % 2\n"
        "    large = Large()\n"
        "    made.append(weakref.ref(large))\n"
        "    return 1 / (1 - odd) and sample\n"
    )
    code = run("map", "--on-error", "skip", "-l", "t.py", "in.tar", "-o", "out.tar", cwd=tmp_path).returncode
    assert code == 3
    assert [fields["cls"] for _, fields in contents(tmp_path / "out.tar")] == [b"0"] * 4
