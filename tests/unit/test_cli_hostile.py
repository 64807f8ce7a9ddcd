"""Shards made to harm: names, texts, pickles, bombs and sizes that were not written by a friend."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from mapping import files, run
from tars import END, header, member, pax, record

ESC = b"\x1b]0;owned\x07\x1b[31m"
CODES = {0, 2, 3, 10, 20, 21, 22}  # never 1, "unexpected"


def saved(save: object, *args: object, **named: object) -> bytes:
    out = io.BytesIO()
    save(out, *args, **named)
    return out.getvalue()


class Bomb:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch owned",)


PICKLE = pickle.dumps(Bomb())
OBJECTS = np.array([Bomb()], dtype=object)
HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }".ljust(117) + "\n"
EVIL = {
    "escape in key": member(b"k" + ESC + b".cls", b"1"),
    "escape in field": member(b"k.cls" + ESC, b"1"),
    "escape in field, twice": member(b"k.cls" + ESC, b"1") * 2,
    "escape in key, twice": member(b"k" + ESC + b".cls", b"1") + member(b"b.x") + member(b"k" + ESC + b".x"),
    "escape in text": member(b"k.cls", ESC) + member(b"k.json", b'{"a": "' + ESC) + member(b"k.txt", ESC),
    "escape in link": header(b"k" + ESC + b".cls", kind=b"1", link=ESC),
    "escape in pax": pax(size="1" + ESC.decode()) + member(b"k.cls", b"1"),
    "escape of 8 bits": member("k\x9b31m.cls".encode(), b"1"),
    "escape in size": header(b"k.cls", raw_size=b"\x1b[31m0000000"),
    "newline in key": member(b"a\nb.cls", b"1"),
    "nul in pax name": member(b"h", record("path", "k\0/../x.cls"), b"x") + member(b"z.cls", b"1"),
    "no utf-8": member(b"k\xff\xfe.cls", b"1") + member(b"k\xff\xfe.txt", b"\xff"),
    "key leads out": member(b"../../k.cls", b"1"),
    "absolute key": member(b"/tmp/wl-owned.cls", b"1"),
    "key of slashes": member(b"///a//b.cls", b"1"),
    "key of dots": member(b"a/...cls", b"1") + member(b"..cls") + member(b".cls"),
    "key is a template": member(b"{index}{key}{0.__class__}%s.cls", b"1"),
    "key is a command": member(b"$(touch owned);`touch owned`'\".cls", b"1"),
    "field is a command": member(b"k.$(touch owned)", b"1") + member(b"k.cls", b"1"),
    "field is ours": member(b"k.__key__", b"evil") + member(b"k.__url__", b"evil"),
    "field too long": pax(path="k." + "f" * 300) + member(b"z", b"1") + member(b"l.cls", b"1"),
    "key too long": pax(path="k" * 5000 + ".cls") + member(b"z", b"1"),
    "key too deep": pax(path="d/" * 3000 + "k.cls") + member(b"z", b"1"),
    "symlink, then through it": header(b"d", kind=b"2", link=b"/tmp") + member(b"d/wl-owned.cls", b"1"),
    "pickles": b"".join(member(b"k." + ext, PICKLE) for ext in (b"pkl", b"pth", b"pyd", b"pickle")),
    "pickle in npy": member(b"k.npy", saved(np.save, OBJECTS, allow_pickle=True)),
    "pickle in npz": member(b"k.npz", saved(np.savez, a=OBJECTS)),
    "npy of a petabyte": member(b"k.npy", b"\x93NUMPY\x01\x00v\x00" + HUGE.encode()),
    "number of 10,000 digits": member(b"k.cls", b"9" * 10_000),
    "json 100,000 deep": member(b"k.json", b"[" * 100_000),
}  # fmt: skip
LOOK = (
    "cat {} cls", "cat {} nope", "extract -f __key__ {}", "extract -f nope {}", "show {}", "show --json {}",
    "extract -F json -f cls;npy;npz;pkl {}", "info {}", "info --json {}", "info --verify {}",
    "index --force {}", "dump -o out/{{key}} {}", "map -c [_[k]for(k)in(_)] --force -e 1 {} -o o.tar",
    "map -c 0 --on-error skip {} -o p.tar",
    "reshard --force {} -o r.tar", "reshard --mix --sort cls {} -o s.tar",
)  # fmt: skip


def call(line: str) -> Result:
    command, *args = line.split()
    return CliRunner().invoke(import_module(f"wlshard.cli.{command}").main, args)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # its thread would outlive the test
    return tmp_path / "in"


def quiet(data: bytes) -> bool:
    """Tell whether a terminal would take all of it for text."""
    return data.decode(errors="replace").replace("\n", "").replace("\t", "").isprintable()


@pytest.mark.parametrize("what", EVIL)
def test_whatever_a_shard_holds_commands_say_so_in_plain_text_and_run_none_of_it(
    what: str, folder: Path
) -> None:
    (folder / "e.tar").write_bytes(EVIL[what] + END)
    for line in LOOK:
        done = call(line.format("e.tar"))
        assert done.exit_code in CODES, (line, done.stderr)
        assert quiet(done.stderr_bytes), line
        assert line.startswith("cat {} cls") or quiet(done.stdout_bytes), line
        assert done.exit_code == 0 or done.stderr or line.startswith(("show", "info --verify"))
    assert set(files(folder)) <= {
        "e.tar",
        "e.idx",
        "out",
        "o.tar",
        "o.idx",
        "p.tar",
        "p.idx",
        "p.failed.jsonl",
        "r.tar",
        "r.idx",
        "s.tar",
        "s.idx",
    }
    assert files(folder.parent) == ["in"]
    assert not Path("/tmp/wl-owned.cls").exists()


def test_xargs_gives_names_as_data(folder: Path) -> None:
    names = (
        "key is a command",
        "key is a template",
        "key too long",
        "field too long",
        "no utf-8",
        "key too deep",
    )
    for n, name in enumerate(names):
        (folder / f"e{n}.tar").write_bytes(EVIL[name] + END)
    shell = 'printf "%s" "$WL_KEY" > sample.said; pwd'
    done = run("xargs", "-e", "skip", "-c", shell, "e*.tar", "-o", "o.tar", cwd=folder)
    assert done.returncode == 3, done.stderr
    assert b"too long" in done.stderr
    assert "\nl\n" in call("extract -f __key__ o.tar").stdout
    for number in range(6):
        assert (
            call(f"cat o.tar said {number}").stdout_bytes == call(f"cat o.tar __key__ {number}").stdout_bytes
        )
    assert all(line.endswith(b"/sample") for line in done.stderr.splitlines() if line.startswith(b"/"))


PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
try:
    import lz4.frame
    import zstandard

    PACK |= {"lz4": lz4.frame.compress, "zst": zstandard.compress}
except ImportError:
    pass


@pytest.mark.parametrize("kind", [*PACK, "plain", "sparse", "base-256"])
def test_a_member_above_max_member_is_refused_by_every_command_before_it_is_held(
    kind: str, folder: Path
) -> None:
    data = member(b"k.bin", bytes(64 << 20)) if kind in (*PACK, "plain") else b""
    if kind == "sparse":
        data = pax(
            GNU__sparse__size=str(1 << 40), GNU__sparse__map="0,1", GNU__sparse__name="k.bin"
        ) + member(b"z", b"1")
    if kind == "base-256":
        data = header(b"k.bin", raw_size=b"\x80" + (1 << 50).to_bytes(11, "big"))
    (folder / "b.tar").write_bytes(PACK.get(kind, bytes)(data + END))
    for line in (
        *(line for line in LOOK if "index" not in line and "-e 1" not in line),
        "map -P 2 -c 0 {} -o q.tar",
    ):
        done = call(line.format("b.tar") + ("" if "verify" in line else " --max-member 1M"))
        small = "verify" in line and kind in (*PACK, "plain")
        assert done.exit_code == (0 if small else 3 if "skip" in line else 20), (line, done.stderr)
        assert "skip" in line or small or "at most" in done.stderr + done.stdout, line
    assert "q.tar" not in files(folder)


def test_what_is_not_asked_for_is_not_unpacked(folder: Path) -> None:
    field = gzip.compress(bytes(1 << 26))
    (folder / "b.tar").write_bytes(member(b"k.npy.gz", field) + member(b"k.txt", b"small") + END)
    assert call("cat b.tar npy.gz").stdout_bytes == field
    assert call("extract -f txt b.tar").stdout == "small\n"
    assert call("map -c _.txt='new' b.tar -o o.tar").exit_code == 0
    assert call("cat o.tar npy.gz").stdout_bytes == field


@pytest.mark.parametrize("field", ["txt.gz", "npz"])
def test_a_field_that_unpacks_to_more_than_max_member_is_refused_by_whoever_unpacks_it(
    field: str, folder: Path
) -> None:
    data = saved(np.savez_compressed, np.zeros(1 << 21, np.uint8))
    data = gzip.compress(b"x" * (1 << 21)) if field == "txt.gz" else data
    (folder / "b.tar").write_bytes(member(f"k.{field}".encode(), data) + END)
    touch = f"[_['{field}']]"
    for line in (
        f"extract -f {field}",
        f"extract -S {touch}",
        f"map -c {touch} -o o.tar --force",
        f"map -P 2 -c {touch} -o p.tar",
        f"map -P 2 -c {touch} -o q-%d.tar b.tar::b.tar::@",
        f"reshard --sort {field} -o r.tar",
        "info",
    ):
        done = call(f"{line} b.tar --max-member 1M".replace("@ ", ""))
        assert (done.exit_code, "more than 1048576 bytes" in done.stderr) == (22, True), (line, done.output)
    assert call(f"map -c {touch} b.tar -o o.tar").exit_code == 0
    assert call(f"cat b.tar {field} --max-member 1M").stdout_bytes == data


@pytest.mark.parametrize(
    "url", ["pipe:touch owned", "pipe:cat x.tar", "pipe://touch owned", "a.tar::pipe:touch owned"]
)
def test_pipe_urls_run_nothing_anywhere(url: str, folder: Path) -> None:
    (folder / "list.json").write_text(json.dumps({"shardlist": [{"url": url}]}))
    looking = ["cat", url, "cls"], *([command, url] for command in ("info", "show", "extract", "index"))
    mapping = ["map", "-c", "0", "list.json", "-o", "o.tar"], ["map", "-c", "0", "/dev/null", "-o", url]
    for command, *args in (*looking, *mapping):
        done = CliRunner().invoke(import_module(f"wlshard.cli.{command}").main, args)
        assert done.exit_code in (2, 10), done.output
    assert files(folder) == ["list.json"]
