"""Foreign shards taken into a pool; pools shared by a group."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from wlshard import Loader, Pool, ShardWriter, TarError, samples
from wlshard.cli.gen import main
from wlshard.jobs.adopt import adopt


@pytest.fixture
def ours(tmp_path):
    with ShardWriter(str(tmp_path / "ours-%06d.tar"), shard_samples=5) as writer:
        for n in range(12):
            writer.write({"__key__": f"k{n:02d}", "cls": n, "txt": "x" * n})
    return writer.shards


def test_a_shard_that_our_writers_wrote_is_taken_in_byte_for_byte(ours, tmp_path):
    pool = Pool(tmp_path / "pool")
    done = adopt(ours, pool)
    assert (done.generated, done.sealed, done.shards) == (12, 12, 3)
    waiting = {pool.store.read(f"shards/{shard.name}") for shard in pool.buffer()}
    assert waiting == {Path(url).read_bytes() for url in ours}
    assert pool.rotate().promoted.samples == 12
    assert [sample["__key__"] for sample in samples(pool.url)] != []


def test_adopting_again_changes_nothing_before_and_after_a_rotation(ours, tmp_path):
    pool = Pool(tmp_path / "pool")
    for _ in range(2):
        adopt(ours, pool)
        adopt(ours, pool)
        pool.rotate()
    assert pool.status().sealed_total == 12


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar here")
def test_what_gnu_tar_packed_becomes_plain(tmp_path):
    for n in range(4):
        (tmp_path / f"{n}.{'long' * 40}.txt").write_text(str(n))
    names = sorted(path.name for path in tmp_path.glob("*.txt"))
    subprocess.run(["tar", "-czf", "x.tgz", *names], cwd=tmp_path, check=True)
    pool = Pool(tmp_path / "pool")
    adopt([str(tmp_path / "x.tgz")], pool)
    pool.rotate()
    assert [list(sample.values())[-1] for sample in samples(pool.url, decode=False)] == [
        b"0",
        b"1",
        b"2",
        b"3",
    ]


def test_a_damaged_shard_is_not_taken_in_and_those_before_it_are(ours, tmp_path):
    cut = Path(ours[1])
    cut.chmod(0o644)
    os.truncate(cut, 2000)
    pool = Pool(tmp_path / "pool")
    with pytest.raises(TarError) as caught:
        adopt(ours, pool)
    assert caught.value.url == str(cut)
    assert [shard.samples for shard in pool.buffer()] == [5]
    assert list(pool.store.drafts()) == []


def test_wl_gen_adopts(ours, tmp_path):
    pool = str(tmp_path / "pool")
    result = CliRunner().invoke(
        main, ["--adopt", str(tmp_path / "ours-{000000..000002}.tar"), pool, "--json"]
    )
    told = json.loads(result.stdout)
    assert (told["generated"], told["sealed"], told["shards"], told["dropped"]) == (12, 12, 3, 0)
    result = CliRunner().invoke(main, ["--adopt", ours[0], pool, "more"])
    assert result.exit_code == 2


def test_all_of_a_pool_keeps_the_umask_so_that_a_group_may_share_it(ours, tmp_path):
    before = os.umask(0o002)
    try:
        pool = Pool(tmp_path / "pool")
        adopt(ours, pool)
        for start in range(4):
            with ShardWriter(pool) as writer:
                writer.write({"__key__": f"n{start}", "cls": start, "txt": "y"})
            pool.rotate()
            with Loader(pool) as loader:
                next(iter(loader))
            pool.pin("p")
            pool.retire()
    finally:
        os.umask(before)
    modes = {}
    for folder, folders, files in os.walk(tmp_path / "pool"):
        for name in (*folders, *files):
            path = Path(folder, name)
            modes[str(path.relative_to(tmp_path))] = stat.S_IMODE(path.stat().st_mode)
    assert len(modes) > 15
    wrong = {name: oct(mode) for name, mode in modes.items() if mode not in (0o775, 0o664)}
    assert wrong == {}
