"""The index: DALI's text format, written and parsed strictly."""

from __future__ import annotations

import contextlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlshard.errors import TarError
from wlshard.tar.index import IndexText, Located, format_index, index_name, locate_samples, parse_index

TWO: list[list[Located]] = [
    [("cls", 512, 1, "000000.cls"), ("png", 1536, 600, "000000.png")],
    [("cls", 3072, 1, "000001.cls")],
]
TEXT = b"v1.2 2\ncls 512 1 000000.cls png 1536 600 000000.png\ncls 3072 1 000001.cls\n"


@pytest.mark.parametrize(
    ("shard", "index"),
    [
        ("x-000000.tar", "x-000000.idx"),
        ("x-000000.tar.gz", "x-000000.idx"),
        ("s3://b/v1.0/x-0.tar", "s3://b/v1.0/x-0.idx"),
        ("folder.d/x", "folder.d/x.idx"),
    ],
)
def test_an_index_is_named_by_the_part_before_the_first_dot(shard: str, index: str) -> None:
    assert index_name(shard) == index


def test_the_text_is_what_wds2idx_writes() -> None:
    assert format_index(TWO) == TEXT
    assert format_index([]) == b"v1.2 0\n"


def test_a_blank_in_a_name_makes_version_1_1() -> None:
    assert format_index([[("cls", 512, 1, "my photo.cls")]]) == b"v1.1 1\ncls 512 1\n"


def test_a_blank_that_comes_late_takes_the_names_of_those_before() -> None:
    index = IndexText()
    index.add("a", ["cls 512 1 a.cls", "png 1536 600 a.png"])
    index.add("b c", ["cls 3072 1 b c.cls"])
    index.add("d", ["cls 4096 1 d.cls"])
    assert index.text() == b"v1.1 3\ncls 512 1 png 1536 600\ncls 3072 1\ncls 4096 1\n"
    index.cut(1)
    assert index.text() == b"v1.1 1\ncls 512 1 png 1536 600\n"


def test_spans_begin_where_the_sample_before_ends() -> None:
    index = parse_index(TEXT, "x.idx")
    assert (index.url, index.samples) == ("x.idx", 2)
    assert list(index.starts) == [0, 2560, 3584]


def test_both_versions_parse_alike() -> None:
    old = b"v1.1 2\ncls 512 1 png 1536 600\ncls 3072 1\n"
    assert parse_index(old, "x").starts == parse_index(TEXT, "x").starts


def test_members_of_a_tar_are_grouped_and_dotfiles_left_out() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ["a.cls", "a.PNG", "._a.png", "b.png", "README"]:
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"123"))
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        members = [(member.name, member.offset_data, member.size) for member in tar.getmembers()]
    assert locate_samples(members) == [
        [("cls", 512, 3, "a.cls"), ("png", 1536, 3, "a.PNG")],
        [("png", 3584, 3, "b.png")],
    ]
    assert list(parse_index(format_index(locate_samples(members)), "x").starts) == [0, 2048, 4096]


def test_a_blank_in_an_extension_is_refused() -> None:
    with pytest.raises(TarError, match="blank"):
        locate_samples([("a.p g", 512, 3)])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"", 1),
        (b"\n", 1),
        (b"v1.3 0\n", 1),
        (b"v1.2\n", 1),
        (b"v1.2 -1\n", 1),
        (b"v1.2 \xd9\xa1\n", 1),  # a digit, but not one of ASCII
        (b"v1.2 1\n", 1),  # a line too few
        (b"v1.2 0\ncls 512 1 a.cls\n", 2),  # one too many
        (b"v1.2 1\n\n", 2),
        (b"v1.2 1\ncls 512 1\n", 2),
        (b"v1.2 1\ncls 512 1 my photo.cls\n", 2),
        (b"v1.2 1\njpg cls 512 1 a.cls\n", 2),  # a word too many in front
        (b"v1.2 1\ncls 512 1_0 a.cls\n", 2),
        (b"v1.2 1\ncls +512 10 a.cls\n", 2),
        (b"v1.2 1\ncls 513 10 a.cls\n", 2),
        (b"v1.2 1\ncls 0 10 a.cls\n", 2),  # no room for a header
        (b"v1.2 1\ncls 512 " + b"9" * 5000 + b" a.cls\n", 2),
        (b"v1.2 2\ncls 512 600 a.cls\ncls 1536 1 b.cls\n", 3),  # overlaps what precedes
        (b"v1.2 2\ncls 2048 1 b.cls\ncls 512 600 a.cls\n", 3),  # descends
    ],
)
def test_each_fault_names_its_line(text: bytes, line: int) -> None:
    with pytest.raises(TarError, match=f"line {line}:") as caught:
        parse_index(text, "file:///x.idx")
    assert caught.value.url == "file:///x.idx"


@given(data=st.binary(max_size=60))
def test_garbage_is_an_index_or_a_tar_error(data: bytes) -> None:
    with contextlib.suppress(TarError):
        parse_index(b"v1.2 1\n" + data, "x")


@given(sizes=st.lists(st.lists(st.integers(0, 2000), min_size=1, max_size=4), max_size=8))
def test_what_is_written_parses_to_the_ends_of_the_samples(sizes: list[list[int]]) -> None:
    samples: list[list[Located]] = []
    ends, at = [0], 0
    for number, sample in enumerate(sizes):
        samples.append([])
        for field, size in enumerate(sample):
            samples[-1].append((f"f{field}", at + 512, size, f"{number}.f{field}"))
            at += 512 + (size + 511) // 512 * 512
        ends.append(at)
    assert list(parse_index(format_index(samples), "x").starts) == ends
