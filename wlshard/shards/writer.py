"""Write samples into shards that roll, and publish each shard whole or not at all."""

from __future__ import annotations

import logging
import threading
from typing import Self

from wlshard import clock
from wlshard.errors import UsageError, WlshardError
from wlshard.sample import KEY, Sample
from wlshard.shards.growing import GrowingShard
from wlshard.shards.target import ClosedShard, Target, TemplateTarget

log = logging.getLogger(__name__)


__all__ = ["ClosedShard", "RollingWriter", "Target", "TemplateTarget"]


class RollingWriter:
    """Write samples one after the other; a shard that is full is published and the next one begun.

    A shard is full at `shard_samples`, before it would pass `shard_bytes` of real tar (headers, padding and
    end mark counted; a single sample may be larger), and `shard_seconds` after its first sample: a thread
    watches that if it is set. The samples of one call are in the shard whole or not at all, and the writer
    goes on after any error. Leaving the block closes it; after an exception inside, the open shard is
    dropped. Threads may share it. Holds 1 MiB of samples and about 100 bytes a member of the open shard.

    `shards`: URLs of what was published, holding `sealed` samples in `bytes`; `samples`: all taken so far.
    """

    def __init__(
        self,
        target: Target,
        *,
        shard_samples: int = 10_000,
        shard_bytes: int = 2**28,
        shard_seconds: float | None = None,
    ) -> None:
        for limit in (shard_samples, shard_bytes, shard_seconds):
            if limit is not None and not limit > 0:
                raise UsageError(f"a shard's limit must be above 0, not {limit}")
        self.shards: list[str] = []
        self.samples = self.sealed = self.bytes = 0
        self._target = target
        self._shard_samples, self._shard_bytes = shard_samples, shard_bytes
        self._shard_seconds = shard_seconds
        self._shard: GrowingShard | None = None
        self._loss: WlshardError | None = None
        self._closed = False
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._timer: threading.Thread | None = None

    def write(self, sample: Sample) -> None:
        """Take a sample; it may block for the disk. Buffers may be reused after return.

        GroupingError, CodecError: it was not taken. AccessDenied, StoreUnavailable, UsageError (an output is
        there already): not taken either, unless it filled the shard and only publishing failed, which is
        tried again at the next call.
        """
        with self._lock:
            if self._closed:
                raise UsageError("this writer is closed: open another")
            key = sample.get(KEY)
            if key is None:
                key = self._target.default_key(self.samples)
            shard = self._shard
            if shard is not None and (
                shard.samples >= self._shard_samples
                or (self._shard_seconds is not None and self._seconds_left() <= 0)
                or not shard.add(key, sample, most_bytes=self._shard_bytes)
            ):
                self._seal()
                shard = None
            if shard is None:
                shard = self._open()
                shard.add(key, sample)
            self.samples += 1
            if shard.samples >= self._shard_samples:
                self._seal()

    def close(self) -> None:
        """Publish the open shard. Blocks for the disk. After an error of the store it may be called again.

        Samples that a full disk does not take are given up; StoreUnavailable tells how many, and that the
        others were published.
        """
        self._end_timer()
        with self._lock:
            self._closed = True
            if self._shard is None:
                return
            try:
                self._shard.flush()
            except WlshardError as error:
                lost = self._shard.flush_what_fits()
                self.samples -= lost
                message = f"{error.message} (the last {lost} samples did not fit and are lost)"
                self._loss = type(error)(message, url=error.url)
            self._seal()
            loss, self._loss = self._loss, None
            if loss is not None:
                raise loss

    def discard(self) -> None:
        """Drop the open shard; what was published stays."""
        self._end_timer()
        with self._lock:
            self._closed = True
            shard, self._shard = self._shard, None
            if shard is not None:
                self.samples -= shard.samples
                shard.scratch.draft.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.discard()
            return
        try:
            self.close()
        finally:
            self._abandon()

    def _open(self) -> GrowingShard:
        draft = self._target.open_draft(len(self.shards) + 1)
        self._shard = GrowingShard(draft, sha256=self._target.wants_sha256, admit=self._target.admit)
        self._start_timer()
        return self._shard

    def _abandon(self) -> None:
        """Let go of a shard that could not be published; its scratch stays."""
        shard, self._shard = self._shard, None
        if shard is not None:
            log.warning("%d samples of an unpublished shard stay in its scratch, *.partial", shard.samples)
            shard.scratch.draft.abandon()

    def _seal(self) -> None:
        shard = self._shard
        assert shard is not None
        if shard.samples:
            shard.flush()
            index, digest = shard.finish()
            closed = ClosedShard(len(self.shards) + 1, shard.samples, shard.tar_bytes, index, digest)
            url = self._target.publish(shard.scratch.draft, closed)
            self.shards.append(url)
            self.sealed += shard.samples
            self.bytes += shard.tar_bytes
        else:
            shard.scratch.draft.discard()
        self._shard = None

    def _seconds_left(self) -> float:
        """Seconds until the open shard is due; of a shard not begun yet it is the whole time."""
        if self._shard_seconds is None or self._shard is None:
            return self._shard_seconds or float("inf")
        return self._shard.opened + self._shard_seconds - clock.monotonic()

    def _start_timer(self) -> None:
        if self._shard_seconds is not None and self._timer is None:
            self._timer = threading.Thread(target=self._watch, name="wlshard-roll", daemon=True)
            self._timer.start()

    def _end_timer(self) -> None:
        self._stop.set()
        if self._timer is not None:
            self._timer.join()

    def _watch(self) -> None:
        left = self._seconds_left()
        while not self._stop.wait(left):
            with self._lock:
                try:
                    if self._shard is not None and self._seconds_left() <= 0:
                        self._seal()
                    left = self._seconds_left()
                except WlshardError as error:
                    log.warning("a shard that is due could not be published, the writer goes on: %s", error)
                    left = self._shard_seconds or 0.0
