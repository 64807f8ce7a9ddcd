"""Shard lists: braces, counts, lists, globs, folders, wids indexes, stdin."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from wlshard.errors import NotFound, UsageError, WlshardError
from wlshard.shards.expand import expand
from wlshard.store.connect import connect


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("source", "shards"),
    [
        ("x.tar", ["x.tar"]),
        ("-", ["-"]),
        ("x-{0008..0011}.tar", ["x-0008.tar", "x-0009.tar", "x-0010.tar", "x-0011.tar"]),
        ("x-{8..11}.tar", ["x-8.tar", "x-9.tar", "x-10.tar", "x-11.tar"]),
        ("x-{098..100}", ["x-098", "x-099", "x-100"]),
        ("x-{2..0}", ["x-2", "x-1", "x-0"]),
        ("x-{0..10..5}", ["x-0", "x-5", "x-10"]),
        ("x-{a,b}.tar", ["x-a.tar", "x-b.tar"]),
        ("{a,b-{0..1}}.tar", ["a.tar", "b-0.tar", "b-1.tar"]),
        ("{a,}b", ["ab", "b"]),
        ("{a,b}/{00..01}.tar", ["a/00.tar", "a/01.tar", "b/00.tar", "b/01.tar"]),
        ("out-{key}.tar", ["out-{key}.tar"]),
        ("out-{k{0..1}}", ["out-{k0}", "out-{k1}"]),
        ("x-@000003.tar", ["x-000000.tar", "x-000001.tar", "x-000002.tar"]),
        ("x-@2", ["x-0", "x-1"]),
        ("http://user@10.0.0.1/x.tar", ["http://user@10.0.0.1/x.tar"]),
        ("photo@2x.tar", ["photo@2x.tar"]),
        ("a.tar::b-{0..1}.tar::-", ["a.tar", "b-0.tar", "b-1.tar", "-"]),
        ("http://[::1]:80/x.tar::y.tar", ["http://[::1]:80/x.tar", "y.tar"]),
        ("http://h/x.tar?a=1&b[]=2", ["http://h/x.tar?a=1&b[]=2"]),
        (["a-{0..1}.tar", Path("b.tar")], ["a-0.tar", "a-1.tar", "b.tar"]),
        (("b.tar", "a.tar", "b.tar"), ["b.tar", "a.tar", "b.tar"]),  # a list's order is the user's
    ],
)
def test_what_users_write_becomes_a_list(
    source: str | list[str], shards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expand(source) == shards


def test_a_long_range_has_every_number_once() -> None:
    shards = expand("x-{0000..0147}.tar")
    assert shards == expand("x-@0148.tar")
    assert len(shards) == len(set(shards)) == 148


@pytest.mark.parametrize(
    "source",
    [
        "",
        "a.tar::",
        "x-{0..3.tar",
        "x-0..3}.tar",
        "x-{0..99999999999}",
        "x-@0.tar",
        "{0..9..0}",
        "x-@99999999999",
    ],
)
def test_nonsense_is_a_usage_error_that_shows_it(source: str) -> None:
    with pytest.raises(UsageError) as caught:
        expand(source)
    assert caught.value.url in (source or None, None)


def test_a_glob_is_sorted_and_leaves_indexes_and_scratch_out(tmp_path: Path) -> None:
    touch(tmp_path, "x-2.tar", "x-10.tar", "x-1.tar", "x-1.idx", "x-3.tar.partial", "y.tar", "x-dir/z")
    assert expand(f"{tmp_path}/x-*") == [f"{tmp_path}/x-{n}.tar" for n in (1, 10, 2)]
    assert expand(f"{tmp_path}/x-[12].tar") == [f"{tmp_path}/x-{n}.tar" for n in (1, 2)]


def test_a_folder_gives_its_tars_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "b.tar.gz", "a.tar", "a.idx", "c.tar.partial", ".d.tar", "notes.txt", "sub/e.tar")
    assert expand(tmp_path) == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar.gz"]
    assert expand(f"{tmp_path}/") == expand(str(tmp_path))
    assert expand(f"file://{tmp_path}") == [f"file://{tmp_path}/a.tar", f"file://{tmp_path}/b.tar.gz"]


def test_globs_and_folders_work_where_a_store_can_list() -> None:
    store = connect("memory://expand-test")
    for name in ("x-1.tar", "x-0.tar", "x-0.idx", "deep/x-2.tar"):
        store.create(name, b"")
    shards = ["memory://expand-test/x-0.tar", "memory://expand-test/x-1.tar"]
    assert expand("memory://expand-test/*.tar") == shards
    assert expand("memory://expand-test/") == shards


@pytest.mark.parametrize("pattern", ["*.tar", "nowhere/*.tar", "empty", "memory://expand-none/"])
def test_a_glob_or_folder_of_nothing_is_not_found_and_named(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound) as caught:
        expand(pattern)
    assert caught.value.url == pattern


def test_an_empty_list_is_not_found() -> None:
    with pytest.raises(NotFound):
        expand([])


def test_a_pool_is_no_list_of_shards(tmp_path: Path) -> None:
    touch(tmp_path, "wlshard.json")
    with pytest.raises(UsageError, match="pool"):
        expand(tmp_path)


def test_a_web_folder_cannot_be_listed() -> None:
    with pytest.raises(UsageError, match="cannot list"):
        expand("http://localhost/x-*.tar")


@pytest.mark.parametrize("name", ["x-{0..1}.tar", "x@2.tar", "a::b.tar", "x[1].tar"])
def test_a_file_that_is_there_is_just_that_file(name: str, tmp_path: Path) -> None:
    touch(tmp_path, name)
    assert expand(tmp_path / name) == [os.fspath(tmp_path / name)]


def test_a_wids_index_lists_urls_relative_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    urls = ["x-0.tar", "sub/x-1.tar", "/abs/x.tar", "http://h/x.tar"]
    path.write_text(json.dumps({"wids_version": 1, "shardlist": [{"url": u, "nsamples": 3} for u in urls]}))
    assert expand(path) == [f"{tmp_path}/x-0.tar", f"{tmp_path}/sub/x-1.tar", "/abs/x.tar", "http://h/x.tar"]
    assert expand(f"{path}::y.tar")[-1] == "y.tar"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"shardlist": []}', '{"shardlist": [{}]}', '{"shardlist": 3}', "\xff"]
)
def test_a_broken_wids_index_is_a_usage_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(UsageError) as caught:
        expand(path)
    assert caught.value.url == str(path)


def test_a_wids_index_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(WlshardError) as caught:
        expand(tmp_path / "none.json")
    assert caught.value.code == 10
