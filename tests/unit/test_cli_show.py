"""wl-show, as a shell sees it, and as a terminal does."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tars import END, member

from wlshard.codecs import decode, encode
from wlshard.codecs.picture import picture
from wlshard.report.terminal import draw
from wlshard.shards.writer import RollingWriter, TemplateTarget


def show(*args: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "wlshard.cli.show", *map(str, args)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


def in_a_terminal(*args: object, **environ: str) -> str:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "wlshard.cli.show", *map(str, args)]
    env = {**os.environ, "COLUMNS": "40", "LINES": "20", **environ}
    shown = b""
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as child:
        os.close(theirs)
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:  # how a terminal says that nobody writes to it any more
            pass
        os.close(ours)
    assert child.returncode == 0
    return shown.decode()


@pytest.fixture
def shard(tmp_path: Path) -> str:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4] = 255, 0, 0
    image[4:] = 0, 0, 255
    volume = np.zeros((5, 8, 8), np.float32)
    volume[2, :, 4:] = 7
    with RollingWriter(TemplateTarget(f"{tmp_path}/x-%06d.tar")) as out:
        out.write(
            {
                "__key__": "first",
                "cls": 7,
                "txt": "one\nt\x1b[2Jwo",
                "json": {"a": [1, None]},
                "bin": b"\0\xff",
            }
        )
        out.write({"__key__": "second", "png": image, "vol.npy": volume})
    return out.shards[0]


def test_fields_sizes_and_values(shard: str) -> None:
    lines = show(shard).stdout.decode().splitlines()
    assert lines == [
        f"first  (sample 0 of {shard})",
        "bin  2 bytes  00 ff",
        "cls  1 byte  7",
        'json  16 bytes  {"a": [1, null]}',
        "txt  11 bytes",
        "  one",
        "  t\\x1b[2Jwo",
    ]


def test_without_a_terminal_pictures_have_no_colour(shard: str) -> None:
    text = show(shard, 1).stdout.decode()
    assert "\x1b" not in text
    assert "png  " in text
    assert "uint8 8×8×3  0 … 255" in text
    assert "float32 5×8×8  0 … 7" in text
    assert "    ████" in text.splitlines()


def test_a_terminal_gets_blocks_of_colour_unless_told_not_to(shard: str) -> None:
    text = in_a_terminal(shard, 1, "-f", "png")
    assert text.count("\x1b[38;2;255;0;0;48;2;255;0;0m" + "▀" * 8 + "\x1b[0m") == 2
    assert text.count("\x1b[38;2;0;0;255;48;2;0;0;255m" + "▀" * 8 + "\x1b[0m") == 2
    assert "\x1b" not in in_a_terminal(shard, 1, NO_COLOR="1")


def test_the_picture_can_be_written(shard: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    assert show(shard, 1, "-o", path).returncode == 0
    image = decode("png", path.read_bytes())
    assert image[0, 0].tolist() == [255, 0, 0]
    assert show(shard, 1, "-o", path).returncode == 2
    assert show(shard, 1, "-f", "vol.npy", "-o", path, "--force").returncode == 0
    assert decode("png", path.read_bytes(), "stored")[0].tolist() == [0] * 4 + [255] * 4
    assert show(shard, 1, "-o", "-").stdout == bytes(encode("png", image))
    assert show(shard, 0, "-o", tmp_path / "none.png").returncode == 10
    assert show(shard, 1, "-o", tmp_path / "x.docx").returncode == 22
    assert not (tmp_path / "x.docx").exists()


def test_json(shard: str) -> None:
    found = json.loads(show(shard, 1, "--json").stdout)
    assert (found["key"], found["index"], found["url"]) == ("second", 1, shard)
    assert found["fields"]["vol.npy"]["shape"] == [5, 8, 8]
    assert found["fields"]["png"]["dtype"] == "uint8"


def test_a_field_that_does_not_decode_is_told_and_the_others_are_shown(tmp_path: Path) -> None:
    data = member(b"a.cls", b"x") + member(b"a.txt", b"fine") + END
    done = show("-", stdin=data)
    assert done.returncode == 3
    assert b"does not decode" in done.stdout
    assert b"fine" in done.stdout
    assert "error" in json.loads(show("-", "--json", stdin=data).stdout)["fields"]["cls"]


def test_names_and_keys_cannot_steer_the_terminal() -> None:
    done = show("-", stdin=member(b"k\x1b[2J.t\x1b[1mt", b"x") + END)
    assert done.returncode == 0
    assert b"\x1b" not in done.stdout


def test_select_and_long_text(shard: str, tmp_path: Path) -> None:
    assert show(shard, "-S", '"png" in _').stdout.startswith(b"second")
    with RollingWriter(TemplateTarget(f"{tmp_path}/long-%06d.tar")) as out:
        out.write({"txt": "x\n" * 5000})
    text = show(out.shards[0]).stdout.decode()
    assert text.count("\n") < 20
    assert "10,000 characters in all" in text


@pytest.mark.parametrize(
    ("args", "code"),
    [(["2"], 10), (["-S", "False"], 10), (["-f", "jpg"], 10), (["-1"], 2), (["-o", "-", "--json"], 2)],
)
def test_errors_end_with_their_exit_code(args: list[str], code: int, shard: str) -> None:
    done = show(shard, *args)
    assert (done.returncode, done.stdout) == (code, b"")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        ((9, 8), (9, 8)),
        ((9, 8, 1), (9, 8)),
        ((9, 8, 4), (9, 8, 3)),
        ((3, 9, 8), (9, 8, 3)),
        ((1, 9, 8), (9, 8)),
        ((7, 9, 8), (9, 8)),
        ((2, 7, 9, 8), (9, 8)),
        ((1, 7, 9, 8), (9, 8)),
        ((7, 9, 8, 3), (9, 8, 3)),
        ((1, 1), (1, 1)),
        ((2, 2, 2), (2, 2)),
    ],
)
def test_any_array_with_two_axes_is_a_picture(shape: tuple[int, ...], seen: tuple[int, ...]) -> None:
    made = picture(np.zeros(shape))
    assert made is not None
    assert (made.shape, made.dtype) == (seen, np.uint8)


def test_what_is_no_picture_and_how_values_are_spread() -> None:
    assert picture(3) is picture(np.zeros(5)) is picture("x") is picture(np.zeros((0, 3))) is None
    assert picture({"n": 1, "a": np.zeros((9, 9))}) is not None
    labels = picture(np.array([[0, 3], [1, 3]], np.uint8))
    assert labels is not None
    assert labels.tolist() == [[0, 255], [85, 255]]
    odd = picture(np.array([[np.nan, -np.inf], [np.inf, 2.0], [4.0, 3.0]]))
    assert odd is not None
    assert odd.tolist() == [[0, 0], [255, 0], [255, 128]]
    assert picture(np.full((2, 2), np.nan)) is not None


def test_a_picture_is_made_to_fit_by_averaging() -> None:
    checks = np.indices((101, 300)).sum(axis=0) % 2 * 255
    lines = draw(checks.astype(np.uint8), 30, 10, colour=False)
    assert (len(lines), {len(line) for line in lines}) == (5, {30})
    assert set("".join(lines)) <= set("▒")


def test_real_files(test_data: Path) -> None:
    assert b"375" in show(test_data / "photos-000000.tar").stdout
    assert "█" in show(test_data / "sample.tgz", 5).stdout.decode()
