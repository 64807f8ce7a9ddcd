"""For those who keep torch's DataLoader: a dataset that gives in it what a Loader gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.utils.data

from wlshard.loader import Loader
from wlshard.place import Place, detect_place

MAX_WORKERS = 1024


class IterableDataset(torch.utils.data.IterableDataset[Any]):
    """Give a Loader's batches to a torch DataLoader, for any num_workers in the Loader's own order.

    `make` makes the Loader, in each process that reads; where processes are not forked it is pickled:

        data = IterableDataset(partial(Loader, "x-@000148.tar", "jpg cls", batch_size=64, shuffle=5000))
        for images, labels in DataLoader(data, batch_size=None, num_workers=4): ...

    Worker w of n makes batches w, w + n, … of its rank: none comes twice, all ranks have as many, `len()`
    counts them. It reads about 1/n of the data where n divides 12, else all of it. Each `iter()` of the
    DataLoader is the next epoch. Where the Loader has no batch_size, shares and `len()` are of samples, and
    the DataLoader makes batches, each of one worker's samples.

    Resuming: without workers, `state_dict()` is the Loader's. With workers they have the states, which
    torchdata's StatefulDataLoader collects and hands back: exact, with the same num_workers. A plain
    DataLoader does not ask for them: there, count the batches and, before the first `iter()`,
    `load_state_dict` what a Loader or a dataset without workers has saved behind as many. A state saved
    behind an epoch's last batch has an empty rest of that epoch, as the Loader's has. Of a pool, several
    workers read a named generation (POOL@n) only.
    """

    def __init__(self, make: Callable[[], Loader]) -> None:
        self._make = make
        self._state: dict[str, Any] | None = None  # to begin from, then behind what a worker gave last
        self._place: Place | None = None  # of the process that this was pickled in
        self._loader: Loader | None = None
        self._process = 0  # that the loader is of
        self._steps: int | None = None
        # The epoch that each worker begins next, -1 for that of the state: they may live for one epoch only.
        self._epochs = torch.full((MAX_WORKERS,), -1)
        self._epochs.share_memory_()  # type: ignore[no-untyped-call]

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        if worker is None:
            return iter(self._here())
        if self._place is not None and self._place.world > 1:  # what is not inherited where one does not fork
            os.environ.update(RANK=str(self._place.rank), WORLD_SIZE=str(self._place.world))
        epoch = int(self._epochs[worker.id])
        loader = self._made() if epoch < 0 else self._make()
        self._state = loader.state_dict()
        if epoch >= 0:
            self._state["epoch"] = epoch
            loader.load_state_dict(self._state)
        return self._share(loader, worker.id)

    def _share(self, loader: Loader, worker: int) -> Iterator[Any]:
        with loader:
            for batch in loader:
                # Kept at the end, too: who resumes here has nothing left of this epoch.
                self._state = loader.state_dict()
                self._epochs[worker] = self._state["epoch"] + 1
                yield batch
            self._epochs[worker] = loader.state_dict()["epoch"]

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
        worker = torch.utils.data.get_worker_info()
        self._state = dict(state)
        self._epochs[slice(None) if worker is None else worker.id] = -1
        if worker is None:
            self._here().load_state_dict(self._state)

    def close(self) -> None:
        """Close what this process has open; workers close what is theirs where an epoch ends."""
        loader, self._loader = self._loader, None
        if loader is not None and self._process == os.getpid():
            loader.close()

    def _here(self) -> Loader:
        if self._loader is None or self._process != os.getpid():
            self._loader, self._process = self._made(), os.getpid()
        return self._loader

    def _made(self) -> Loader:
        loader = self._make()
        if self._state is not None:
            loader.load_state_dict(self._state)
        return loader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loader": None, "_place": detect_place()}
