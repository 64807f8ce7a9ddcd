"""What a pool's users do; what they are told is noted on the disk, so that it can be held against a crash."""

from __future__ import annotations

from disk import Disk

from wlshard.pool.pool import Pool
from wlshard.pool.writer import ShardWriter


def create(disk: Disk) -> None:
    Pool(disk.root).create()
    disk.mark("created")


def write(disk: Disk, name: str, samples: int, *, any_schema: bool = False) -> None:
    """Write samples `<name><n>` of 3 kB, two to a shard."""
    writer = ShardWriter(Pool(disk.root), shard_samples=2, any_schema=any_schema)
    told = 0
    for number in range(samples):
        writer.write({"__key__": f"{name}{number}", "bin": bytes([number + 1]) * 3000, "txt": name})
        if writer._shard is not None:
            writer._shard.flush()  # as happens after 0.2 s
        told = tell(disk, writer, told, any_schema)
    writer.close()
    tell(disk, writer, told, any_schema)


def tell(disk: Disk, writer: ShardWriter, told: int, any_schema: bool) -> int:
    for url in writer.shards[told:]:
        disk.mark(f"sealed {url.rpartition('/')[2]}")
        if not any_schema:
            disk.mark("schema")
    return len(writer.shards)


def rotate(disk: Disk, pool_samples: int = 0) -> None:
    done = Pool(disk.root).rotate(pool_samples=pool_samples)
    if done.committed:
        manifest = Pool(disk.root).manifest(done.generation)
        disk.mark(f"rotated {done.generation} {manifest.digest}")
        for shard in manifest.shards:
            disk.mark(f"promoted {shard.name} {shard.promoted}")


def retire(disk: Disk) -> None:
    for generation in Pool(disk.root).retire().retired:
        disk.mark(f"retired {generation}")


def a_writer(disk: Disk) -> None:
    create(disk)
    write(disk, "a", 5)


def a_writer_of_anything(disk: Disk) -> None:
    """Without a schema that is fixed, and so without what is synced along with it."""
    create(disk)
    write(disk, "a", 3, any_schema=True)


def rotations(disk: Disk) -> None:
    create(disk)
    for name, pool_samples in (("a", 0), ("b", 6), ("c", 0)):
        write(disk, name, 4)
        rotate(disk, pool_samples)


def a_pool_in_old_folders(disk: Disk) -> None:
    for folder in ("shards", "generations"):
        disk.has_folder(folder)
    create(disk)


def take_over(disk: Disk) -> None:
    """Go on where another was killed."""
    if not Pool(disk.root).exists():
        create(disk)
    write(disk, "z", 2)
    rotate(disk)
    retire(disk)


def retirements(disk: Disk) -> None:
    create(disk)
    for name in "abcd":
        write(disk, name, 3)
        rotate(disk, pool_samples=4)
        retire(disk)


def about_to_retire(disk: Disk) -> None:
    create(disk)
    for name in "abc":
        write(disk, name, 1)
        rotate(disk)


def pins(disk: Disk) -> None:
    create(disk)
    for name in "abc":
        write(disk, name, 1)
        rotate(disk)
        if name == "a":
            Pool(disk.root).pin("best")
            disk.mark("pinned 1")
        retire(disk)
    disk.mark("unpinning 1")
    Pool(disk.root).unpin("best")
    retire(disk)


STORIES = [a_writer, a_writer_of_anything, rotations, retirements, pins, a_pool_in_old_folders]
