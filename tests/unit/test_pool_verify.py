"""Verifying a pool: shards against their names, manifests and indexes; the chain; what is left over."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from pools import WRITER_A, seal_by_hand, tar_of

from wlshard.errors import NotFound
from wlshard.pool.manifest import Stub
from wlshard.pool.names import scratch_name
from wlshard.pool.pool import Pool
from wlshard.pool.verify import verify_pool
from wlshard.pool.writer import ShardWriter
from wlshard.shards.verify import Verification


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """Two shards in generation 1, one in generation 2, one in the write buffer."""
    made = Pool(f"{tmp_path}/pool").create()
    with ShardWriter(made, shard_samples=2) as out:
        for number in range(8):
            out.write({"cls": number})
            if number in (3, 5):
                made.rotate()
    return made


def kinds(result: Verification) -> list[str]:
    return [fault.kind for fault in result.faults]


def rewrite(path: str, change: object) -> None:
    data = bytearray(Path(path).read_bytes())
    change(data)
    Path(path).write_bytes(data)


def test_a_good_pool_has_no_faults_and_nothing_left_over(pool: Pool) -> None:
    result = verify_pool(pool)
    assert (result.samples, result.faults, result.leftovers, dict(result.notes)) == (8, [], [], {})
    assert verify_pool(pool, 1).samples == 4


def test_every_byte_of_a_shard_counts(pool: Pool) -> None:
    rewrite(pool.shards(1)[0], lambda data: data.__setitem__(512, data[512] ^ 1))
    result = verify_pool(pool)
    assert kinds(result) == ["name"]
    assert "sha256" in result.faults[0].message
    assert result.faults[0].url == pool.shards(1)[0]
    assert kinds(verify_pool(pool, 1)) == ["name"]
    assert kinds(verify_pool(pool, 2)) == []


def test_a_cut_shard_differs_in_all_that_was_promised(pool: Pool) -> None:
    rewrite(pool.shards(1)[0], lambda data: data.__delitem__(slice(-1024, None)))
    assert kinds(verify_pool(pool)) == ["tar", "index", "name", "name", "manifest"]


def test_an_index_is_held_against_its_tar(pool: Pool) -> None:
    index = pool.shards()[0].replace(".tar", ".idx")
    rewrite(index, lambda data: data.__setitem__(-2, ord("X")))
    assert kinds(verify_pool(pool)) == ["index"]


def test_a_missing_index_is_noted_and_an_index_alone_is_left_over(pool: Pool) -> None:
    one, other = pool.shards(1)
    os.unlink(one.replace(".tar", ".idx"))
    os.unlink(other)
    result = verify_pool(pool)
    assert (kinds(result), result.notes["shards without an index"]) == (["store"], 1)
    assert result.faults[0].url == other
    assert result.leftovers == [f"shards/{os.path.basename(other).replace('.tar', '.idx')}"]


def test_more_samples_than_the_name_says_are_a_fault(tmp_path: Path) -> None:
    pool = Pool(f"{tmp_path}/pool").create()
    seal_by_hand(pool.store, WRITER_A, 1, samples=3, data=tar_of(["a", "b"]))
    pool.rotate()
    (fault,) = verify_pool(pool).faults
    assert "2 whole samples were found, 3 by its name" in fault.message


@pytest.mark.parametrize(
    ("change", "faults"),
    [
        (
            lambda slots: slots[1].write_bytes(slots[1].read_bytes() + b" "),
            1,
        ),  # the next one's parent is another
        (lambda slots: slots[1].write_bytes(b"{}"), 1),
        (lambda slots: slots[1].unlink(), 1),
        (lambda slots: slots[0].unlink(), 1),
        (lambda slots: slots[2].write_bytes(b"\0\0"), 1),
        (lambda slots: slots[2].write_bytes(slots[1].read_bytes()), 2),
    ],
)
def test_the_chain_of_manifests_is_followed(pool: Pool, tmp_path: Path, change: object, faults: int) -> None:
    change(sorted((tmp_path / "pool/generations").iterdir()))
    result = verify_pool(pool)
    assert set(kinds(result)) == {"manifest"}
    assert len(result.faults) == faults


def test_the_stub_of_a_retired_generation_keeps_the_chain(pool: Pool, tmp_path: Path) -> None:
    manifest = pool.manifest(1)
    slot = tmp_path / "pool/generations/0000000001.json"
    slot.write_bytes(Stub(1, manifest.digest, manifest.txn).encode())
    result = verify_pool(pool)
    assert result.faults == []
    assert len(result.leftovers) == 2  # what generation 1 alone named, until it is swept
    slot.write_bytes(Stub(1, "0", manifest.txn).encode())
    assert kinds(verify_pool(pool)) == ["manifest"]


def test_a_pool_that_was_retired_and_swept_has_no_faults(pool: Pool) -> None:
    pool.rotate()
    assert pool.retire().retired
    result = verify_pool(pool)
    assert (result.faults, result.leftovers) == ([], [])


def test_a_shard_that_cannot_be_read_on_is_still_hashed_to_its_end(tmp_path: Path) -> None:
    pool = Pool(f"{tmp_path}/pool").create()
    seal_by_hand(pool.store, WRITER_A, 1, data=gzip.compress(b"x")[:15] + b"\xff" * 1_000_000)
    assert [(fault.kind, fault.message[:3]) for fault in verify_pool(pool).faults] == [
        ("tar", "the"),
        ("name", "0 w"),
    ]


def test_what_is_left_over_is_listed_and_no_fault(pool: Pool, tmp_path: Path) -> None:
    root = tmp_path / "pool"
    scratch = scratch_name(WRITER_A, 1)
    names = ["generations/7.json", "generations/.x", "shards/notes.txt", "shards/old/x.tar", "shards/x.idx",
             f"{scratch}.partial"]  # fmt: skip
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"1")
    result = verify_pool(pool)
    assert (result.faults, result.leftovers) == ([], sorted(names))
    assert verify_pool(pool, 2).leftovers == []


def test_the_scratch_of_a_living_writer_is_not_left_over(pool: Pool) -> None:
    with ShardWriter(pool) as out:
        out.write({"cls": 1})
        assert verify_pool(pool).leftovers == []


def test_what_was_set_aside_is_listed_and_not_read(tmp_path: Path) -> None:
    pool = Pool(f"{tmp_path}/pool").create()
    bad = seal_by_hand(pool.store, WRITER_A, 1, data=b"no tar" * 100)
    seal_by_hand(pool.store, WRITER_A, 2)
    pool.rotate()
    result = verify_pool(pool)
    assert (result.faults, [each["shard"] for each in result.quarantined]) == ([], [bad])
    assert result.quarantined[0]["reason"]
    assert result.leftovers == []


def test_a_shard_retired_while_the_pool_is_verified_is_no_fault(pool: Pool) -> None:
    first, second = sorted({*pool.shards(1)})

    def retire() -> None:
        slot = Path(pool.store.path("generations/0000000001.json"))
        manifest = pool.manifest(1)
        slot.write_bytes(Stub(1, manifest.digest, manifest.txn).encode())
        for url in (first, second):
            os.unlink(url)

    result = verify_pool(pool, progress=lambda done, _: retire() if done == 512 else None)
    assert result.faults == []


def test_the_samples_shown_are_those_of_the_newest_generation(pool: Pool) -> None:
    def keys(generation: int | None = None) -> list[bytes]:
        seen: list[bytes] = []
        verify_pool(pool, generation, look=lambda sample: not seen.append(bytes(sample["cls"])))
        return seen

    assert keys() == [b"4", b"5"]
    assert keys(1) == [b"0", b"1", b"2", b"3"]


def test_progress_is_of_all_shards(pool: Pool) -> None:
    told: list[tuple[int, int | None]] = []
    verify_pool(pool, progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] == 4 * (2 * 1024 + 1024)


def test_where_no_pool_is_there_is_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        verify_pool(Pool(str(tmp_path)))
