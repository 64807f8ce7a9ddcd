"""The front door to reading: `samples`, one by one and in order; `Loader`, batches for training."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeAlias, cast

from wlshard.device import OnDevice, converter
from wlshard.pool.follow import Follower
from wlshard.pool.pool import Pool
from wlshard.pool.source import resolve
from wlshard.sample import Sample
from wlshard.shards.reader import OnError
from wlshard.store.options import use_options
from wlshard.stream.arguments import seconds, whole
from wlshard.stream.course import Course
from wlshard.stream.feed import Feed, PoolFeed, feed_of_rows, feed_of_shards
from wlshard.stream.fields import Fields, preparer
from wlshard.stream.finish import Prepared
from wlshard.stream.mix import Mix, MixFeed
from wlshard.stream.order import STRIPS
from wlshard.stream.recipe import Recipe
from wlshard.stream.settings import Settings
from wlshard.stream.turns import Turns
from wlshard.workers.hands import hands_for

if TYPE_CHECKING:
    from wlshard.stream.collate import BatchTransform

Shards: TypeAlias = str | os.PathLike[str] | Pool | Sequence[str | os.PathLike[str]]
Source: TypeAlias = Shards | Iterable[Sample] | Mix


def samples(
    source: Source,
    *,
    fields: Fields = None,
    decode: bool | str = True,
    on_error: OnError = "raise",
    timeout_s: float = 600,
    cache_dir: str | None = None,
    cache_bytes: int | None = None,
    allow_pipe: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Iterable[Any]:
    """Iterate over samples in order: shards as listed, samples as they lie in them; each `iter()` anew.

    Dicts of fields with `__key__` and `__url__`, or tuples with `fields="jpg;png cls"`. `decode=False` leaves
    bytes; a name such as "rgb" says how images are decoded. Streams: holds two blocks of a shard (1 MiB, or
    its largest member). Of a pool, the newest generation at each `iter()`, waited for up to `timeout_s` while
    it is empty. `cache_dir` to `storage_options`: as for the Loader. Errors: NotFound, TarError,
    GroupingError, CodecError, PoolStarved, TooManyBadSamples.
    """

    def rows() -> Iterator[Sample]:
        follower = partial(Follower, follow=False, timeout_s=timeout_s)
        return find_feed(source, None, on_error, follower).rows(on_error, copy=decode is False)

    use_options(storage_options, cache_dir=cache_dir, cache_bytes=cache_bytes, allow_pipe=allow_pipe)
    seconds("timeout_s", timeout_s)
    prepare = preparer(fields, decode) if fields is not None or decode is not False else None
    return Prepared(rows, prepare, on_error)


def find_feed(
    source: Source, cache_dir: str | None, on_error: OnError, follower: Callable[..., Follower]
) -> Feed:
    """Find out what a source is: a pool, shards, or samples. Looks at the store. NotFound, UsageError."""
    if isinstance(source, Mix):
        parts = [find_feed(each, cache_dir, on_error, follower) for each in source.sources]
        return MixFeed(parts, source.weights)
    if _holds_samples(source):
        return feed_of_rows(cast("Iterable[Sample]", source))
    found = resolve(cast("Shards", source))
    if found.pool is None:
        return feed_of_shards(found.urls, cache_dir, on_error)
    return PoolFeed(follower(found.pool, found.generation), cache_dir)


def _holds_samples(source: Source) -> bool:
    if isinstance(source, list | tuple):
        return bool(source) and isinstance(source[0], dict)
    return not isinstance(source, str | os.PathLike | Pool)


class Loader:
    """Iterate over batches for training: shuffled, resumable, each sample once an epoch over all ranks.

    Each `iter()` gives the next epoch, the first being 0, and ends the one before it; after
    `load_state_dict` it gives the rest of what was saved. The order depends on data, seed, epoch, batch_size,
    shuffle and the world size the job began with, on nothing else. Nothing is opened before the first use.

    Args:
        source: a pool (`POOL`, `POOL@n`), a shard list, a folder of shards, an iterable of samples, or a Mix.
        fields: `"jpg;png cls"` gives tuples in that order; None dicts with `__key__` and `__url__`.
        batch_size: samples in a batch of one rank; None gives single samples.
        shuffle: samples held to be mixed (each rank, undecoded); 0 keeps the order of the shards.
        spans: places far apart that are read at a time in each of 12 lanes; 32 mix large samples better.
        decode: False for bytes; "rgb8", "rgb", "gray", "pil" … say how images are decoded.
        transform: called with each sample; a parameter `rng` gets a Generator of seed, epoch and place only.
        per_sample: how many samples `transform` yields of each; these are counted, mixed and resumed.
        batch_transform: called with each batch, or a list with a callable (or None) for each field.
        collate_fn: makes a batch from a list of samples. Without it, arrays of one shape and dtype are
            stacked on axis 0, ints become an int64 array, all else a list.
        converters: "torch" gives tensors, images (N, C, H, W), already to `transform`; "numpy" arrays.
        select: a function of a sample, or an expression such as `"_.cls < 5"`; those it is true of fill the
            batches. There is no `len()`; several ranks need `batches=`, each with its own state, no others.
        workers: processes that read, decode and batch into memory shared with this one; 0: done here. The
            order is the same for any number. An array is the consumer's as long as anything refers to it. A
            list (strings, objects, ragged arrays) is pickled, slower: a PerformanceWarning, unless asked for.
        start_method: of the workers: "fork", or "forkserver" or "spawn": those import the program again, and
            what they need is sent (lambdas too, a notebook's functions); they may copy large batches faster.
        epochs: chains so many epochs in one `iter()`.
        batches: an `iter()` is exactly so many batches of this rank, running on over the ends of epochs.
        drop_last: drops the last, unequal step; else its samples are divided over the ranks.
        rank, world_size: both or neither; default: torch.distributed, else the launcher's variables. In a
            worker of a torch DataLoader the batches are divided further: see `wlshard.torch`.
        on_error: "skip" counts bad samples; batches are shorter, on several ranks never empty (a good sample
            comes twice, "padded"); 100 in a row are an error.
        follow: on a pool, "epoch" takes the newest generation at each epoch, on all ranks the one that rank 0
            finds; a number looks every so many batches, and ends the epoch early for a newer one (there is no
            `len()` then); None stays with the first.
        reuse: on a pool, how many epochs a generation gives before a newer one must come: it is waited for.
        cache_dir: keeps indexes made by scanning local shards, and shards with `cache_bytes`.
        cache_bytes: lets shards that are far away, or on another file system than `cache_dir`, be kept there
            while they are read, so many bytes in all, by all processes of this machine; those used longest
            ago make room. How all of this process reads from now on. 0: nothing is kept.
        timeout_s: how long an empty pool, or (10 s at least) a worker that gives nothing, is waited for.
        allow_pipe: lets the shell commands of `pipe:` URLs be run; by all of this process from now on.
        http_proxy, storage_options: how stores are reached, by all of this process from now on.
        pin: a name, one for all ranks, that keeps a pool's last two generations read for 7 days, to resume.
        resume: of a state whose generation is gone: "fail" is a CursorMismatch, "advance" begins its epoch
            anew in the newest generation, and says so.
        job: what all ranks call this start, a new name each time: to agree on a pool's generations without
            torch.distributed, torchrun, srun or mpirun.

    Holds the window of each of its lanes and what is read ahead: `stats()["announced_bytes"]`. Blocks for the
    store; says so when that takes long. Use it as a context manager, or call `close()`.

    Errors: NotFound, PoolStarved, CursorMismatch, LostLease, TarError, WorkerDied, …; a transform's.
    """

    def __init__(
        self,
        source: Source,
        fields: Fields = None,
        *,
        batch_size: int | None = None,
        shuffle: int = 0,
        spans: int = STRIPS,
        decode: bool | str = True,
        transform: Callable[..., Any] | None = None,
        per_sample: int = 1,
        batch_transform: BatchTransform = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        converters: str = "numpy",
        select: Callable[..., Any] | str | None = None,
        workers: int = 0,
        start_method: str = "fork",
        seed: int = 0,
        epochs: int | None = None,
        batches: int | None = None,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        on_error: OnError = "raise",
        follow: str | int | None = "epoch",
        reuse: int | None = None,
        cache_dir: str | None = None,
        cache_bytes: int | None = None,
        timeout_s: float = 600,
        pin: str | None = None,
        resume: str = "fail",
        job: str | None = None,
        allow_pipe: bool | None = None,
        http_proxy: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        caching = {"cache_dir": cache_dir, "cache_bytes": cache_bytes}
        use_options(storage_options, http_proxy=http_proxy, allow_pipe=allow_pipe, **caching)
        recipe = Recipe(
            fields,
            decode,
            transform,
            batch_transform,
            collate_fn,
            batched=batch_size is not None,
            seed=whole("seed", seed),
            on_error=on_error,
            select=select,
            per_sample=whole("per_sample", per_sample, 1),
            convert=converter(converters),
        )
        settings = Settings(
            recipe, batch_size, shuffle, spans, epochs, batches, drop_last, rank, world_size, follow,
            resume, reuse,
        )  # fmt: skip
        seconds("timeout_s", timeout_s)
        self._hands = hands_for(settings.recipe, whole("workers", workers, 0), start_method, timeout_s)
        follower = partial(Follower, follow=follow is not None, timeout_s=timeout_s, pin=pin, job=job)
        find = partial(find_feed, source, cache_dir, on_error, follower)
        self._course = Course(find, self._hands.begin, settings)
        self._turns = Turns(self._course, settings)

    def __iter__(self) -> Iterator[Any]:
        return self._turns.iterate(None)

    def __getitem__(self, index: object) -> NoReturn:
        raise TypeError(
            "a Loader is iterated over, in place of a torch DataLoader; to keep that, give it an "
            "IterableDataset of wlshard.torch"
        )

    def epochs(self, count: int | None = None) -> Iterator[Any]:
        """Chain the next `count` epochs, without end if None; one that is taken up again counts too."""
        return self._turns.iterate(math.inf if count is None else whole("count", count, 0))

    def __len__(self) -> int:
        """Count the batches of this rank in an `iter()`: the one under way, else the next.

        Opens the data, and waits for a pool's first samples. TypeError where only streaming would tell.
        """
        steps = self._turns.steps()
        if steps is None:
            raise TypeError(
                "how many batches there are is not known, with select= or where shards can only be streamed: "
                "say batches=, or add indexes beside the shards"
            )
        return steps

    def state_dict(self) -> dict[str, Any]:
        """Give the resume point behind the batch given last. No I/O.

        Small and JSON; the same on every rank, but with `select=`: there each rank has its own.
        """
        return self._turns.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next `iter()` give exactly what the saved one had left, with any world size.

        With `select=` the world size stays, and each rank loads its own state. CursorMismatch if seed,
        batch_size or shuffle differ, or, at that `iter()`, the data.
        """
        self._turns.restore(state)

    def to(self, device: Any) -> OnDevice:
        """Give the batches as tensors on a device, "cuda" or "cpu", in place of this: see `OnDevice`."""
        return OnDevice(self, device)

    def stats(self) -> dict[str, Any]:
        """Give what this rank was given so far, and what it waited for.

        `bytes`: of these samples as stored, by their mean size; `reuse`: how often the data under way was
        given by all ranks; `waited_s`: for storage, workers, a pool; `ready`: batches that wait to be taken;
        `pickled`: batches with a list; `announced_bytes`: held; `share` of time: storage, making, consumer.
        """
        course, hands, counts = self._course, self._hands.stats(), self._turns.counts
        spent = hands.get(
            "workers", {"read_s": course.waited_s, "make_s": self._turns.inside_s - course.waited_s}
        )
        return {
            **counts,
            "bytes": course.bytes_of(counts["samples"]),
            "reuse": course.reuse,
            "epoch": course.number,
            "generation": course.at.generation,
            "skipped": counts["skipped"] + course.skipped,
            "waited_s": course.waited_s,
            "announced_bytes": course.epoch.announced_bytes() if course.epoch else None,
            "share": self._turns.shares(spent["read_s"], spent["make_s"]),
            **hands,
        }

    def _settle(self) -> dict[str, Any]:
        """Choose now what the next epoch reads; give the state it begins with, for others of this rank."""
        self._course.settle()
        return self.state_dict()

    def close(self) -> None:
        """End reading and let go of all files, threads and workers. Blocks for the read under way."""
        self._turns.close()
        try:
            self._course.close()
        finally:
            self._hands.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Loader is not copied or pickled, two would share its place in the data: make another one "
            "there, and hand over state_dict()"
        )
