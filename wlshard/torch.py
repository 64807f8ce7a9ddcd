"""For those who keep torch's DataLoader: a dataset that gives in it what a Loader gives."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.utils.data

from wlshard import clock
from wlshard.errors import UsageError
from wlshard.loader import Loader
from wlshard.place import Place, detect_place

log = logging.getLogger(__name__)

KEY_BITS = 31
BOARD_BYTES = 4096
POLL_S, TELL_S = 0.01, 10.0


class IterableDataset(torch.utils.data.IterableDataset[Any]):
    """Give a Loader's batches to a torch DataLoader, for any num_workers in the Loader's own order.

    `make` makes the Loader, in each process that reads; where processes are not forked it is pickled:

        data = IterableDataset(partial(Loader, "x-@000148.tar", "jpg cls", batch_size=64, shuffle=5000))
        for images, labels in DataLoader(data, batch_size=None, num_workers=4): ...

    Worker w of n makes batches w, w + n, … of its rank: none comes twice, all ranks have as many, `len()`
    counts them. It reads about 1/n of the data where n divides 12, else all of it. Each `iter()` of the
    DataLoader is the next epoch, unless torch's seed was set anew to what it was. Where the Loader has no
    batch_size, shares and `len()` are of samples, and the DataLoader makes batches, each of one worker's
    samples.

    Resuming: without workers, `state_dict()` is the Loader's. With workers they have the states, which
    torchdata's StatefulDataLoader collects and hands back: exact, with the same num_workers. A plain
    DataLoader does not ask for them: there, count the batches and, before the first `iter()`,
    `load_state_dict` what a Loader or a dataset without workers has saved behind as many. A state saved
    behind an epoch's last batch has an empty rest of that epoch, as the Loader's has.

    Of a pool, worker 0 chooses what the workers of its rank read in an epoch; the worker 0 of several ranks
    agree through the pool, by what their launcher calls this start or `job=`. Each worker has a lease while
    the epoch lasts. `follow=` with a number needs num_workers ≤ 1. `len()` is of what was newest when it was
    first asked.
    """

    def __init__(self, make: Callable[[], Loader]) -> None:
        self._make = make
        self._begin: dict[str, Any] | None = None  # to resume from
        self._state: dict[str, Any] | None = None  # behind what this worker gave last
        self._place: Place | None = None  # of the process that this was pickled in
        self._loader: Loader | None = None
        self._process = 0  # that the loader is of
        self._steps: int | None = None
        self._iters = 0  # of this process, if it is a worker
        # What the workers agree on without a lock, for only worker 0 writes: the epoch begun last, and the
        # DataLoader's iter() it was begun by, in one word; behind it that of the epoch whose first state
        # worker 0 laid on the board, and of one for which it could not.
        self._word = torch.tensor([-1, -1, -1])
        self._board = torch.zeros(BOARD_BYTES, dtype=torch.uint8)
        for shared in (self._word, self._board):
            shared.share_memory_()  # type: ignore[no-untyped-call]

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        if worker is None:
            return iter(self._here())
        if self._place is not None and self._place.world > 1:  # what is not inherited where one does not fork
            os.environ.update(RANK=str(self._place.rank), WORLD_SIZE=str(self._place.world))
        word, loader = self._next_word(worker.seed - worker.id, worker.id), self._make()
        try:
            loader.load_state_dict(self._first_state(loader, word, worker.id))
        except BaseException:
            loader.close()
            raise
        self._state = loader.state_dict()
        return self._share(loader)

    def _first_state(self, loader: Loader, word: int, worker: int) -> dict[str, Any]:
        """Give the state to begin an epoch with, of what worker 0 has chosen to read."""
        begin = self._begin if self._begin is not None and self._begin["epoch"] == word >> KEY_BITS else None
        if not worker and self._word[1] != word:
            self._choose(loader, word, begin)
        chosen = self._chosen(word)
        return chosen if begin is None or begin["generation"] != chosen["generation"] else begin

    def _choose(self, loader: Loader, word: int, begin: dict[str, Any] | None) -> None:
        """Lay on the board the state in which an epoch begins, or what is left of it. PoolStarved, …"""
        at_first = {"epoch": word >> KEY_BITS, "next_batch": 0, "taken": 0, "given": 0, "place": None}
        before = self._read() if self._word[1] >= 0 else loader.state_dict()
        try:
            loader.load_state_dict(begin or {**before, **at_first})
            text = json.dumps(loader._settle()).encode().ljust(BOARD_BYTES)
        except BaseException:
            self._word[2] = word
            raise
        self._board[:] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self._word[1] = word

    def _chosen(self, word: int) -> dict[str, Any]:
        """Wait for what worker 0 chooses; it waits for a pool as long as its loader says."""
        self._wait_until(lambda: word in self._word[1:].tolist())
        if self._word[1] != word:
            raise UsageError("worker 0 of the DataLoader found nothing to read: see its error")
        return self._read()

    def _wait_until(self, holds: Callable[[], bool]) -> None:
        parent, began, tell = os.getppid(), clock.monotonic(), TELL_S
        while not holds():
            waited = clock.monotonic() - began
            if waited >= tell:
                log.warning("waiting for %.0f s for worker 0 of the DataLoader to choose", waited)
                tell *= 2
            if os.getppid() != parent:
                raise UsageError("the process of the DataLoader has ended")
            clock.sleep(POLL_S)

    def _read(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(bytes(self._board.numpy()))
        return state

    def _next_word(self, seed: int, worker: int) -> int:
        """Give the epoch that an iter() is, and its key; its workers have a seed and a count in common.

        Worker 0 counts. Those of an iter() that has failed may live on, and begin late: they find another's.
        """
        self._iters += 1
        key = 1 + hash((seed, self._iters)) % (2**KEY_BITS - 1)  # 0: of a state, that nobody has begun with
        last = int(self._word[0])
        if worker:
            before = {0, last % 2**KEY_BITS} - {key}  # not begun yet
            self._wait_until(lambda: int(self._word[0]) % 2**KEY_BITS not in before)
            last = int(self._word[0])
            if last % 2**KEY_BITS != key:
                raise UsageError("another epoch of this DataLoader has begun: nobody waits for this one")
        elif last % 2**KEY_BITS != key:
            last = (last // 2**KEY_BITS + 1) * 2**KEY_BITS + key
            self._word[0] = last
        return last

    def _share(self, loader: Loader) -> Iterator[Any]:
        with loader:
            for batch in loader:
                self._state = loader.state_dict()  # stays at the end: nothing of this epoch is left then
                yield batch

    def __len__(self) -> int:
        """Count the batches of this rank in a whole epoch, as torch's loops expect; also behind a resume.

        Opens the data the first time. TypeError where only streaming would tell.
        """
        if self._steps is None:
            with self._make() as loader:
                self._steps = len(loader)
        return self._steps

    def state_dict(self) -> dict[str, Any]:
        """Give the resume point, of this worker if it is one."""
        if self._state is not None and torch.utils.data.get_worker_info() is not None:
            return self._state
        return self._here().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next `iter()`, here and in workers to come, give what was left. CursorMismatch."""
        self._begin = dict(state)
        worker = torch.utils.data.get_worker_info()
        if worker is None or worker.id == 0:
            self._word[0] = (self._begin["epoch"] - 1) * 2**KEY_BITS
        if worker is None:
            self._here().load_state_dict(self._begin)

    def close(self) -> None:
        """Close what this process has open; workers close what is theirs where an epoch ends."""
        loader, self._loader = self._loader, None
        if loader is not None and self._process == os.getpid():
            loader.close()

    def _here(self) -> Loader:
        if self._loader is None or self._process != os.getpid():
            self._loader, self._process = self._make(), os.getpid()
            if self._begin is not None:
                self._loader.load_state_dict(self._begin)
        return self._loader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loader": None, "_place": detect_place()}
