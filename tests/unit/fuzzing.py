"""Damage at random, and the one property: the same samples, or an error; never fewer, never a hang.

`python fuzzing.py SECONDS SEED` does it until the time is over, in 1 GiB of memory; it prints what fails.
"""

from __future__ import annotations

import bz2
import gc
import gzip
import io
import lzma
import random
import resource
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import zstandard
from tars import END, Bytes, header, made_by_tarfile, member, pax

from wlshard.errors import GroupingError, TarError
from wlshard.shards.access import ShardAccess
from wlshard.shards.grouping import Grouper
from wlshard.shards.tally import Tally
from wlshard.tar.compression import plain
from wlshard.tar.reader import scan

MEMBER_BYTES, MEMORY_BYTES = 1 << 20, 1 << 30
Samples = list[dict[str, object]]
FILES = {
    f"{n:03d}.{ext}": bytes([n]) * size for n in range(6) for ext, size in (("a", 0), ("b", 700), ("c", 5000))
}
LONG = {f"{'d' * 80}/{'n' * 90}/{name}": data for name, data in FILES.items()}
SPARSE = pax(GNU__sparse__size="900", GNU__sparse__map="100,60,800,4", GNU__sparse__name="s.x")
SEEDS = [
    made_by_tarfile(FILES, "ustar"), made_by_tarfile(LONG, "gnu"), made_by_tarfile(LONG, "pax"),
    header(b"d/", kind=b"5") + SPARSE + member(b"x", b"d" * 64) + member(b"._a.x") + member(b"./b.x") + END,
    b"".join(member(name.encode(), data, magic=bytes(8)) for name, data in FILES.items()) + END,
]  # fmt: skip
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    "lz4": lambda data: bytes(lz4.frame.compress(data, content_checksum=True)),
}  # fmt: skip


def samples_of(data: bytes) -> Samples:
    tar, _ = plain(Bytes(data), "t")
    found = Grouper("t", Tally()).samples(scan(tar, "t", max_member_bytes=MEMBER_BYTES))
    return [{name: bytes(v) if isinstance(v, memoryview) else v for name, v in one.items()} for one in found]


WHOLE = [samples_of(data) for data in SEEDS]
PACKED = {(kind, n): pack(data) for kind, pack in PACK.items() for n, data in enumerate(SEEDS)}


def same_or_error(data: bytes, whole: Samples, what: str) -> bool:
    """Tell whether it was an error; fail if samples were lost or changed in silence."""
    try:
        found = samples_of(data)
    except (TarError, GroupingError) as error:
        return error.url == "t"
    assert found == whole, f"{what}: {len(found)} of {len(whole)} samples, no error"
    return False


def damaged(data: bytes, rng: random.Random, places: list[int] | None = None) -> bytes:
    """Flip bits, cut, leave out, double or exchange pieces; `places`: only bits of these bytes."""
    made = bytearray(data)
    how = "flip" if places else rng.choice(["flip", "flip", "cut", "out", "twice", "swap", "join", "zero"])
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    if how == "flip":
        for _ in range(rng.randint(1, 4)):
            made[rng.choice(places) if places else rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del made[a:]
    elif how == "out":
        del made[a:b]
    elif how == "twice":
        made[b:b] = data[a:b]
    elif how == "swap":
        made[:] = data[b:] + data[a:b] + data[:a]
    elif how == "join":
        made += data
    else:
        made[a:b] = bytes(b - a)
    return bytes(made)


def header_places(data: bytes) -> list[int]:
    """List the bytes of the headers that have a checksum of their own."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [at for info in tar for at in range(info.offset_data - 512, info.offset_data)]


PLACES = [header_places(data) for data in SEEDS]


def damage_headers(rng: random.Random) -> bool:
    n = rng.randrange(len(SEEDS))
    return same_or_error(damaged(SEEDS[n], rng, PLACES[n]), WHOLE[n], f"headers of {n}")


def cut_at_blocks(rng: random.Random) -> bool:
    """A cut anywhere, most of all where a block or a member ends."""
    n = rng.randrange(len(SEEDS))
    end = rng.randrange(0, len(SEEDS[n]), rng.choice([1, 512, 512]))
    return same_or_error(SEEDS[n][:end], WHOLE[n], f"{n} cut at {end}")


def damage_frames(rng: random.Random) -> bool:
    (kind, n), packed = rng.choice(list(PACKED.items()))
    return same_or_error(damaged(packed, rng), WHOLE[n], f"{kind} of {n}")


def split_frames(rng: random.Random) -> bool:
    """Streams one after the other are one; with one left out they mean what the plain bytes do."""
    n, pack = rng.randrange(len(SEEDS)), PACK[rng.choice(list(PACK))]
    cuts = sorted(rng.randrange(1, len(SEEDS[n])) for _ in range(3))
    pieces = [SEEDS[n][a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    assert not same_or_error(b"".join(map(pack, pieces)), WHOLE[n], "split streams")
    del pieces[rng.randrange(len(pieces))]
    try:
        whole = samples_of(b"".join(pieces))  # what is left may be a tar: zeros for zeros
    except (TarError, GroupingError):
        whole = [{"no": "tar"}]
    return same_or_error(b"".join(map(pack, pieces)), whole, "a stream left out")


def damage_index(rng: random.Random) -> bool:
    """An index beside a good tar: edited lines, words and bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.tar")
        path.write_bytes(SEEDS[0])
        text = _index_text(path)
        lines = text.splitlines(keepends=True)
        a, b = rng.randrange(1, len(lines)), rng.randrange(1, len(lines))
        how = rng.choice(["out", "twice", "swap", "number", "bytes"])
        if how == "out":
            del lines[a]
        elif how == "twice":
            lines.insert(b, lines[a])
        elif how == "swap":
            lines[a], lines[b] = lines[b], lines[a]
        elif how == "number":
            words = lines[a].split(b" ")
            words[rng.choice([1, 2, 5, 6, 9, 10])] = b"%d" % rng.choice([0, 512, 513, 10240, 20480, 1 << 60])
            lines[a] = b" ".join(words)
        if how in ("out", "twice"):
            lines[0] = b"v1.2 %d\n" % (len(lines) - 1)
        made = b"".join(lines)
        path.with_suffix(".idx").write_bytes(damaged(made, rng) if how == "bytes" else made)
        return _same_by_index(path)


def _index_text(path: Path) -> bytes:
    from wlshard.shards.indexing import make_index

    return make_index(str(path)).text


def _same_by_index(path: Path) -> bool:
    try:
        with ShardAccess(str(path)) as access:
            found = [one for n in range(access.samples or 0) for one in access.read(n, 1)]
            streamed = list(access.stream())
    except TarError:
        return True
    for way in (found, streamed):
        plain_values = [{k: v if isinstance(v, str) else bytes(v) for k, v in one.items()} for one in way]
        assert plain_values == [one | {"__url__": str(path)} for one in WHOLE[0]], path.with_suffix(
            ".idx"
        ).read_bytes()
    return False


ATTACKS = damage_headers, cut_at_blocks, damage_frames, split_frames, damage_index


def main(seconds: float, seed: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    end, tries, errors = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        for attack in ATTACKS:
            one = random.Random(f"{seed} {tries}")
            started = time.monotonic()
            try:
                errors += attack(one)
            except BaseException as error:
                raise SystemExit(
                    f"{attack.__name__}, Random('{seed} {tries}'): {type(error).__name__} {error}"
                ) from error
            assert time.monotonic() - started < 10, f"{attack.__name__}, Random('{seed} {tries}'): a hang"
        tries += 1
        if tries % 20 == 0:
            gc.collect()  # an error holds the frames it came through, and they a decompressor's memory
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{tries * len(ATTACKS)} tries, {errors} errors told, the others read whole; {peak} MiB at most")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
