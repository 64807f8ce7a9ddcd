"""Keras 3 on any backend: a Loader as what `fit`, `evaluate` and `predict` take; images are channels last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from wlshard.errors import UsageError
from wlshard.loader import Loader


class PyDataset(keras.utils.PyDataset):  # type: ignore[misc]
    """Give a Loader's batches to Keras: `model.fit(PyDataset(loader), epochs=3)`, data in every epoch.

    Inputs, targets and weights are the loader's `fields=`, in this order. The batches come in the loader's
    order, whatever index Keras asks for; those that it takes to build a model come again. Save and resume by
    the loader's `state_dict` and `load_state_dict`. In mid-epoch `len()` is what is left, which Keras takes
    for the length of all epochs: `fit` the rest of that one alone. Closing is the loader's.
    """

    def __init__(self, loader: Loader) -> None:
        super().__init__()
        self._loader = loader
        self._batches: Iterator[tuple[Any, ...]] | None = None
        self._looks = True  # Keras may only look, until it first says that an epoch ends
        self._began: dict[str, Any] = {}

    def __len__(self) -> int:
        """Count the batches of this rank in an epoch. TypeError where only streaming would tell."""
        return len(self._loader)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Give the next batch."""
        if self._batches is None:
            self._began = self._loader.state_dict()
            self._batches = generator(self._loader)
        return next(self._batches)

    def on_epoch_end(self) -> None:
        """Begin again if Keras has only looked: it says so once, before the first epoch."""
        if self._looks and self._batches is not None:
            self._batches = None
            self._loader.load_state_dict(self._began)
        self._looks = False


def generator(loader: Loader) -> Iterator[tuple[Any, ...]]:
    """Give batches without end: `model.fit(generator(loader), steps_per_epoch=len(loader), epochs=3)`.

    A state saved behind an epoch's last batch is that of the next one's beginning. Errors: the loader's;
    TypeError where it has no `len()`; UsageError for batches that Keras cannot take.
    """
    while True:
        steps, left = iter(loader), len(loader)
        for _ in range(left - 1):
            yield _fit(next(steps))
        last = list(steps)  # here the epoch ends
        if left and not last:
            raise UsageError("an epoch without a batch: there are fewer samples than batch_size")
        yield from map(_fit, last)


def _fit(batch: Any) -> tuple[Any, ...]:
    """Give a batch that Keras understands, or say what to do about it."""
    if not isinstance(batch, tuple):
        raise UsageError('Keras takes inputs and targets: name them in the Loader, such as fields="jpg cls"')
    for number, column in enumerate(batch):
        if isinstance(column, list):
            raise UsageError(
                f"field {number} of the batches is a list, for its values are no arrays, or not of one shape "
                "and type: make them alike with transform="
            )
    return batch
