"""wl-create: shards from folders, lists and plans."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from mapping import PARALLEL, contents, files, run, shard
from web import served

from wlshard.cli.create import main


@pytest.fixture(autouse=True)
def in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def put(**texts: str) -> None:
    """Write files: `a__b.jpg` is b.jpg in the folder a."""
    for name, text in texts.items():
        path = Path(name.replace("__", "/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def tree(count: int = 9) -> None:
    for n in range(count):
        put(**{f"in__{'dog' if n % 3 else 'cat'}__{n:03d}.JPG": f"image {n}"})


def made(*paths: str) -> list[tuple[str, dict[str, bytes]]]:
    return [sample for path in paths for sample in contents(path)]


def create(*args: object, code: int = 0) -> str:
    """Run the command in this process; give what it says."""
    with redirect_stderr(io.StringIO()) as told, pytest.raises(SystemExit) as ended:
        main.main([str(arg) for arg in args])
    assert ended.value.code == code, told.getvalue()
    return told.getvalue()


@pytest.mark.parametrize("parallel", PARALLEL)
def test_folders_are_classes(parallel: list[str]) -> None:
    tree()
    create("in", "-o", "x.tar", "--classes", "classes.json", *parallel)
    assert json.loads(Path("classes.json").read_text()) == ["cat", "dog"]
    found = made("x.tar")
    assert found[0] == ("cat/000", {"jpg": b"image 0", "cls": b"0"})
    assert [key for key, _ in found] == sorted(key for key, _ in found)
    assert {key.split("/")[0]: fields["cls"] for key, fields in found} == {"cat": b"0", "dog": b"1"}
    put(**{"val__dog__1.jpg": "x", "val__eel__1.jpg": "y"})
    told = create("val", "-o", "val.tar", "--classes", "classes.json", *parallel, code=21)
    assert "eel is not in the file" in told
    create("val", "-o", "val.tar", "--classes", "classes.json", "--on-error", "skip", *parallel, code=3)
    assert made("val.tar") == [("dog/1", {"jpg": b"x", "cls": b"1"})]


def test_files_of_one_name_are_one_sample() -> None:
    put(**{"in__a.jpg": "1", "in__a.seg.png": "2", "in__a.txt": "3", "in__a-1.jpg": "4", "in__s__a.jpg": "5"})
    put(**{"in__a.d__x.jpg": "6", "in__.DS_Store": "7", "in__README": "8", "in__.git__x.txt": "9"})
    told = create("in", "-o", "x.tar")
    assert "2 dotfiles, 1 names without a field" in told
    assert made("x.tar") == [
        ("a", {"jpg": b"1", "seg.png": b"2", "txt": b"3"}),
        ("a-1", {"jpg": b"4"}),
        ("a.d/x", {"jpg": b"6"}),
        ("s/a", {"jpg": b"5"}),
    ]


def test_lists_and_stdin_name_files() -> None:
    tree(4)
    names = sorted(str(path.relative_to(Path())) for path in Path("in").rglob("*.JPG"))
    Path("list.txt").write_text("\n".join(names[::-1]) + "\n")
    create("list.txt", "-o", "x.tar", "--classes", "c.json")
    assert made("x.tar")[0] == ("in/cat/000", {"jpg": b"image 0", "cls": b"0"})
    ended = run("create", "-", "-o", "-", cwd=Path(), stdin="\n".join(names).encode())
    Path("y.tar").write_bytes(ended.stdout)
    assert [key for key, _ in made("y.tar")] == [name[:-4] for name in names]
    listed = subprocess.run(["tar", "tf", "y.tar"], capture_output=True, text=True, check=True).stdout
    assert listed.split() == [name[:-3] + "jpg" for name in names]


@pytest.fixture
def server() -> Iterator[str]:
    with served(Path.cwd()) as url:
        yield url


@pytest.mark.parametrize("parallel", PARALLEL)
def test_sources_may_be_on_a_web_server(server: str, parallel: list[str]) -> None:
    tree(4)
    urls = [f"{server}/in/cat/000.JPG", f"{server}/in/dog/001.JPG", f"{server}/in/dog/none.JPG"]
    Path("list.txt").write_text("\n".join(urls))
    create("list.txt", "-o", "x.tar", "--classes", "c.json", "--on-error", "skip", *parallel, code=3)
    assert made("x.tar") == [
        ("in/cat/000", {"jpg": b"image 0", "cls": b"0"}),
        ("in/dog/001", {"jpg": b"image 1", "cls": b"1"}),
    ]
    assert "none.JPG" in Path("x.failed.jsonl").read_text()
    told = create("list.txt", "-o", "y-%d.tar", "--shard-bytes", "1M", code=2)
    assert "use --shard-samples" in told
    Path("plan.tsv").write_text(f"a\tjpg={urls[0]}\tcls:=7\n")
    create(f"{server}/list.txt", "-o", "z.tar", code=10)  # one of it is not there
    create("--plan", f"{server}/plan.tsv", "-o", "p.tar", *parallel)
    assert made("p.tar") == [("a", {"jpg": b"image 0", "cls": b"7"})]


PLANS = {
    "json": '{"__key__": "b", "jpg": "in/b.x", "cls": 3, "json": {"value": {"a": [1]}}, '
    '"txt": {"value": "t"}}\n\n{"__key__": "a", "jpg": "in/a.x"}\n',
    "words": 'b\tjpg=in/b.x\tcls:=3\tjson:={"a": [1]}\ttxt:=t\r\na\tjpg=in/a.x\r\n',
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_plan_says_what_samples_are_made_of(plan: str) -> None:
    put(**{"p__in__a.x": "A", "p__in__b.x": "B"})
    Path("p/plan").write_text(plan)
    create("--plan", "p/plan", "-o", "x.tar")
    (first, fields), second = made("x.tar")
    assert (first, fields | {"json": json.loads(fields["json"])}) == (
        "b",
        {"jpg": b"B", "cls": b"3", "txt": b"t", "json": {"a": [1]}},
    )
    assert second == ("a", {"jpg": b"A"})


@pytest.mark.parametrize(
    ("plan", "code", "told"),
    [
        ("a\tjpg", 2, "line 1 of the plan"),
        ("a", 2, "line 1 of the plan"),
        ("{", 2, "line 1 of the plan"),
        ('{"jpg": "x"}', 2, "line 1 of the plan"),
        ('{"__key__": "a", "cls": null}', 2, "line 1 of the plan"),
        ('{"__key__": "a", "json": {"a": 1, "b": 2}}', 2, "line 1 of the plan"),
        ('{"__key__": "a.b", "cls": 1}', 21, "ends at the first dot"),
        ('{"__key__": "a", "CLS": 1}', 21, "lower-case"),
        ('{"__key__": "a", "cls": "x"}', 10, "does not exist"),
        ('{"__key__": "a", "png": 3}', 22, "cannot encode"),
        ("a\tcls:=1\nb\tcls:=1\na\tcls:=2", 21, "two lines of the plan"),
        ("a\tcls:=1\tcls:=2", 21, "both are the field cls"),
        ("", 10, "no sample in it"),
        ("a\tcls:=1\nb\ttxt:=x\0y", 2, "line 2 has a NUL"),
        ('{"__key__": "a", "txt": "x\\u0000y"}', 2, "a NUL in a file's name"),
        (
            '{"__key__": "a", "__url__": "x"}\n{"__key__": "b", "cls": 1}',
            21,
            "line 1 of the plan has no fields",
        ),
    ],
)
def test_a_plan_that_is_wrong_is_told(plan: str, code: int, told: str) -> None:
    Path("plan").write_text(plan)
    assert told in create("--plan", "plan", "-o", "x.tar", code=code)
    assert files(Path()) == ["plan"]


def odd() -> dict[str, tuple[int, str]]:
    """Make files that are no good, one a folder; say how each is refused."""
    put(**{"dots__c__v1.0.jpg": "1", "empty__c__a.jpg": "", "twice__c__a.jpg": "1", "twice__c__a.JPG": "2"})
    put(**{"blank__c__a.x y": "1", "out__x.jpg": "1", "link__c__ok.jpg": "1", "gone__c__ok.jpg": "1"})
    Path("control/c").mkdir(parents=True)
    Path("control/c/a\nb.jpg").write_text("1")
    os.symlink("../../out/x.jpg", "link/c/a.jpg")
    os.symlink("nowhere.jpg", "gone/c/a.jpg")
    Path("pipe/c").mkdir(parents=True)
    os.mkfifo("pipe/c/a.jpg")
    return {
        "dots": (21, "first dot"), "empty": (21, "an empty file"), "twice": (21, "c/a.jpg and c/a.JPG"),
        "blank": (21, "has a blank"), "control": (21, "control character"), "link": (11, "--follow-links"),
        "gone": (10, "does not exist"), "pipe": (10, "1 pipes, devices"),
    }  # fmt: skip


def test_odd_files_are_refused_and_told() -> None:
    for name, (code, told) in odd().items():
        shown = create(name, "-o", f"{name}.tar", "--classes", f"{name}.json", code=code)
        assert told in shown, name
        assert name in shown, name
        assert not Path(f"{name}.tar").exists()


def test_odd_files_are_skipped_and_listed() -> None:
    odd()
    for name in ("dots", "empty", "blank", "control", "link", "gone"):
        put(**{f"{name}__c__good.jpg": "1"})
        create(name, "-o", f"{name}.tar", "--classes", f"{name}.json", "--on-error", "skip", code=3)
        assert ("c/good", {"jpg": b"1", "cls": b"0"}) in made(f"{name}.tar")
        assert len(Path(f"{name}.failed.jsonl").read_text().splitlines()) == 1, name
    create("link", "-o", "l.tar", "--follow-links")
    create("empty", "-o", "e.tar", "--allow-empty")
    assert [len(made("l.tar")), len(made("e.tar"))] == [3, 2]


def test_what_describes_a_sample_is_no_field_of_a_plan() -> None:
    Path("plan").write_text(
        '{"__key__": "a", "__url__": "x.tar", "cls": "gone"}\n{"__key__": "b", "cls": 2}\n'
    )
    create("--plan", "plan", "-o", "x.tar", "--on-error", "skip", code=3)
    assert made("x.tar") == [("b", {"cls": b"2"})]
    assert json.loads(Path("x.failed.jsonl").read_text())["url"] == "plan"


def test_a_shard_is_no_list() -> None:
    put(in__a="1", in__b__c="2")
    shard(Path("x.tar"))
    assert "line 1 has a NUL" in create("x.tar", "-o", "y.tar", code=2)
    assert "ends in .tar" in create("x.tar", "-o", "y.zip", code=2)  # before anything is read


def test_a_listed_pipe_is_not_waited_for() -> None:
    os.mkfifo("a.jpg")
    Path("list").write_text("a.jpg")
    assert "is no file" in create("list", "-o", "x.tar", code=10)


def test_names_that_are_only_unusual_pass() -> None:
    put(**{"in__a b.jpg": "1", "in__ü.JPG": "2"})
    Path(os.fsdecode(b"in/\xff.jpg")).write_text("3")
    os.symlink("ü.JPG", "in/link.jpg")
    create("in", "-o", "x.tar", "-P", 2)
    assert {key: fields["jpg"] for key, fields in made("x.tar")} == {
        "a b": b"1", "link": b"2", "ü": b"2", os.fsdecode(b"\xff"): b"3",
    }  # fmt: skip


def test_links_that_lead_in_a_circle_end() -> None:
    put(**{"in__s__a.jpg": "1"})
    os.symlink("..", "in/s/up")
    create("in", "-o", "x.tar", "--follow-links")
    assert "s/a" in [key for key, _ in made("x.tar")]


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_file_that_cannot_be_read_is_access_denied() -> None:
    put(**{"in__a.jpg": "1"})
    os.chmod("in/a.jpg", 0)
    create("in", "-o", "x.tar", code=11)


@pytest.mark.parametrize("how", [[], ["--shuffle", "--seed", "3"]])
def test_the_missing_shards_are_made_as_they_were(how: list[str]) -> None:
    tree(25)
    args = ["in", "-o", "x-%03d.tar", "--shard-samples", "4", "--classes", "c.json", "--json", *how]
    result = json.loads(run("create", *args, cwd=Path()).stdout)
    assert (result["written"], result["shards"]) == (25, 7)
    whole = {path: path.read_bytes() for path in Path().glob("x-*")}
    for name in ("x-002.tar", "x-006.tar", "x-006.idx"):
        Path(name).unlink()
    again = json.loads(run("create", *args, "-P", "3", cwd=Path()).stdout)
    assert (again["shards"], again["already_done"]) == (2, 5)
    assert {path: path.read_bytes() for path in Path().glob("x-*")} == whole
    keys = [key for n in range(7) for key, _ in made(f"x-{n:03d}.tar")]
    assert (keys == sorted(keys)) == (not how)
    assert len(set(keys)) == 25


@pytest.mark.parametrize("ending", ["tar", "tgz"])
def test_shards_of_other_files_are_not_mixed_in(ending: str) -> None:
    tree(12)
    args = ["in", "-o", f"x-%03d.{ending}", "--shard-samples", "4"]
    create(*args)
    Path(f"x-001.{ending}").unlink()
    put(**{"in__cat__0001.jpg": "new"})
    assert "files or options have changed" in create(*args, code=2)
    create(*args, "--force")
    assert len(made(*(f"x-{n:03d}.{ending}" for n in range(4)))) == 13
    assert "exists already" in create("in", "-o", f"x-%03d.{ending}", "--shard-samples", 13, code=2)
    create("in", "-o", f"x-%03d.{ending}", "--shard-samples", 13, "--force")
    assert [path.name for path in Path().glob(f"x-*.{ending}")] == [f"x-000.{ending}"]


def test_a_set_with_skipped_samples_can_be_taken_up() -> None:
    tree(12)
    Path("in/cat/003.JPG").write_text("")
    args = ["in", "-o", "x-%03d.tar", "--shard-samples", "4", "--on-error", "skip"]
    create(*args, code=3)
    create(*args)
    assert "files or options have changed" in create(*args[:-2], code=2)


def test_bytes_and_parts_split_too() -> None:
    tree(12)
    create("in", "-o", "x-%d.tar", "--shard-bytes", "5K")
    assert all(os.path.getsize(f"x-{n}.tar") <= 5120 for n in range(3))
    assert sum(len(made(f"x-{n}.tar")) for n in range(3)) == 12
    create("in", "-o", "e-{0..4}.tar")
    assert [len(made(f"e-{n}.tar")) for n in range(5)] == [2, 2, 3, 2, 3]


WRONG: dict[str, tuple[list[str], int]] = {
    "nothing": (["-o", "x.tar"], 2),
    "both": (["in", "--plan", "in", "-o", "x.tar"], 2),
    "no folder": (["none", "-o", "x.tar"], 10),
    "no ending": (["in", "-o", "x"], 2),
    "limits of one": (["in", "-o", "x.tar", "--shard-samples", "3"], 2),
    "too many": (["in", "-o", "x-@99.tar"], 2),
    "no classes": (["in", "-o", "x.tar", "--classes", "bad.json"], 2),
    "a web folder": (["http://127.0.0.1:9/x/", "-o", "x.tar"], 2),
}


@pytest.mark.parametrize(("args", "code"), WRONG.values(), ids=WRONG)
def test_what_makes_no_sense_is_refused(args: list[str], code: int) -> None:
    tree(3)
    Path("bad.json").write_text("{}")
    create(*args, code=code)
    assert files(Path()) == ["bad.json", "in"]


def test_what_tar_took_out_is_put_in_again(test_data: Path) -> None:
    shard = test_data / "photos-000000.tar"
    Path("in").mkdir()
    subprocess.run(["tar", "xf", shard, "-C", "in"], check=True)
    create("in", "-o", "x.tar")
    assert made("x.tar") == sorted(made(str(shard)))
