"""wl-index, as a shell sees it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tars import END, Bytes, gnu_tar, made_by_tarfile, member, pax

from wlshard.errors import TarError
from wlshard.shards.access import ShardAccess
from wlshard.shards.indexing import make_index
from wlshard.shards.reader import read_samples
from wlshard.shards.writer import RollingWriter, TemplateTarget
from wlshard.tar.index import format_index, locate_samples, parse_index
from wlshard.tar.reader import read_members


def index(*args: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "wlshard.cli.index", *map(str, args)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Shards of small, large and empty fields, whose indexes have been taken away."""
    with RollingWriter(TemplateTarget(f"{tmp_path}/x-%06d.tar"), shard_samples=30) as out:
        for number in range(90):
            data = bytes([number]) * (number * 3001)
            out.write({"__key__": f"dir/{number:04d}", "cls": number, "bin": data, "_odd": b""})
    return [Path(shard) for shard in out.shards]


def test_it_writes_what_our_writers_write(shards: list[Path]) -> None:
    written = {shard: shard.with_suffix(".idx").read_bytes() for shard in shards}
    for shard in shards:
        shard.with_suffix(".idx").unlink()
    done = index(f"{shards[0].parent}/x-{{000000..000002}}.tar", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    made = json.loads(done.stdout)
    assert (made["shards"], made["samples"]) == (3, 90)
    assert made["indexes"] == [str(shard.with_suffix(".idx")) for shard in shards]
    for shard, text in written.items():
        assert shard.with_suffix(".idx").read_bytes() == text


def test_stdin_goes_to_stdout(shards: list[Path]) -> None:
    done = index("-", stdin=shards[1].read_bytes())
    assert (done.returncode, done.stdout) == (0, shards[1].with_suffix(".idx").read_bytes())
    assert index(shards[1], "-o", "-").stdout == done.stdout
    assert index("-", "-o", "-", stdin=shards[1].read_bytes()).stdout == done.stdout
    for refused in ([*shards, "-o", "-"], ["-", "-o", "x.idx"], [shards[1], "-o", "-", "--missing"]):
        told = index(*refused)
        assert (told.returncode, told.stdout) == (2, b"")


def test_what_is_there_is_refused_left_or_replaced(shards: list[Path]) -> None:
    first, second = (shard.with_suffix(".idx") for shard in shards[:2])
    first.write_bytes(b"mine")
    second.unlink()
    assert index(*shards).returncode == 2
    assert not second.exists()
    assert index("--missing", *shards).returncode == 0
    assert (first.read_bytes(), second.exists()) == (b"mine", True)
    assert index("--force", *shards).returncode == 0
    assert parse_index(first.read_bytes(), "x").samples == 30


def test_a_faulty_shard_gets_none_and_the_others_do(shards: list[Path]) -> None:
    for shard in shards:
        shard.with_suffix(".idx").unlink()
    data = shards[0].read_bytes()
    shards[0].write_bytes(data[: len(data) // 2])
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[:-1024] + whole)
    done = index(*shards, "--json")
    assert done.returncode == 20
    assert json.loads(done.stdout)["shards"] == 1
    assert [shard.with_suffix(".idx").exists() for shard in shards] == [False, False, True]
    assert b"comes back" in done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["url"] == str(shards[0])


@pytest.mark.parametrize(
    ("data", "code", "told"),
    [
        (b"\x1f\x8b" + bytes(600), 2, b"compressed"),
        (member(b"a.x", b"1") + member(b"b.x", kind=b"1", link=b"a.x") + END, 20, b"hard link"),
        (member(b"a.x y", b"1") + END, 20, b"blank"),
        (member(b"a.x", b"1"), 20, b"end mark"),
        (member(b"a.x", b"1") + END + b"x", 20, b"end"),
        (b"", 20, b"tar"),
    ],
)
def test_what_can_have_no_index(data: bytes, code: int, told: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    done = index(tmp_path / "x.tar")
    assert done.returncode == code
    assert told in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_shards_that_would_share_an_index_are_refused(shards: list[Path]) -> None:
    twin = shards[0].with_name("x-000000.left.tar")
    twin.write_bytes(shards[1].read_bytes())
    done = index("--force", shards[0], twin)
    assert done.returncode == 2
    assert b"share" in done.stderr
    assert index("--force", shards[0], "-").returncode == 2


@pytest.mark.parametrize("kind", ["ustar", "gnu", "pax"])
def test_an_index_of_a_foreign_tar_reads_its_samples(kind: str, tmp_path: Path) -> None:
    files = {f"./{i:03d}{'long' * (i % 20)}.{ext}": bytes([i]) * i * 997 for i in range(70) for ext in "ab"}
    shard = tmp_path / "x.tar"
    shard.write_bytes(made_by_tarfile({"README": b"", **files}, kind))
    (tmp_path / "x.idx").write_bytes(make_index(str(shard)).text)
    with ShardAccess(str(shard)) as access:
        assert access.samples == 70
        for number, sample in enumerate(read_samples(str(shard), copy=True)):
            found = access.read(number, 1)[0]
            assert {name: bytes(found[name]) for name in "ab"} == {name: sample[name] for name in "ab"}


def test_directories_and_large_members_of_gnu_tar(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.bin").write_bytes(bytes([number + 1]) * 300_000)
        (folder / f"{number}.cls").write_bytes(b"%d" % number)
    shard = gnu_tar(folder, tmp_path / "x.tar", "--sort=name", ".")
    made = make_index(str(shard))
    assert made.samples == 5
    for line in made.text.splitlines()[1:]:
        words = line.decode().split()
        for offset, size, name in zip(words[1::4], words[2::4], words[3::4], strict=True):
            start = int(offset)
            assert shard.read_bytes()[start : start + int(size)] == (folder / name).read_bytes()


def test_names_with_blanks_and_newlines_are_left_out(tmp_path: Path) -> None:
    shard = tmp_path / "x.tar"
    shard.write_bytes(
        member(b"a.x", b"1") + member(b"b\nv1.x", b"2") + pax(path="c d.x") + member(b"_.x") + END
    )
    made = make_index(str(shard))
    assert made.text == b"v1.1 3\nx 512 1\nx 1536 1\nx 3584 0\n"


def test_real_files(test_data: Path, tmp_path: Path) -> None:
    for name, samples in (("mpdata.tar", 100), ("photos-000001.tar", 50)):
        made = make_index(str(test_data / name))
        assert (made.samples, parse_index(made.text, name).samples) == (samples, samples)


def test_a_sparse_file_has_no_place_that_an_index_could_tell(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with (folder / "a.bin").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x" * 5000)
    for kind in ("gnu", "posix"):
        shard = gnu_tar(folder, tmp_path / f"{kind}.tar", "--sparse", f"--format={kind}", "a.bin")
        with pytest.raises(TarError, match="sparse"):
            make_index(str(shard))


def test_a_cut_in_a_member_that_is_jumped_over_is_told_as_such(tmp_path: Path) -> None:
    data = b"".join(member(b"%d.bin" % i, bytes(300_000)) for i in range(3))
    (tmp_path / "x.tar").write_bytes(data[:-1000])
    with pytest.raises(TarError, match="inside a member") as caught:
        make_index(str(tmp_path / "x.tar"))
    assert caught.value.member == "2.bin"


ODD = [b"a", b"B", b" ", b"\n", b"/", b"\xff", *(each.encode() for each in "é\u00a0\u3000")]
NAMES = st.lists(st.sampled_from(ODD), max_size=4).map(b"".join)


def test_names_are_told_as_they_stand(tmp_path: Path) -> None:
    names = [b"0.JPG", b"0.a", b"./1.a", b"1.b", b"2.a", b"2.JPG", b"./3.a", b"./3.b", b"./6.a", b"./6.b"]
    names += [b"d/" + b"4" * 96 + b".a", b"d/" + b"5" * 94 + b".JPG"]  # a hundred bytes, without a NUL
    (tmp_path / "x.tar").write_bytes(b"".join(map(member, names)) + END)
    told = [line.split()[3::4] for line in make_index(str(tmp_path / "x.tar")).text.splitlines()[1:]]
    assert [name for line in told for name in line] == names


@given(st.lists(st.tuples(NAMES, NAMES), max_size=6))
def test_an_index_says_of_each_member_what_the_tar_does(names: list[tuple[bytes, bytes]]) -> None:
    tar = b"".join(member(b"%d%b.x%b" % (n, *name), bytes(n)) for n, name in enumerate(names)) + END
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        file.write(tar)
        file.flush()
        members = [(one.name, one.data, one.size) for one in read_members(Bytes(tar), "t")]
        try:
            expected: object = format_index(locate_samples(members))
        except TarError:
            with pytest.raises(TarError, match="a blank in the field's name"):
                make_index(file.name)
        else:
            assert make_index(file.name).text == expected
