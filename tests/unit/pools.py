"""Making and reading pools by hand, beside the code under test."""

from __future__ import annotations

import hashlib
import io
import tarfile

from wlshard.pool.names import ShardName
from wlshard.tar.header import END_MARK, member_header, padding
from wlshard.testing.storage import Operation, RecordingStore

WRITER_A = "20250101T000000-alpha-aaaaaaaaaaaaaaaa"
WRITER_B = "20250101T000000-beta-bbbbbbbbbbbbbbbb"


def tar_of(keys, payload=b"x"):
    """The bytes of a tar with one member `<key>.txt` each."""
    parts = []
    for key in keys:
        parts += [member_header(f"{key}.txt", len(payload)), payload, bytes(padding(len(payload)))]
    return b"".join([*parts, END_MARK])


def seal_by_hand(store, writer, seq, samples=1, data=None):
    """Put a shard into the write buffer; its keys are `<writer>/<seq>/<n>`. Gives its name."""
    data = tar_of([f"{writer}/{seq}/{n}" for n in range(samples)]) if data is None else data
    name = str(ShardName(writer, seq, samples, hashlib.sha256(data).hexdigest()[:32]))
    assert store.create(f"shards/{name}", data)
    return name


def keys_in(data):
    """The keys of a tar, by Python's tarfile."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [member.name.split(".")[0] for member in tar]


def keys_of(pool, generation=None):
    """The keys in a generation's shards."""
    manifest = pool.newest() if generation is None else pool.manifest(generation)
    return [key for shard in manifest.shards for key in keys_in(pool.store.read(f"shards/{shard.name}"))]


def names_of(manifest):
    return [shard.name for shard in manifest.shards]


class Interrupting(RecordingStore):
    """Runs `actor` once, right before the first operation that `when` picks."""

    def __init__(self, store, when, actor):
        super().__init__(store)
        self.when = when
        self.actor = actor

    def before(self, operation: Operation) -> None:
        if self.actor is not None and self.when(operation):
            actor, self.actor = self.actor, None
            actor()
