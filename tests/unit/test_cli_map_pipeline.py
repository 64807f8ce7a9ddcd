"""wl-map --pipeline: one function of all samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mapping import PARALLEL, contents, done, files, run, shard

from wlshard.codecs import encode
from wlshard.shards.output import OutputShard

CODE = """
def same(samples):
    yield from samples

def odd(samples):
    for sample in samples:
        if sample["cls"] % 2:
            sample["cls"] *= 10
            yield sample

def backwards(samples):
    yield from reversed(list(samples))

def pairs(samples):
    for first in samples:
        second = next(samples)
        yield {"__key__": first["__key__"], "a.json": first["json"], "b.json": second["json"]}

def copies(samples):
    held = [(sample, dict(sample)) for sample in samples]
    for sample, fields in held:
        yield fields

def head(samples):
    yield next(samples)

def bad(samples):
    for sample in samples:
        assert sample["cls"] != 7, "seven"
        yield sample

def silent(samples):
    try:
        yield from samples
    except Exception:
        pass

def twice(samples):
    for sample in samples:
        yield sample
        yield sample
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "p.py").write_text(CODE)
    shard(tmp_path / "in.tar")
    return tmp_path


def mapped(folder: Path, *args: str) -> list[tuple[str, dict[str, bytes]]]:
    done("map", *args, "in.tar", "-o", "out.tar", "--force", cwd=folder)
    return contents(folder / "out.tar")


def test_samples_pass_through_byte_for_byte(folder: Path) -> None:
    for name in ("same", "copies"):
        mapped(folder, "--pipeline", f"p.py:{name}")
        assert (folder / "out.tar").read_bytes() == (folder / "in.tar").read_bytes(), name


def test_a_module_is_found_in_the_current_folder_and_samples_may_be_held(folder: Path) -> None:
    assert mapped(folder, "--pipeline", "p:backwards") == contents(folder / "in.tar")[::-1]


def test_samples_may_be_dropped_changed_and_joined(folder: Path) -> None:
    before = contents(folder / "in.tar")
    assert mapped(folder, "--pipeline", "p.py:odd") == [
        (key, fields | {"cls": b"%d0" % int(fields["cls"])}) for key, fields in before[1::2]
    ]
    assert mapped(folder, "--pipeline", "p.py:pairs") == [
        (key, {"a.json": fields["json"], "b.json": other["json"]})
        for (key, fields), (_, other) in zip(before[::2], before[1::2], strict=True)
    ]
    assert mapped(folder, "--pipeline", "p.py:head") == before[:1]


def test_an_expression_knows_the_names_of_the_precode_and_code_comes_behind(folder: Path) -> None:
    found = mapped(
        folder,
        "-C",
        "import itertools",
        "--pipeline",
        "lambda s: itertools.islice(s, 3)",
        "-c",
        '_["cls"] += 1',
    )
    assert [fields["cls"] for _, fields in found] == [b"1", b"2", b"3"]


def test_a_held_photograph_is_not_encoded_again(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    with OutputShard(str(tmp_path / "in.tar")) as out:
        for n in range(4):
            out.write({"__key__": str(n), "jpg": bytes(encode("jpg", image)), "cls": b"1"})
    (tmp_path / "p.py").write_text(
        "def f(samples):\n"
        "    for s in list(samples):\n"
        "        yield {'__key__': s['__key__'], 'photo.jpg': s['jpg'], 'cls': s['cls'] + 1}\n"
    )
    found = mapped(tmp_path, "--pipeline", "p.py:f")
    assert [fields["photo.jpg"] for _, fields in found] == [
        f["jpg"] for _, f in contents(tmp_path / "in.tar")
    ]


@pytest.mark.parametrize("parallel", PARALLEL)
def test_shards_are_done_side_by_side_and_each_has_its_own_run(parallel: list[str], folder: Path) -> None:
    for n in range(4):
        shard(folder / f"in-{n}.tar", 5, first=5 * n)
    args = [*parallel, "--pipeline", "p.py:head", "in-{0..3}.tar", "-o", "out-{0..3}.tar", "--json"]
    told = json.loads(run("map", *args, cwd=folder).stdout)
    assert (told["read"], told["written"], told["dropped"], told["shards"]) == (4, 4, 0, 4)
    assert [contents(folder / f"out-{n}.tar")[0][0] for n in range(4)] == ["k0000", "k0005", "k0010", "k0015"]


def test_counts_and_a_single_shard_whatever_is_asked_of_processes(folder: Path) -> None:
    args = ["-P", "3", "--pipeline", "p.py:odd", "in.tar", "-o", "-"]
    ended = run("map", *args, cwd=folder)
    assert b"20 samples read, 10 written to 1 shard, 10 dropped" in ended.stderr


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["--pipeline", "p.py:bad"], 23, 'assert sample["cls"] != 7'),
        (["--pipeline", "p.py:bad"], 23, "key k0007"),
        (["--pipeline", "p.py:bad"], 23, 'p.py", line'),
        (["--pipeline", "p.py:twice"], 21, "in the shard already"),
        (["--pipeline", "p.py:none"], 10, "no 'none'"),
        (["--pipeline", "q.py:none"], 10, "no such Python file"),
        (["--pipeline", "q:none"], 10, "no module q"),
        (["--pipeline", "same("], 2, "is no Python"),
        (["--pipeline", "same"], 23, "NameError"),
        (["--pipeline", "3"], 2, "is int"),
        (["--pipeline", "lambda samples: 3"], 23, "returned int"),
        (["--pipeline", "lambda samples: [3]"], 23, "yielded int"),
        (["--pipeline", "lambda samples: [{}]"], 23, "without __key__"),
        (["--pipeline", "lambda samples: ({'__key__': 'x'} for _ in samples)"], 21, "without fields"),
        (["--pipeline", "p.py:same", "--on-error", "skip"], 2, "--on-error"),
    ],
)
def test_what_goes_wrong_is_told_and_leaves_nothing(
    args: list[str], code: int, told: str, folder: Path
) -> None:
    assert told in done("map", *args, "in.tar", "-o", "out.tar", cwd=folder, code=code)
    assert not {name for name in files(folder) if name.startswith("out")}


def test_damage_that_a_pipeline_keeps_to_itself_is_told_all_the_same(folder: Path) -> None:
    (folder / "cut.tar").write_bytes((folder / "in.tar").read_bytes()[:20_000])
    told = done("map", "--pipeline", "p.py:silent", "cut.tar", "-o", "out.tar", cwd=folder, code=20)
    assert "cut" in told
    assert "out.tar" not in files(folder)
