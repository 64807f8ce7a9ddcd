"""What the training scripts beside this file have in common: their options, and batches of photographs."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import cv2
import numpy as np

from wlshard import Loader

Image = np.ndarray[Any, np.dtype[np.uint8]]


def square(sample: tuple[Image, int], rng: np.random.Generator, size: int, anywhere: bool) -> Any:
    """Cut a square out, in training anywhere, of any size and mirrored half of the time."""
    image, label = sample
    side, mirror = min(image.shape[:2]), 1
    if anywhere:
        side, mirror = int(side * rng.uniform(0.5, 1)), int(rng.choice([-1, 1]))
    y, x = (rng.integers(n - side + 1) if anywhere else (n - side) // 2 for n in image.shape[:2])
    cut = image[y : y + side, x : x + side]
    return cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA)[:, ::mirror], label


def loader(options: argparse.Namespace, training: bool, world: int = 1) -> Loader:
    """Give batches of uint8 images (N, H, W, C) and int64 labels, shuffled and cut anywhere in training."""
    size = options.training_size if training else options.val_size
    return Loader(
        options.training_urls if training else options.val_urls,
        "jpg;jpeg;png;ppm cls",
        decode="rgb8",
        transform=partial(square, size=options.image_size, anywhere=training),
        batch_size=options.batch_size,
        shuffle=options.shuffle if training else 0,
        batches=None if size is None else max(1, size // (options.batch_size * world)),
        drop_last=training,
        workers=options.processes,
        seed=options.seed,
        http_proxy=options.http_proxy,
    )


def parser(about: str | None) -> argparse.ArgumentParser:
    """Give the options that both scripts have."""
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("--training-urls", required=True, help="shards, a folder or a pool")
    size = "samples in an epoch (default: all; needed where none can count them)"
    add("--training-size", type=int, help=size)
    add("--val-urls")
    add("--val-size", type=int)
    add("--classes", type=int, default=1000)
    add("--image-size", type=int, default=224)
    add("--batch-size", type=int, default=64, help="of each process")
    add("--epochs", type=int, default=90)
    add("--lr", type=float, default=0.1)
    add("--momentum", type=float, default=0.9)
    add("--processes", type=int, default=2, help="that decode, for each process that trains")
    add("--shuffle", type=int, default=10_000, help="samples held to be mixed")
    add("--seed", type=int, default=0)
    add("--http-proxy", help="a web cache, such as http://proxy:3128")
    add("--checkpoint", help="what the run is saved in, and goes on from")
    add("--checkpoint-every", type=int, default=500, help="steps")
    add("--losses", help="file for a line of JSON a step: step, loss")
    return found
