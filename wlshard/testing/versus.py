"""The same work done by webdataset, to compare with in one run. Its import takes seconds: it brings torch."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
import webdataset

from wlshard.errors import NotFound, UsageError
from wlshard.jobs.mixing import Labels
from wlshard.jobs.usercode import user_code
from wlshard.stream.collate import collate

VERSION = version("webdataset")
_IMAGES = {"gray8": "l8", "l8": "l8", "rgb8": "rgb8", "rgba8": "rgba8", "gray": "l", "l": "l", "rgb": "rgb",
           "rgba": "rgba", "pil": "pil", "pilgray": "pill", "pill": "pill", "pilrgba": "pilrgba"}  # fmt: skip


def steps(
    urls: Sequence[str],
    *,
    batch_size: int | None,
    fields: str | None,
    decode: bool | str,
    shuffle: int,
    workers: int,
) -> Callable[[], Any]:
    """Make the contender: endless steps of whole batches (None: of single samples) by webdataset's fluid
    interface, here or in torch's workers. Images are decoded by Pillow, batches made by our collate,
    which takes images of several sizes. UserCodeError: what webdataset raises."""
    if decode is True:
        decode = "rgb8"
    if decode and decode not in _IMAGES:
        raise UsageError(f"webdataset knows no decoding {decode!r}: take one of {' '.join(_IMAGES)}, none")

    @contextmanager
    def opened() -> Iterator[Iterator[Any]]:
        found = webdataset.WebDataset(list(urls), shardshuffle=len(urls) if shuffle else False)
        if shuffle:
            found = found.shuffle(shuffle)
        if decode:
            found = found.decode(_IMAGES[str(decode)], _leave_pickles)
        if fields is not None:
            found = found.to_tuple(*fields.split())
        if batch_size is not None:
            found = found.batched(batch_size, partial=False, collation_fn=collate)
        if workers:
            warnings.filterwarnings("ignore", ".*not writable", UserWarning)  # torch, of each decoded array
            found = webdataset.WebLoader(found, batch_size=None, num_workers=workers, persistent_workers=True)
        yield _guarded(found)

    return opened


def _leave_pickles(key: str, data: bytes) -> bytes | None:
    """Leave as bytes, as we do, what would run code that lies in the shard."""
    return data if key.rpartition(".")[2].lower() in ("pyd", "pickle", "pkl", "pth") else None


def _guarded(found: Any) -> Iterator[Any]:
    """Go through it again and again; its errors are told as its own."""
    while True:
        rows, empty = iter(found), True
        while True:
            with user_code("webdataset"):
                row = next(rows, rows)
            if row is rows:
                break
            empty = False
            yield row
        if empty:
            raise NotFound("webdataset found no whole step in these shards")


def shuffled(labels: Sequence[Labels], *, batch: int, shuffle: int, world: int, seed: int) -> Labels:
    """Give the classes of the batches that webdataset's ranks get, (steps, ranks, batch size).

    Shards in random order, dealt to the ranks in turn, each shuffled by its `shuffle(…)`: as its
    documentation has it. As many steps as the rank with the fewest.
    """
    order = list(range(len(labels)))
    random.Random(seed).shuffle(order)
    if len(order) < world:
        raise UsageError(f"webdataset deals {len(order)} shards to {world} ranks: some get none")
    ranks = []
    for rank in range(world):
        mix = webdataset.shuffle(shuffle, seed=seed + rank)
        stream = mix(iter(np.concatenate([labels[shard] for shard in order[rank::world]]).tolist()))
        got = np.array(list(stream), np.int64)
        ranks.append(got[: len(got) // batch * batch].reshape(-1, batch))
    least = min(map(len, ranks))
    return np.stack([one[:least] for one in ranks], axis=1)
