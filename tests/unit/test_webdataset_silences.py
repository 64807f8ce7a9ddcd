"""What webdataset passes over in silence and we do not; its side is skipped once it has learnt."""

from __future__ import annotations

import gzip
import tarfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from tars import END, member

import wlshard
from wlshard.errors import GroupingError, TarError, UsageError, WlshardError

webdataset = pytest.importorskip("webdataset")
COUNT = 4


def samples(first: int = 0, count: int = COUNT) -> bytes:
    return b"".join(member(b"%03d.cls" % n, b"%d" % n) for n in range(first, first + count))


def theirs(url: object) -> list[str]:
    """The keys that webdataset reads without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of files it leaves open
        return [sample["__key__"] for sample in webdataset.WebDataset(str(url), shardshuffle=False)]


def ours(url: object) -> tuple[list[str], WlshardError | None]:
    """The keys that we read, and the error that ends it."""
    keys = []
    try:
        for sample in wlshard.samples(str(url), decode=False):
            keys.append(sample["__key__"])
    except WlshardError as error:
        return keys, error
    return keys, None


def broken_header() -> bytes:
    data = bytearray(samples() + END)
    data[2 * 1024 + 3] ^= 1  # a byte of the third member's name
    return bytes(data)


KEYS = [f"{n:03d}" for n in range(COUNT)]
SHORT = {
    "a corrupt later header": (broken_header(), 2, "checksum"),
    "a cut at a member's edge": (samples()[: 2 * 1024], 2, "no end mark"),
    "the first of concatenated tars": (samples() + END + samples(4) + END, 4, "after the end mark"),
    "the first of concatenated tars, padded": (
        (samples() + END).ljust(10240, b"\0") * 2,
        4,
        "after the end mark",
    ),
    "the first of concatenated gz tars": (
        gzip.compress(samples() + END) + gzip.compress(samples(4) + END),
        4,
        "after",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", SHORT)
def test_a_shorter_shard_is_an_error(what: str, tmp_path: Path) -> None:
    data, whole, said = SHORT[what]
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    keys, error = ours(path)
    assert isinstance(error, TarError)
    assert said in error.message
    assert error.url == str(path)
    assert error.offset is not None
    assert (
        keys == KEYS[:whole] or keys == KEYS[: whole - 1]
    )  # one that the damage may have touched is not given
    if len(found := theirs(path)) != whole:
        pytest.skip(f"webdataset {webdataset.__version__} reads {len(found)} samples of it now")


def test_all_members_of_a_gz_are_read(tmp_path: Path) -> None:
    data, path = samples() + END, tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(data[:2048]) + gzip.compress(data[2048:]))
    assert ours(path) == (KEYS, None)


@pytest.mark.filterwarnings("ignore")
def test_a_pipe_that_fails_is_refused_before_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(samples() + END)
    keys, error = ours(f"pipe:head -c 2048 {path}; touch {tmp_path}/ran; exit 3")
    assert (keys, type(error)) == ([], UsageError)
    assert not (tmp_path / "ran").exists()
    try:
        # Its status counts only if it is there at once when the data ends.
        assert theirs(f"pipe:head -c 2048 {path}; exec >&-; sleep 0.2; exit 3") == KEYS[:2]
    except OSError:
        pytest.skip("webdataset looks at the exit status now")


def test_keys_with_dots_are_never_merged(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(member(b"v1.0.jpg", b"a") + member(b"v1.1.jpg", b"b") + member(b"v1.1.jpg", b"c") + END)
    keys, error = ours(path)
    assert (keys, type(error)) == ([], GroupingError)  # a field twice, not one value instead of another
    path.write_bytes(member(b"v1.0.jpg", b"a") + member(b"v1.1.jpg", b"b") + END)
    [sample] = wlshard.samples(str(path), decode=False)
    assert {name: bytes(sample[name]) for name in ("0.jpg", "1.jpg")} == {"0.jpg": b"a", "1.jpg": b"b"}
    with (
        pytest.raises(GroupingError, match="replace the dots"),
        wlshard.ShardWriter(f"{tmp_path}/o-%d.tar") as out,
    ):
        out.write({"__key__": "v1.0", "jpg": b"a"})
    if theirs(path) != ["v1"]:
        pytest.skip("webdataset keeps them apart now")


def test_small_members_are_padded_to_their_block_only(tmp_path: Path) -> None:
    with wlshard.ShardWriter(f"{tmp_path}/o-%d.tar") as out:
        for n in range(100):
            out.write({"__key__": f"{n:03d}", "bin": bytes(100)})
    assert (tmp_path / "o-0.tar").stat().st_size == 100 * 1024 + 1024
    with webdataset.TarWriter(str(tmp_path / "w.tar"), format=tarfile.USTAR_FORMAT) as writer:
        for n in range(100):
            writer.write({"__key__": f"{n:03d}", "bin": bytes(100)})
    if (tmp_path / "w.tar").stat().st_size != 215_040:
        pytest.skip("webdataset heeds the format asked for now")


@pytest.mark.parametrize("writer", [wlshard.ShardWriter, webdataset.ShardWriter])
def test_an_exception_publishes_no_shard(writer: Any, tmp_path: Path) -> None:
    try:
        with writer(f"{tmp_path}/o-%d.tar") as out:
            out.write({"__key__": "a", "cls": b"1"})
            raise RuntimeError
    except RuntimeError:
        pass
    left = [path.name for path in tmp_path.iterdir()]
    if writer is wlshard.ShardWriter:
        assert left == []
    elif left != ["o-0.tar"]:
        pytest.skip("webdataset publishes nothing now")


def test_the_largest_shard_counts_headers_and_padding(tmp_path: Path) -> None:
    for writer, name, limit in (
        (wlshard.ShardWriter, "o", "shard_bytes"),
        (webdataset.ShardWriter, "w", "maxsize"),
    ):
        settings = {limit: 100_000} if name == "o" else {limit: 100_000, "verbose": 0}
        with writer(f"{tmp_path}/{name}-%04d.tar", **settings) as out:
            for n in range(2000):
                out.write({"__key__": f"{n:05d}", "bin": bytes(100)})
    assert max(path.stat().st_size for path in tmp_path.glob("o-*.tar")) <= 100_000
    assert len(list(tmp_path.glob("o-*.tar"))) == -(-2000 // ((100_000 - 1024) // 1024))
    if max(path.stat().st_size for path in tmp_path.glob("w-*.tar")) < 1_000_000:
        pytest.skip("webdataset counts headers now")
