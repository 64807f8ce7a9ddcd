#!/usr/bin/env python
"""Train a network of keras.applications on tar shards: WebLoader's script on today's libraries.

    KERAS_BACKEND=torch python notebooks/keras-resnet50.py --training-urls 'train-{0000..0147}.tar' …

Shards are files, http://, gs:// or s3:// URLs, or a pool. With --checkpoint NAME the run is saved in
NAME.json and NAME-<step>.keras every --checkpoint-every steps, and the same command goes on behind the step
saved last, with the same losses. One process; for several GPUs take pytorch-resnet50.py.
Most options, and the batches, come from photographs.py beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
from contextlib import ExitStack
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
from photographs import loader, parser
from tqdm import tqdm

from wlshard import Loader
from wlshard.keras import PyDataset


def network(options: argparse.Namespace, steps: int) -> keras.Model:
    keras.utils.set_random_seed(options.seed)
    inputs = keras.Input((options.image_size, options.image_size, 3))
    make = getattr(keras.applications, options.model)
    found = make(weights=None, classes=options.classes, input_tensor=keras.layers.Rescaling(1 / 255)(inputs))
    rate = keras.optimizers.schedules.CosineDecay(
        0.1 * options.lr, steps, warmup_target=options.lr, warmup_steps=max(1, steps // 20)
    )
    found.compile(
        keras.optimizers.SGD(rate, options.momentum, nesterov=True),
        "sparse_categorical_crossentropy",
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5")],
    )
    return found


class Course(keras.callbacks.Callback):
    """How far a run is: shown, logged, saved. Sums up by itself what Keras measures in each batch."""

    def __init__(self, options: argparse.Namespace, batches: Loader, per_epoch: int, log: Any) -> None:
        super().__init__()
        self.options, self.batches, self.per_epoch, self.log = options, batches, per_epoch, log
        self.step, self.sums = 0, {"loss": 0.0, "accuracy": 0.0, "top5": 0.0}

    @property
    def epoch(self) -> int:
        return self.step // self.per_epoch

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        left = self.per_epoch - self.step % self.per_epoch
        self.progress = tqdm(total=left, desc=f"epoch {epoch}", disable=None, leave=False)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        keras.utils.set_random_seed(self.options.seed + self.step)  # so that a resume draws the same

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.sums = {name: value + logs[name] for name, value in self.sums.items()}
        self.model.reset_metrics()  # Keras would give the mean since the epoch's beginning, or since a resume
        self.step += 1
        self.progress.update()
        if self.log:
            print(json.dumps({"step": self.step, "loss": logs["loss"]}), file=self.log, flush=True)
        if self.step % self.options.checkpoint_every == 0 and self.step % self.per_epoch:
            self.save()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.progress.close()
        report = {"epoch": epoch, **{name: round(v / self.per_epoch, 4) for name, v in self.sums.items()}}
        self.sums = dict.fromkeys(self.sums, 0.0)
        if self.options.val_urls:
            with loader(self.options, training=False) as batches:
                found = self.model.evaluate(PyDataset(batches), verbose=0, return_dict=True)
            report |= {f"val_{name}": round(value, 4) for name, value in found.items()}
        print(json.dumps(report), flush=True)
        self.save()

    def save(self) -> None:
        if not self.options.checkpoint:
            return
        place = {"step": self.step, "sums": self.sums, "loader": self.batches.state_dict()}
        place["seeds"] = [keras.ops.convert_to_numpy(seed).tolist() for seed in seeds(self.model)]
        weights = f"{self.options.checkpoint}-{self.step}.keras"
        self.model.save(weights)
        with open(f"{self.options.checkpoint}.new", "w") as file:
            json.dump({"weights": weights, **place}, file)
        old = self.saved()
        os.replace(f"{self.options.checkpoint}.new", f"{self.options.checkpoint}.json")
        if old and old["weights"] != weights:
            os.remove(old["weights"])

    def saved(self) -> dict[str, Any] | None:
        """Give what was saved last; the file names the weights, so that both change at once."""
        name = f"{self.options.checkpoint}.json"
        if not self.options.checkpoint or not os.path.exists(name):
            return None
        with open(name) as file:
            return json.load(file)


def seeds(model: keras.Model) -> list[Any]:
    """Give what dropout draws from, which Keras does not save."""
    return [variable for variable in model.variables if variable.path.endswith("seed_generator_state")]


def train(options: argparse.Namespace) -> None:
    with ExitStack() as stack:
        batches = stack.enter_context(loader(options, training=True))
        log = stack.enter_context(open(options.losses, "a")) if options.losses else None
        course = Course(options, batches, len(batches), log)
        model = network(options, course.per_epoch * options.epochs)
        if saved := course.saved():
            model = keras.saving.load_model(saved["weights"])
            batches.load_state_dict(saved["loader"])
            course.step, course.sums = saved["step"], saved["sums"]
            for seed, value in zip(seeds(model), saved["seeds"], strict=True):
                seed.assign(value)
        while course.epoch < options.epochs:  # what is left of an epoch, then all others
            end = course.epoch + 1 if course.step % course.per_epoch else options.epochs
            data = PyDataset(batches)
            model.fit(data, initial_epoch=course.epoch, epochs=end, verbose=0, callbacks=[course])


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="ResNet50", help="a name in keras.applications")
    train(arguments.parse_args())


if __name__ == "__main__":
    main()
