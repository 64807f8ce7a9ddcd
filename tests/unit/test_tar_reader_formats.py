"""What other tools write is read as they mean it: tarfile, GNU tar, webdataset, our own writer."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from tars import END, contents, gnu_tar, header, made_by_tarfile, member, members_of, pax, record

from wlshard.errors import TarError
from wlshard.shards.reader import link_table, open_shard
from wlshard.tar.header import END_MARK, member_header, padding
from wlshard.tar.reader import read_members

ODD = {
    "plain.txt": b"1",
    "sub/deep/er/x.left.PNG": b"2" * 513,
    "n" * 99 + ".y": b"just over",
    "d" * 120 + "/" + "n" * 90 + ".z": b"prefix",
    "long/" + "m" * 200 + "/" + "m" * 200 + ".json": b"very long",
    "ümläut – name.txt": b"utf-8",
    "blank in name.cls": b"7",
    "new\nline.txt": b"",
    "empty.bin": b"",
    "block.bin": b"x" * 512,
    "big.bin": b"0123456789abcdef" * 100_000,
}
USTAR = {name: data for name, data in ODD.items() if not name.startswith(("long/", "nnn"))}


def read(path: Path) -> list[tuple[str, bytes]]:
    with open_shard(str(path)) as source:
        links = link_table(str(path))
        return [(m.name, bytes(m.payload)) for m in read_members(source, str(path), links=links)]


def by_tarfile(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(m.name, tar.extractfile(m).read()) for m in tar if m.isreg() or m.islnk()]


@pytest.mark.parametrize("kind", ["ustar", "gnu", "pax"])
def test_what_tarfile_writes(kind: str) -> None:
    files = USTAR if kind == "ustar" else ODD
    assert contents(made_by_tarfile(files, kind)) == list(files.items())


@pytest.mark.parametrize("kind", ["ustar", "gnu", "posix", "v7", "oldgnu"])
def test_what_gnu_tar_writes(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "in"
    limit = {"v7": 98, "ustar": 98}.get(kind, 1000)
    for name, data in ODD.items():
        if len(name.encode()) <= limit:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    os.symlink("plain.txt", folder / "link.txt")
    path = gnu_tar(folder, tmp_path / "out.tar", f"--format={kind}", ".")
    found = read(path)
    assert found == by_tarfile(path) or [(n.removeprefix("./"), d) for n, d in found] == by_tarfile(path)
    expected = {f"./{name}": data for name, data in ODD.items() if len(name.encode()) <= limit}
    assert dict(found) == expected


def test_what_our_writer_writes() -> None:
    data = b"".join(member_header(n, len(d)) + d + bytes(padding(len(d))) for n, d in ODD.items()) + END_MARK
    assert contents(data) == list(ODD.items())


def test_what_webdataset_writes(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    samples = [{"__key__": f"a/{i:05d}", "jpg": os.urandom(i * 100), "cls": b"%d" % i} for i in range(30)]
    with webdataset.TarWriter(str(tmp_path / "w.tar"), encoder=False) as writer:
        for sample in samples:
            writer.write(dict(sample))
    found = read(tmp_path / "w.tar")
    assert found == by_tarfile(tmp_path / "w.tar")
    assert dict(found)["a/00007.jpg"] == samples[7]["jpg"]


def test_names_that_are_no_utf8_in_every_format(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    name = b"caf\xe9" + b"x" * 120 + b".txt"
    with open(os.fsencode(folder) + b"/" + name, "wb") as file:
        file.write(b"latin-1")
    for kind in ("gnu", "posix"):
        found = read(gnu_tar(folder, tmp_path / f"{kind}.tar", f"--format={kind}", "."))
        assert [(n.encode("utf-8", "surrogateescape"), d) for n, d in found] == [(b"./" + name, b"latin-1")]


def sparse_file(path: Path) -> bytes:
    with open(path, "wb") as file:
        for at, data in (
            (0, b"start"),
            (1 << 20, b"middle" * 1000),
            (3 << 20, b"later"),
            (5 << 20, b"x" * 70000),
        ):
            file.seek(at)
            file.write(data)
        for i in range(40):  # more parts than a header and one extension hold
            file.seek((8 << 20) + i * (1 << 16))
            file.write(b"%d" % i)
        file.truncate((12 << 20) + 77)
    return path.read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        ("--format=gnu",),
        ("--format=posix", "--sparse-version=0.0"),
        ("--format=posix", "--sparse-version=0.1"),
        ("--format=posix", "--sparse-version=1.0"),
    ],
)
def test_sparse_files_are_whole_again(tmp_path: Path, options: tuple[str, ...]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    data = sparse_file(folder / "b.bin")
    (folder / "a.txt").write_bytes(b"before")
    (folder / "c.txt").write_bytes(b"behind")
    path = gnu_tar(folder, tmp_path / "s.tar", "-S", *options, "a.txt", "b.bin", "c.txt")
    assert path.stat().st_size < 1 << 20, "the file system made no holes: nothing is tested"
    assert read(path) == [("a.txt", b"before"), ("b.bin", data), ("c.txt", b"behind")]


def test_a_file_that_is_one_hole(tmp_path: Path) -> None:
    with open(tmp_path / "hole.bin", "wb") as file:
        file.truncate(1 << 22)
    for kind in ("gnu", "posix"):
        path = gnu_tar(tmp_path, tmp_path / f"{kind}.tar", "-S", f"--format={kind}", "hole.bin")
        assert read(path) == [("hole.bin", bytes(1 << 22))]


SPARSE = {"GNU__sparse__major": "0", "GNU__sparse__name": "a.bin"}


@pytest.mark.parametrize(
    ("size", "spans"),
    [
        ("100", "0,60,50,4"),
        ("100", "0,64,90,20"),
        ("100", "0,60"),
        ("100", "0,64,1"),
        ("100", "x,64"),
        ("-1", "0,64"),
    ],
)
def test_a_sparse_map_that_makes_no_sense_is_an_error(size: str, spans: str) -> None:
    said = pax(GNU__sparse__size=size, GNU__sparse__map=spans, **SPARSE)
    with pytest.raises(TarError):
        contents(said + member(b"x", b"d" * 64) + END)


def test_a_leading_sparse_map_that_is_cut_is_an_error() -> None:
    said = pax(GNU__sparse__major="1", GNU__sparse__minor="0", GNU__sparse__realsize="9")
    for data in (b"1\n0\n", b"9999999999\n0\n0\n", b"junk", b""):
        with pytest.raises(TarError):
            contents(said + member(b"a.bin", data) + END)


def test_a_sparse_bomb_is_refused() -> None:
    said = pax(GNU__sparse__size=str(1 << 40), GNU__sparse__map="0,1", **SPARSE)
    with pytest.raises(TarError, match="at most"):
        contents(said + member(b"a.bin", b"d") + END)


def test_hard_links_in_a_local_tar_have_their_targets_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"shared" * 50_000)
    (folder / "b.txt").write_bytes(b"other")
    os.link(folder / "a.jpg", folder / "c.jpg")
    os.link(folder / "b.txt", folder / "d.txt")
    for kind in ("ustar", "gnu", "posix", "v7"):
        path = gnu_tar(
            folder, tmp_path / f"{kind}.tar", f"--format={kind}", "a.jpg", "b.txt", "c.jpg", "d.txt"
        )
        assert read(path) == [
            ("a.jpg", b"shared" * 50_000),
            ("b.txt", b"other"),
            ("c.jpg", b"shared" * 50_000),
            ("d.txt", b"other"),
        ]


def test_a_hard_link_means_the_last_file_of_that_name_before_it(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    link = header(b"l.x", kind=b"1", link=b"a.x")
    path.write_bytes(member(b"a.x", b"1") + member(b"a.x", b"2") + link + member(b"a.x", b"3") + link + END)
    assert [data for _, data in read(path)] == [b"1", b"2", b"2", b"3", b"3"]


@pytest.mark.parametrize("target", [b"missing.x", b"l.x", b"later.x"])
def test_a_hard_link_to_no_earlier_file_is_an_error(tmp_path: Path, target: bytes) -> None:
    path = tmp_path / "t.tar"
    path.write_bytes(member(b"a.x", b"1") + header(b"l.x", kind=b"1", link=target) + member(b"later.x") + END)
    with pytest.raises(TarError, match="no earlier file"):
        read(path)


def test_star_archives_keep_their_times_out_of_the_name() -> None:
    rest = b"p" * 131 + b"00000000000\0" * 2 + bytes(8) + b"tar\0"
    assert [m.name for m in members_of(member(b"a.x", rest=rest) + END)] == ["p" * 131 + "/a.x"]


def test_gnu_headers_with_other_fields_at_the_prefix_are_not_misread() -> None:
    rest = b"00000000000\0" * 2
    assert [m.name for m in members_of(member(b"a.x", magic=b"ustar  \0", rest=rest) + END)] == ["a.x"]


def test_long_names_beat_headers_and_pax_beats_long_names() -> None:
    long = member(b"././@LongLink", b"gnu.x\0", b"L")
    assert contents(long + member(b"a.x", b"1") + END) == [("gnu.x", b"1")]
    assert contents(long + pax(path="pax.x") + member(b"a.x", b"1") + END) == [("pax.x", b"1")]


def test_the_size_in_a_pax_header_is_the_size() -> None:
    data = pax(size="5") + header(b"a.x", 0) + b"hello".ljust(512, b"\0") + member(b"b.x", b"2") + END
    assert contents(data) == [("a.x", b"hello"), ("b.x", b"2")]


def test_records_are_counted_in_bytes_not_characters() -> None:
    assert record("path", "ü" * 44)[:3] == b"97 "
    assert [m.name for m in members_of(pax(path="ü" * 44 + ".x") + member(b"a") + END)] == ["ü" * 44 + ".x"]


def test_real_shards_read_as_tarfile_reads_them(test_data: Path) -> None:
    for path in sorted(test_data.glob("*.tar")):
        assert read(path) == by_tarfile(path)


def test_gnu_tar_lists_the_same_names(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    path.write_bytes(made_by_tarfile({n: d for n, d in ODD.items() if "\n" not in n}, "pax"))
    listed = subprocess.run(
        ["tar", "--quoting-style=literal", "-tf", path], capture_output=True, text=True, check=True
    )
    assert [name for name, _ in read(path)] == listed.stdout.splitlines()


def test_members_with_the_same_name_are_all_read() -> None:
    assert contents(member(b"a.x", b"1") + member(b"a.x", b"2") + END) == [("a.x", b"1"), ("a.x", b"2")]


def test_tarfile_agrees_on_every_kind_of_member() -> None:
    data = b"".join(
        header(b"k" + kind, kind=kind, link=b"a") if kind in b"123456" else member(b"k" + kind, b"12", kind)
        for kind in (b"0", b"7", b"\0", b"2", b"3", b"4", b"5", b"6")
    )
    with tarfile.open(fileobj=io.BytesIO(data + END)) as tar:
        theirs = [m.name for m in tar if m.isreg()]
    assert [m.name for m in members_of(data + END)] == theirs


def test_a_kind_of_member_nobody_knows_is_a_file_as_posix_says() -> None:
    assert contents(member(b"k.x", b"12", b"Z") + END) == [("k.x", b"12")]
