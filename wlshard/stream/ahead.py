"""Read-ahead: a thread that pulls items from an iterator while the consumer works on earlier ones."""

from __future__ import annotations

import logging
import os
import resource
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Self, TypeVar

from wlshard import clock
from wlshard.errors import UsageError
from wlshard.shards.watch import took

log = logging.getLogger(__name__)

T = TypeVar("T")
_THREAD = getattr(resource, "RUSAGE_THREAD", None)  # Linux has it
_SELDOM = 8  # a thread is worth its switches if more than one read in so many waits
TELL_S = 30.0  # a consumer that has waited this long says so, then at twice, four times, … that


class ReadAhead(Generic[T]):
    """Iterate over `source` in a thread of its own, holding at most about `limit` samples unreleased.

    The thread starts at the first `next()`; it stops to read while `limit` samples (by `weigh`) are held
    that the consumer has not `release`d, unless the consumer waits for it. An error of the source is raised
    by the `next()` that meets it, with the thread's traceback. `close()` ends and joins the thread; it may
    block until the read under way returns. `waited_s`: seconds that the consumer spent waiting.
    Without a `limit` there is no thread: what is in memory anyway is taken as it is asked for. Nor is there
    with `only_if_slow`, until the source has been seen to wait, as for a disk, when it was asked.
    """

    def __init__(
        self, source: Iterator[T], weigh: Callable[[T], int], limit: int, *, only_if_slow: bool = False
    ) -> None:
        self.waited_s = 0.0
        self._source = source
        self._weigh = weigh
        self._limit = limit
        self._low = limit // 2  # where reading begins again: to wake a thread costs as much as a small read
        self._held = 0
        self._ready: deque[T] = deque()
        self._state = threading.Condition()
        self._reads = self._slow_reads = 0  # by the consumer itself
        self._here = only_if_slow and _THREAD is not None
        self._hungry = False  # the consumer waits
        self._closed = False
        self._ended = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._process = 0  # that began it: a fork leaves the thread behind, with any lock it holds

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if self._forked():
            raise UsageError(
                "this process was forked while an iterator of the loader was in use: begin a new one in it, "
                "or make a loader in each process"
            )
        self._process = self._process or os.getpid()
        if not self._limit:
            self._check_open()
            return next(self._source)
        if self._here:
            return self._read_here()
        if not self._ready:
            self._wait()
        if self._ready:
            return self._ready.popleft()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        self._check_open()
        raise StopIteration

    def release(self, samples: int) -> None:
        """Tell that the consumer holds so many samples less."""
        if not self._limit:
            return
        with self._state:
            before, self._held = self._held, self._held - samples
            if before > self._low >= self._held:
                self._state.notify_all()

    def close(self) -> None:
        if self._forked():
            return
        with self._state:
            self._closed = True
            self._state.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(TELL_S)
            if self._thread.is_alive():
                log.warning("waiting for the read under way to end: ^C, again, does not wait")
                self._thread.join()
        self._ready.clear()
        self._source = iter(())  # and what it holds

    def _read_here(self) -> T:
        self._check_open()
        began, waits = clock.monotonic(), _waits()
        item = next(self._source)
        seconds = clock.monotonic() - began
        took(seconds)
        self.waited_s += seconds
        self._reads += 1
        self._slow_reads += _waits() > waits
        self._here = self._slow_reads <= 1 + self._reads // _SELDOM
        with self._state:
            self._held += self._weigh(item)
        return item

    def _wait(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._read, name="wlshard read-ahead", daemon=True)
            self._thread.start()
        began, tell = clock.monotonic(), TELL_S
        with self._state:
            self._hungry = True
            self._state.notify_all()
            while not (self._ready or self._ended or self._closed):
                if not self._state.wait(tell):
                    log.warning("waiting for the store for %.0f s", clock.monotonic() - began)
                    tell *= 2
            self._hungry = False
        self._check_open()
        self.waited_s += clock.monotonic() - began

    def _forked(self) -> bool:
        return self._process not in (0, os.getpid())

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this loader was closed, or begun again, while an iterator of it was in use")

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            while self._may_read():
                began = clock.monotonic()
                item = next(self._source)
                took(clock.monotonic() - began)
                with self._state:
                    self._held += self._weigh(item)
                    self._ready.append(item)
                    if self._hungry:
                        self._state.notify_all()
        except StopIteration:
            pass
        except BaseException as caught:  # noqa: BLE001  # handed to the consumer, who raises it
            error = caught
        finally:
            with self._state:
                self._error, self._ended = error, True
                self._state.notify_all()

    def _may_read(self) -> bool:
        with self._state:
            while self._held >= self._limit and not self._closed and not (self._hungry and not self._ready):
                self._state.wait()
            return not self._closed


def _waits() -> int:
    """Count how often this thread has given up its processor to wait."""
    assert _THREAD is not None
    return resource.getrusage(_THREAD).ru_nvcsw
