"""Every option that WebLoader's users type, under its old name; every defect of its tools, absent."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from mapping import contents, files, run

from wlshard.codecs import encode
from wlshard.shards.output import OutputShard

COUNT = 6


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """in.tar: six samples; x-000000.tar … x-000002.tar: two of them each."""
    for name, numbers in {"in": range(COUNT), **{f"x-{n:06d}": (2 * n, 2 * n + 1) for n in range(3)}}.items():
        with OutputShard(f"{tmp_path}/{name}.tar") as out:
            for n in numbers:
                pixels = np.full((2, 3, 3), 40 * n, np.uint8)
                out.write({"__key__": f"k{n}", "cls": n, "txt": f"text {n}", "png": encode("png", pixels)})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
    return tmp_path


def call(command: str, *args: str) -> str:
    """Run a command in this process; give what it said on stdout."""
    done = CliRunner().invoke(import_module(f"wlshard.cli.{command}").main, list(args))
    assert done.exit_code == 0, done.stderr
    return done.stdout


def keys(path: Path) -> str:
    return " ".join(key for key, _ in contents(path))


ALL = "k0 k1 k2 k3 k4 k5"
MAP = {  # arguments → what the fields cls of the output are
    ("-c", "_['cls'] += 10"): "10 11 12 13 14 15",
    ("-c", "_ = dict(__key__='a' + _['__key__'], cls=7)"): "7 7 7 7 7 7",
    ("-c", "_ = [dict(_, __key__=_['__key__'] + c) for c in 'xy'] if _.cls == 2 else None"): "2 2",
    ("-C", "def f(n): return -n", "-c", "_.cls = f(_.cls)"): "0 -1 -2 -3 -4 -5",
    ("-l", "t.py"): "100 101 102 103 104 105",
    ("-F", "rgb", "-c", "_.cls = _.png.dtype.itemsize"): "4 4 4 4 4 4",
    ("-F", "rgb8", "-c", "_.cls = _.png.shape[2]"): "3 3 3 3 3 3",
    ("-F", "gray", "-c", "_.cls = round(float(_.png.max()) * 255 / 40)"): "0 1 2 3 4 5",
    ("-F", "pil", "-c", "_.cls = _.png.size[0]"): "3 3 3 3 3 3",
    ("-p", "3", "-c", "_.cls *= 2"): "0 2 4 6 8 10",
    ("-P", "3", "-O", "-c", "_.cls *= 2"): "0 2 4 6 8 10",
    ("--only", "2", "-c", "pass"): "0 1",
    ("-e", "2", "-c", "pass"): "0 1 2 3 4 5",
}


@pytest.mark.parametrize("args", MAP, ids=" ".join)
def test_wl_map(args: tuple[str, ...], folder: Path) -> None:
    (folder / "t.py").write_text("def transform(sample):\n    sample['cls'] += 100\n    return sample\n")
    call("map", *args, "in.tar", "-o", "out.tar")
    assert " ".join(fields["cls"].decode() for _, fields in contents(folder / "out.tar")) == MAP[args]


XARGS = {  # arguments → keys, and fields of the first sample, of the output
    ("-c", "true"): (ALL, "cls png txt"),
    ("-S", "s.sh"): (ALL, "cls txt"),
    ("-S", "s.py", "--interpreter", sys.executable): (ALL, "png txt"),
    ("-w", "place", "-c", "pwd | grep -q /place/ && rm sample.png"): (ALL, "cls txt"),
    ("-b", "it", "-c", "rm it.png"): (ALL, "cls txt"),
    ("-f", "cls", "-c", "true"): (ALL, "cls"),
    ("-f", "cls,jpg", "-F", "ignore", "-c", "true"): (ALL, "cls"),
    ("-p", "2", "-c", "rm sample.cls"): (ALL, "png txt"),
    ("-P", "2", "-c", "rm sample.cls"): (ALL, "png txt"),
    ("-e", "abort", "-c", "true"): (ALL, "cls png txt"),
    ("-E", "png$", "-c", "true"): (ALL, "cls txt"),
    ("-I", "png$", "-c", "true"): (ALL, "png"),
    ("-s", "_", "--count", "1", "-c", "cp sample.cls b.cls"): ("k0 k0_b", "cls png txt"),
    ("--count", "2", "-c", "true"): ("k0 k1", "cls png txt"),
    ("--count", "1,3", "-c", "true"): ("k1 k2", "cls png txt"),
    ("-v", "-q", "-c", "true"): (ALL, "cls png txt"),
}  # fmt: skip
FAILING = {"abort": (23, ""), "skip": (3, "k0 k1 k3 k4 k5"), "ignore": (3, ALL)}


@pytest.mark.parametrize("args", XARGS, ids=" ".join)
def test_wl_xargs(args: tuple[str, ...], folder: Path) -> None:
    (folder / "s.sh").write_text("[[ -f sample.png ]] && rm sample.png")
    (folder / "s.py").write_text("import os; os.remove('sample.cls')")
    done = run("xargs", *args, "in.tar", "-o", "out.tar", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert keys(folder / "out.tar") == XARGS[args][0]
    assert " ".join(contents(folder / "out.tar")[0][1]) == XARGS[args][1]
    assert "-q" not in args or b"read" not in done.stderr
    assert ("-v" in args) == (b"k0 cls png txt" in done.stderr)


@pytest.mark.parametrize("policy", FAILING)
def test_wl_xargs_of_a_command_that_fails(policy: str, folder: Path) -> None:
    done = run("xargs", "-e", policy, "-c", "! grep -q 2 sample.cls", "in.tar", "-o", "out.tar", cwd=folder)
    assert done.returncode == FAILING[policy][0]
    assert (keys(folder / "out.tar") if (folder / "out.tar").exists() else "") == FAILING[policy][1]
    assert (
        run("xargs", "-f", "jpg", "-F", "error", "-c", "true", "in.tar", "-o", "o.tar", cwd=folder).returncode
        == 21
    )


LOOKING = {  # arguments → stdout
    ("cat", "in.tar", "cls"): "0",
    ("cat", "in.tar", "__key__", "0"): "k0",
    ("cat", "in.tar", "txt", "5"): "text 5",
    ("cat", "in.tar", "jpg;txt;cls"): "text 0",
    ("cat", "in.tar", "txt", "-S", "_['cls'] > 3"): "text 4",
    ("cat", "x-{000000..000002}.tar", "cls", "4"): "4",
    ("cat", "x-@000003.tar", "cls", "5"): "5",
    ("extract", "-f", "__key__ cls", "-c", "2", "in.tar"): "k0\t0\nk1\t1\n",
    ("extract", "-f", "jpg;cls", "-F", "tsv", "-s", "4", "in.tar"): "4\n5\n",
    ("extract", "-f", "__key__ cls", "-F", "json", "-c", "1", "in.tar"): '{"__key__":"k0","cls":0}\n',
    ("extract", "-f", "cls", "-S", "_['cls'] % 3 == 2", "in.tar"): "2\n5\n",
    ("extract", "-f", "n", "-P", "_['n'] = len(_['txt'])", "-c", "1", "in.tar"): "6\n",
}


@pytest.mark.parametrize("args", LOOKING, ids=" ".join)
def test_wl_cat_and_wl_extract(args: tuple[str, ...], folder: Path) -> None:
    assert call(*args) == LOOKING[args]


def test_wl_cat_shuffled(folder: Path) -> None:
    drawn = {call("cat", "in.tar", "cls", "--shuffle", "6", "--seed", str(seed)) for seed in range(40)}
    assert drawn == set("012345")


DUMP = {
    ("-o", "out-{index:06d}", "-f", "cls", "-c", "2"): "out-000000.cls out-000001.cls",
    ("-o", "{key}", "-f", "jpg;txt cls", "-c", "1"): "k0.cls k0.txt",
    ("-o", "{key}", "-f", "cls", "-s", "4"): "k4.cls k5.cls",
    ("-o", "{key}", "-f", "cls", "-S", "_['cls'] == 3"): "k3.cls",
}


@pytest.mark.parametrize("args", DUMP, ids=" ".join)
def test_wl_dump(args: tuple[str, ...], folder: Path) -> None:
    before = files(folder)
    call("dump", *args, "in.tar")
    assert " ".join(name for name in files(folder) if name not in before) == DUMP[args]


@pytest.mark.parametrize(("decode", "dtype"), [("rgb8", "uint8"), ("rgb", "float32"), ("gray8", "uint8")])
def test_wl_info_and_wl_show(decode: str, dtype: str, folder: Path) -> None:
    told = json.loads(call("info", "in.tar", "-c", "4", "-d", decode, "--json"))
    assert (told["samples"], told["fields"]["png"]["count"], told["fields"]["png"]["dtype"]) == (6, 4, dtype)
    assert "text 2" in call("show", "in.tar", "2")


@pytest.mark.parametrize("parallel", ["1", "3"])
def test_untouched_fields_keep_their_bytes_and_each_sample_comes_once_in_order(
    parallel: str, folder: Path
) -> None:
    """Its wl-map encoded images anew, with loss, in any order, and each worker read all shards."""
    call("map", "-P", parallel, "-c", "_.png; _.cls += 1", "x-@000003.tar", "-o", "out.tar")
    assert [(key, fields["png"]) for key, fields in contents(folder / "out.tar")] == [
        (key, fields["png"]) for key, fields in contents(folder / "in.tar")
    ]


@pytest.mark.parametrize("parallel", ["1", "3"])
def test_a_workers_error_is_told_and_counts(parallel: str, folder: Path) -> None:
    done = CliRunner().invoke(
        import_module("wlshard.cli.map").main,
        ["-P", parallel, "-c", "1 / (_.cls - 4)", "in.tar", "-o", "out.tar"],
    )
    assert (done.exit_code, files(folder).count("out.tar")) == (23, 0)
    assert "ZeroDivisionError" in done.stderr
    assert "key k4" in done.stderr
