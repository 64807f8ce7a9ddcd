"""The commands on shards of a real web server: the lines of WebLoader's README, and their like."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mapping import contents, files, shard
from processes import environ
from servers import WebServer, program

from wlshard.codecs import encode
from wlshard.shards.output import OutputShard

BIN = Path(__file__).resolve().parents[2] / "bin"


def shell(line: str, cwd: Path, code: int = 0) -> str:
    """Run a line as it stands in a README; give its stdout, or the stderr of one that is to fail."""
    path = os.pathsep.join([str(BIN), os.path.dirname(sys.executable), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", line], cwd=cwd, env=environ() | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


@pytest.fixture(scope="session")
def server(nginx: WebServer) -> WebServer:
    """The web server with 20 samples: in a.tar, which has an index, in bare.tar and in input.tgz."""
    data = shard(nginx.folder / "a.tar").read_bytes()
    (nginx.folder / "bare.tar").write_bytes(data)
    (nginx.folder / "input.tgz").write_bytes(gzip.compress(data))
    return nginx


def test_wl_map_of_a_url(server: WebServer, tmp_path: Path) -> None:
    shell(f"""wl-map -c '_["cls"] -= 1' {server.url}/input.tgz -o output.tgz""", tmp_path)
    assert contents(tmp_path / "output.tgz") == [
        (key, fields | {"cls": b"%d" % (int(fields["cls"]) - 1)})
        for key, fields in contents(server.folder / "a.tar")
    ]
    assert files(tmp_path) == ["output.tgz"]


def test_wl_map_of_the_digits_that_came_with_webloader(
    nginx: WebServer, test_data: Path, tmp_path: Path
) -> None:
    shutil.copy(test_data / "sample.tgz", nginx.folder)
    shell(f"""wl-map -c '_["cls"] -= 1' {nginx.url}/sample.tgz -o output.tgz""", tmp_path)
    before, after = contents(test_data / "sample.tgz"), contents(tmp_path / "output.tgz")
    assert [int(f["cls"]) for _, f in after] == [int(f["cls"]) - 1 for _, f in before]
    assert [f["png"] for _, f in after] == [f["png"] for _, f in before]


def test_wl_xargs_with_imagemagick(nginx: WebServer, tmp_path: Path) -> None:
    import numpy as np

    program("mogrify", "imagemagick")
    squares = np.kron(np.eye(4, dtype=np.uint8)[..., None], np.full((8, 8, 3), 200, np.uint8))
    with OutputShard(f"{nginx.folder}/photos.tgz") as out:
        for n in range(4):
            out.write({"__key__": f"p{n}", "jpeg": encode("jpeg", np.roll(squares, n, 0)), "cls": n})
    shell(f"wl-xargs -P 4 -c 'mogrify -edge 5 sample.jpeg' {nginx.url}/photos.tgz -o output.tgz", tmp_path)
    after = contents(tmp_path / "output.tgz")
    for n, (key, fields) in enumerate(after):
        (tmp_path / "one.jpeg").write_bytes(encode("jpeg", np.roll(squares, n, 0)))
        shell("mogrify -edge 5 one.jpeg", tmp_path)
        assert (key, fields) == (f"p{n}", {"cls": b"%d" % n, "jpeg": (tmp_path / "one.jpeg").read_bytes()})
    assert len(after) == 4


@pytest.mark.parametrize("name", ["a.tar", "input.tgz"])
def test_commands_that_look_say_of_a_url_what_they_say_of_a_file(
    name: str, server: WebServer, tmp_path: Path
) -> None:
    for line in (
        "wl-cat {} 'png;json' 7",
        "wl-cat {} __key__ 19",
        """wl-extract -f '__key__ cls' -S '_["cls"] > 15' {}""",
        "wl-info --json -c 0 {}",
        'wl-show {} 3 --json | sed \'s/"url": "[^"]*"//\'',
        "wl-dump -o 'out/{{key}}' -c 3 {} --json && cat out/* && rm -r out",
    ):
        assert shell(line.format(f"{server.url}/{name}"), tmp_path) == shell(
            line.format(server.folder / name), tmp_path
        ), line
    assert json.loads(shell(f"wl-info --json '{server.url}/{{a,bare}}.tar' -c 5", tmp_path))["looked_at"] == 5


def test_with_an_index_only_what_is_asked_for_is_sent(server: WebServer, tmp_path: Path) -> None:
    before = len(server.log.read_text().splitlines())
    assert shell(f"wl-cat {server.url}/a.tar cls 17", tmp_path) == "17"
    lines = server.log.read_text().splitlines()[before:]
    assert any(" 206 " in line for line in lines)
    assert (
        sum(int(line.split('" ')[1].split()[1]) for line in lines)
        < server.folder.joinpath("a.tar").stat().st_size / 2
    )


def test_pipes_from_and_to_other_programs(server: WebServer, tmp_path: Path) -> None:
    program("curl", "curl")
    line = f"curl -s {server.url}/input.tgz | wl-map -c '_ = _ if _.cls % 2 else None' - -o - | tar tf -"
    assert len(shell(line, tmp_path).splitlines()) == 30
    index = shell(f"curl -s {server.url}/a.tar | wl-index -", tmp_path)
    assert index == (server.folder / "a.idx").read_text()


def test_what_a_server_lacks_and_what_it_takes_no_writes_for(server: WebServer, tmp_path: Path) -> None:
    assert "404" in shell(f"wl-cat {server.url}/none.tar cls", tmp_path, 10)
    assert "cannot list" in shell(f"wl-cat {server.url}/ cls", tmp_path, 2)
    assert "wl-index - <" in shell(f"wl-index {server.url}/bare.tar", tmp_path, 2)
    assert "reading" in shell(f"wl-map -c 0 {server.url}/a.tar -o {server.url}/b.tar", tmp_path, 11)
