"""The same bytes mean the same to GNU tar, bsdtar, tarfile, webdataset and us, in both directions."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tars import END, FORMATS, header, made_by_tarfile, member

from wlshard.sample import split_name
from wlshard.shards.indexing import make_index
from wlshard.shards.output import OutputShard
from wlshard.shards.reader import read_samples
from wlshard.tar.header import END_MARK, member_header

bsd = pytest.mark.skipif(
    not shutil.which("bsdtar"), reason="bsdtar is not installed: apt-get install libarchive-tools"
)
GIB = 1 << 30
Files = dict[str, bytes]

# Names that a file system takes: blanks, newlines, alphabets, bytes that are no UTF-8, dots anywhere.
letters = st.sampled_from(
    ["a", "B", "7", " ", "-", "ü", "漢", "\n", "\udce9", "'", "{", "%", "\x1b", "\u0301"]
)
words = st.text(letters, min_size=1, max_size=8).filter(lambda w: w.strip())
parts = st.one_of(words, st.builds("{}{}".format, words, st.sampled_from(["x" * 90, "y" * 150])))
exts = st.sampled_from(["cls", "jpg", "left.png", "json", "", ".", "tar.gz"])
names = st.builds(
    lambda folders, base, ext: "/".join([*folders, f"{base}.{ext}"]), st.lists(parts, max_size=2), parts, exts
)
odd = st.sampled_from([".DS_Store", "._a.jpg", "d/._b.jpg", "README", "d/Makefile"])
trees = st.dictionaries(st.one_of(names, names, names, odd), st.binary(max_size=1500), max_size=8)
SOME = settings(max_examples=25, deadline=None, derandomize=True)


def placed(files: Files) -> Iterator[tuple[Path, list[str]]]:
    """Write the files that can stand beside each other; yield their folder and names, sorted as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        there = []
        for name, data in files.items():
            path = os.path.join(folder, name)
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "xb") as file:
                    file.write(data)
            except OSError:  # a file where another's folder is, or too long
                continue
            there.append(name)
        yield Path(folder), sorted(there, key=os.fsencode)


def meant(folder: Path, named: list[str]) -> list[tuple[str, Files]]:
    """Say what samples a tar of these files holds, from the files themselves."""
    samples: dict[str, Files] = {}
    for name in named:
        split = split_name(name)
        if split is not None:
            samples.setdefault(split[0], {})[split[1]] = (folder / name).read_bytes()
    return list(samples.items())


def read(path: Path) -> list[tuple[str, Files]]:
    return [
        (one["__key__"], {name: bytes(one[name]) for name in one if name[0] != "_"})
        for one in read_samples(str(path))
    ]


def gnu(kind: str) -> Callable[[Path, list[str], Path], None]:
    def write(folder: Path, named: list[str], out: Path) -> None:
        lines = b"".join(b"./" + os.fsencode(name) + b"\0" for name in named)
        command = [
            "tar",
            "-C",
            folder,
            f"--format={kind}",
            "-cf",
            out,
            "--null",
            "--verbatim-files-from",
            "-T",
            "-",
        ]
        subprocess.run(command, input=lines, check=True, capture_output=True)

    return write


def bsdtar(kind: str) -> Callable[[Path, list[str], Path], None]:
    def write(folder: Path, named: list[str], out: Path) -> None:
        lines = b"".join(b"./" + os.fsencode(name) + b"\0" for name in named)
        command = [
            "bsdtar",
            "-C",
            folder,
            f"--format={kind}",
            "--no-mac-metadata",
            "-cf",
            out,
            "--null",
            "-T",
            "-",
        ]
        done = subprocess.run(
            command, input=lines, capture_output=True, env={"LC_ALL": "C.UTF-8", **os.environ}
        )
        assert done.returncode == 0, done.stderr

    return write


def by_tarfile(kind: str) -> Callable[[Path, list[str], Path], None]:
    def write(folder: Path, named: list[str], out: Path) -> None:
        out.write_bytes(made_by_tarfile({name: (folder / name).read_bytes() for name in named}, kind))

    return write


LONGEST = {"v7": 99, "ustar": 99}  # of a name that all of them can split or hold


def check(files: Files, kind: str, write: Callable[[Path, list[str], Path], None]) -> None:
    for folder, named in placed(files):
        named = [name for name in named if len(os.fsencode(name)) < LONGEST.get(kind, 10_000) - 2]
        with tempfile.TemporaryDirectory() as beside:
            out = Path(beside, "t.tar")
            write(folder, named, out)
            assert read(out) == meant(folder, named)


@pytest.mark.parametrize("kind", ["v7", "oldgnu", "gnu", "ustar", "posix"])
@SOME
@given(files=trees)
def test_what_gnu_tar_writes_is_what_its_files_are(kind: str, files: Files) -> None:
    check(files, kind, gnu(kind))


@bsd
@pytest.mark.parametrize("kind", ["v7", "gnutar", "ustar", "pax"])
@SOME
@given(files=trees)
def test_what_bsdtar_writes_is_what_its_files_are(kind: str, files: Files) -> None:
    plain = {name: data for name, data in files.items() if name.isascii() or kind == "gnutar"}
    check(plain, kind, bsdtar(kind))


@pytest.mark.parametrize("kind", sorted(FORMATS))
@SOME
@given(files=trees)
def test_what_tarfile_writes_is_what_its_files_are(kind: str, files: Files) -> None:
    check(files, kind, by_tarfile(kind))


keys = names.map(lambda name: name.partition(".")[0].replace("\n", "_").replace("\x1b", "_")).filter(
    lambda key: split_name(f"{key}.x") == (key, "x")
)
ours = st.dictionaries(
    keys,
    st.dictionaries(
        st.sampled_from(["cls", "jpg", "left.png", "ü", "x" * 120]), st.binary(max_size=1500), min_size=1
    ),
    max_size=6,
)


@bsd
@SOME
@given(samples=ours)
def test_what_we_write_is_read_back_by_all(samples: dict[str, Files]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.tar")
        with OutputShard(str(path)) as out:
            for key, fields in samples.items():
                out.write({"__key__": key, **fields})
        members = {
            f"{key}.{field}": data for key, fields in samples.items() for field, data in fields.items()
        }
        with tarfile.open(path) as tar:
            found = {info.name: tar.extractfile(info).read() for info in tar}
        assert found == members
        assert read(path) == [(key, dict(sorted(fields.items()))) for key, fields in samples.items()]
        fit = [name for name in members if extractable(name, members)]
        for command in (["tar", "-xf"], ["bsdtar", "-xf"]):
            with tempfile.TemporaryDirectory() as there:
                done = subprocess.run(
                    [*command, path, "-C", there],
                    capture_output=True,
                    env={**os.environ, "LC_ALL": "C.UTF-8"},
                )
                # GNU tar does not know that word of POSIX.
                told = [line for line in done.stderr.splitlines() if b"'hdrcharset'" not in line]
                assert len(fit) < len(members) or (done.returncode, told) == (0, [])
                assert {name: Path(there, name).read_bytes() for name in fit} == {n: members[n] for n in fit}


def extractable(name: str, members: Files) -> bool:
    """Tell whether a file system takes a name beside the others, and bsdtar, which composes letters."""
    return (
        max(len(os.fsencode(part)) for part in name.split("/")) <= 255
        and unicodedata.is_normalized("NFC", name)
        and not any(other.startswith(f"{name}/") or name.startswith(f"{other}/") for other in members)
    )


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=10, deadline=None, derandomize=True)
@given(samples=ours)
def test_webdataset_finds_the_same_samples_in_what_we_write(samples: dict[str, Files]) -> None:
    webdataset = pytest.importorskip("webdataset")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, "t.tar")
        with OutputShard(str(path)) as out:
            for key, fields in samples.items():
                out.write({"__key__": key, **fields})
        found = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
        theirs = {one["__key__"]: {name: one[name] for name in one if name[0] != "_"} for one in found}
    assert theirs == samples


def listed(command: str, path: Path) -> list[tuple[int, str]]:
    """List sizes and names as `tar tv` shows them."""
    shown = subprocess.run([command, "-tvf", path], capture_output=True, text=True, check=True).stdout
    at = 2 if command == "tar" else 4
    return [(int(line.split()[at]), line.split()[-1]) for line in shown.splitlines()]


@pytest.mark.parametrize("size", [8 * GIB - 1, 8 * GIB, 9 * GIB + 5, 16 * GIB])
def test_huge_members_are_listed_alike_by_header(size: int, tmp_path: Path) -> None:
    heads = {"ours": member_header("big.bin", size)}
    if size < 8 * GIB:
        heads["octal"] = header(b"big.bin", size)
    heads["base-256"] = header(b"big.bin", raw_size=b"\x80" + size.to_bytes(11, "big"))
    for what, head in heads.items():
        path = tmp_path / f"{what}.tar"
        after = len(head) + size + -size % 512
        with path.open("wb") as file:  # a hole, for all but the headers
            file.write(head)
            file.seek(after)
            file.write(member(b"after.cls", b"7") + END_MARK)
        expected = [(size, "big.bin"), (1, "after.cls")]
        with tarfile.open(path) as tar:
            assert [(info.size, info.name) for info in tar] == expected
        for command in filter(shutil.which, ("tar", "bsdtar")):
            assert listed(command, path) == expected
        lines = make_index(str(path)).text.decode().splitlines()
        assert lines[1:] == [f"bin {len(head)} {size} big.bin", f"cls {after + 512} 1 after.cls"]
        path.unlink()


def test_a_sparse_file_of_9_gib_is_refused_or_indexed_by_its_headers_alone(tmp_path: Path) -> None:
    with open(tmp_path / "b.bin", "wb") as file:
        file.seek(9 * GIB)
        file.write(b"end")
    for kind in ("gnu", "posix"):
        path = tmp_path / f"{kind}.tar"
        subprocess.run(["tar", "-C", tmp_path, "-S", f"--format={kind}", "-cf", path, "b.bin"], check=True)
        assert listed("tar", path) == [(9 * GIB + 3, "b.bin")]
        [sample] = read_samples(str(path))  # holes are pages that nobody has written
        assert (len(sample["bin"]), bytes(sample["bin"][-4:])) == (9 * GIB + 3, b"\0end")
        del sample


def test_concatenated_tars_are_told_where_gnu_tar_needs_i(tmp_path: Path) -> None:
    one, two = made_by_tarfile({"a.cls": b"1"}, "gnu"), made_by_tarfile({"b.cls": b"2"}, "pax")
    (tmp_path / "t.tar").write_bytes(one + two)
    for options, count in (("-tf", 1), ("-itf", 2)):
        done = subprocess.run(
            ["tar", options, tmp_path / "t.tar"], capture_output=True, text=True, check=True
        )
        assert len(done.stdout.split()) == count
    assert [one["__key__"] for one in read_samples(str(tmp_path / "t.tar"), on_error="skip")] == ["a", "b"]


def test_io_of_an_empty_tar(tmp_path: Path) -> None:
    tarfile.open(tmp_path / "e.tar", "w").close()
    assert read(tmp_path / "e.tar") == []
    with OutputShard(str(tmp_path / "o.tar")):
        pass
    assert tarfile.open(fileobj=io.BytesIO((tmp_path / "o.tar").read_bytes())).getnames() == []  # noqa: SIM115
    for command in filter(shutil.which, ("tar", "bsdtar")):
        assert (
            subprocess.run([command, "-tf", tmp_path / "o.tar"], capture_output=True, check=True).stdout
            == b""
        )
    assert END == END_MARK
