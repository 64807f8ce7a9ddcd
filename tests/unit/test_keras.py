"""Keras on torch's backend: every epoch has its data, each batch once and in order, and resumes."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import json
from pathlib import Path

import numpy as np
import pytest

from wlshard import Loader, ShardWriter, UsageError

keras = pytest.importorskip("keras")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:keras")


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Samples whose image, 4 × 5 × 3, is full of their number."""
    with ShardWriter(str(tmp_path / "x-%d.tar"), shard_samples=10) as writer:
        for number in range(26):
            image = np.full((4, 5, 3), number, np.uint8)
            writer.write({"__key__": f"{number:03d}", "image.npy": image, "cls": number % 2})
    return str(tmp_path / "x-*.tar")


def loader(shards: str, **options) -> Loader:
    return Loader(shards, "image.npy cls", batch_size=4, shuffle=40, **options)


class Seen(keras.layers.Layer):
    """Keeps the first pixel of what a model is trained on."""

    def __init__(self, seen: list) -> None:
        super().__init__()
        self.keep = seen.append  # a list itself would be copied

    def call(self, images, training=False):
        if training and images.device.type != "meta":
            assert tuple(images.shape[1:]) == (4, 5, 3)
            self.keep([int(value) for value in images[:, 0, 0, 0]])
        return images


def model(seen: list, *, built: bool = False):
    layers = [Seen(seen), keras.layers.Flatten(), keras.layers.Dense(2)]
    found = keras.Sequential([keras.layers.Input((4, 5, 3)), *layers] if built else layers)
    found.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), optimizer="sgd")
    return found


def expected(shards: str, epochs: int) -> list[list[int]]:
    with loader(shards) as batches:
        return [images[:, 0, 0, 0].tolist() for _ in range(epochs) for images, _ in batches]


@pytest.mark.parametrize("built", [False, True], ids=["looks", "built"])
@pytest.mark.parametrize("workers", [0, 2])
def test_fit_has_each_batch_of_every_epoch_in_order(shards, workers, built) -> None:
    from wlshard.keras import PyDataset

    seen: list = []
    with loader(shards, workers=workers) as batches, loader(shards) as held_out:
        data = PyDataset(batches)
        assert len(data) == 7
        found = model(seen, built=built)
        found.fit(data, epochs=3, verbose=0, validation_data=PyDataset(held_out))
        found.fit(data, epochs=1, verbose=0)
    assert seen == expected(shards, 4)


@pytest.mark.parametrize("steps", [2, 7])
def test_a_number_of_steps_may_be_told_to_keras(shards, steps) -> None:
    from wlshard.keras import PyDataset, generator

    for make in (PyDataset, generator):
        seen: list = []
        with loader(shards) as batches:
            model(seen).fit(make(batches), steps_per_epoch=steps, epochs=3, verbose=0)
        assert seen == expected(shards, 3)[: 3 * steps], make


@pytest.mark.parametrize("given", [3, 7])
def test_fit_goes_on_where_a_state_was_saved(shards, given) -> None:
    from wlshard.keras import PyDataset

    seen: list = []
    states: list = []
    with loader(shards) as batches:
        save = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda *_, **_logs: states.append(json.dumps(batches.state_dict()))
        )
        model(seen).fit(PyDataset(batches), epochs=1, verbose=0, callbacks=[save])
    del seen[given:]
    with loader(shards) as batches:
        batches.load_state_dict(json.loads(states[given - 1]))
        found = model(seen)
        if given < 7:
            found.fit(PyDataset(batches), initial_epoch=0, epochs=1, verbose=0)
        found.fit(PyDataset(batches), initial_epoch=1, epochs=3, verbose=0)
    assert seen == expected(shards, 3)


def test_batches_that_keras_cannot_take_are_an_error_that_says_what_to_do(shards) -> None:
    from wlshard.keras import PyDataset

    with Loader(shards, batch_size=4) as batches, pytest.raises(UsageError, match='fields="jpg cls"'):
        PyDataset(batches)[0]
    with Loader(shards, "__key__ cls", batch_size=4) as batches, pytest.raises(UsageError, match="field 0"):
        PyDataset(batches)[0]
    with loader(shards, drop_last=True) as batches:
        assert len(PyDataset(batches)) == 6
