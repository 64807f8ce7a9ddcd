"""Train a small segmentation network on a pool while it is being filled: `python -m wlshard.demo.train POOL`.

Ends after `--seconds`, or on SIGINT or SIGTERM with what there is by then: Dice before and after, a table
of what went through the pool, and a picture.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from wlshard import clock
from wlshard.demo.brains import SIZE, generate, load_atlas
from wlshard.demo.figure import draw, why_no_picture
from wlshard.demo.network import SIDE, Segmenter, dice, loss_of, predict
from wlshard.demo.phantom import CLASSES
from wlshard.demo.summary import Course, pool_rows, score_rows
from wlshard.errors import UsageError, WlshardError
from wlshard.loader import Loader
from wlshard.seeds import seed_of

Volume: TypeAlias = np.ndarray[Any, Any]  # (D, H, W), or a batch of them

FIELDS = "img.npy seg.npy"
LARGEST = 64  # sides above this are thinned out: each second voxel of 128³, each fourth of 256³
HELD_OUT = 8  # volumes that are never trained on
LOOKS = 10  # times that they are looked at
LINE_S = 1.0
LEARNING_RATE = 0.01  # peak; the best of 0.005, 0.01 and 0.02 for AdamW here
INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    options = _parse(argv)
    try:
        return run(options)
    except WlshardError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return error.code
    except KeyboardInterrupt:
        return INTERRUPTED


def run(options: argparse.Namespace) -> int:
    """Train, then say how it went."""
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classes = 1 + int(load_atlas(options.atlas, options.size).target.max())
    names = CLASSES[1:] if options.atlas is None else [f"label {label}" for label in range(1, classes)]
    images, labels = (part.to(device) for part in held_out(options.seed, options.size, options.atlas))
    network = Segmenter(classes).to(device)
    if missing := why_no_picture():
        say(missing)
    say(f"{sum(p.numel() for p in network.parameters()):,} parameters, waiting for {options.pool}")

    def score() -> list[float]:
        return dice(predict(network, images), labels, classes)

    course = Course(scores=[(0.0, score())])
    train(network, options, course, score)
    course.scores.append((course.losses[-1][0] if course.losses else 0.0, score()))
    say("", *_table(score_rows(course, names)), "", *_table(pool_rows(options.pool, course.stats)))
    if not missing:
        found = predict(network, images[:1])[0]
        path = draw(options.out, course, names, *(t.cpu().numpy() for t in (images[0, 0], labels[0], found)))
        say("", f"The picture is {path}")
    return INTERRUPTED if course.interrupted else 0


def train(
    network: Segmenter,
    options: argparse.Namespace,
    course: Course,
    score: Callable[[], list[float]],
) -> None:
    """Train until the time or the steps are over; notes in `course` as it goes, so that ^C loses nothing."""
    loader = Loader(
        options.pool, FIELDS, batch_size=options.batch_size, shuffle=options.shuffle, seed=options.seed,
        transform=lambda volumes: tuple(thinned(volume, options.size) for volume in volumes),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    with loader, _signals_interrupt():
        try:
            began = line = math.inf
            done = 0.0
            for batch in loader.epochs():
                began = min(began, clock.monotonic())  # the time before the first batch is not training
                loss = _step(network, optimizer, batch, done)
                now = clock.monotonic()
                course.losses.append((now - began, loss))
                done = (
                    len(course.losses) / options.steps if options.steps else (now - began) / options.seconds
                )
                if done >= 1:
                    break
                if done * LOOKS >= len(course.scores):
                    course.scores.append((now - began, score()))
                if len(course.losses) == 1 or now >= line:
                    line = now + LINE_S
                    say(_progress(course, loader.stats()))
        except KeyboardInterrupt:
            course.interrupted = True
            say("interrupted: this is what there is")
        course.stats = loader.stats()


def _step(network: Segmenter, optimizer: torch.optim.Optimizer, batch: Any, done: float) -> float:
    """Learn from one batch at this share of the training; gives the loss."""
    for group in optimizer.param_groups:  # a short warm-up, then half a cosine
        group["lr"] = LEARNING_RATE * min(1, 0.1 + done / 0.05) * (0.5 + 0.5 * math.cos(math.pi * done))
    device = network.head.weight.device
    loss = loss_of(network(_to_images(batch[0]).to(device)), _to_labels(batch[1]).to(device))
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.item()


def held_out(seed: int, size: int, atlas: str | None) -> tuple[Tensor, Tensor]:
    """Make volumes that no generator makes: images (N, 1, D, H, W) and labels (N, D, H, W)."""
    volumes = generate(np.random.default_rng(seed_of(seed, "held out")), size=size, atlas=atlas)
    samples = [next(volumes) for _ in range(HELD_OUT)]
    images, labels = ([thinned(sample[name], size) for sample in samples] for name in FIELDS.split())
    return _to_images(np.stack(images)), _to_labels(np.stack(labels))


def thinned(volume: Volume, size: int) -> Volume:
    """Take each n-th voxel of a volume, so that its sides are LARGEST at most and fit the network."""
    if volume.shape != (size, size, size):
        raise UsageError(
            f"the pool has a volume of {volume.shape}, not of the {size} voxels a side of --size"
        )
    every = -(-size // LARGEST)
    end = len(range(0, size, every)) // SIDE * SIDE * every
    return np.ascontiguousarray(volume[:end:every, :end:every, :end:every])


def _to_images(volumes: Volume) -> Tensor:
    scale = 1 / 255 if volumes.dtype == np.uint8 else 1
    return torch.from_numpy(volumes).to(torch.float32).mul_(scale)[:, None]


def _to_labels(volumes: Volume) -> Tensor:
    return torch.from_numpy(volumes).long()


def _progress(course: Course, stats: dict[str, Any]) -> str:
    seconds, loss = course.losses[-1]
    score = course.mean()
    return (
        f"{seconds:4.0f} s  step {len(course.losses):4d}  loss {loss:.2f}  Dice {score:.2f}"
        f"  generation {stats['generation']}  epoch {stats['epoch']}  waited {stats['waited_s']:.1f} s"
    )


def _table(rows: list[tuple[str, str]]) -> list[str]:
    """Lay out names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def say(*lines: str) -> None:
    """Print lines; on a terminal each clears what is there, the status line of wl-run."""
    begin = "\r\x1b[K" if sys.stdout.isatty() else ""
    with suppress(BrokenPipeError):
        sys.stdout.write("".join(f"{begin}{line}\n" for line in lines))
        sys.stdout.flush()


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM interrupt as SIGINT does; once one of them came, SIGTERM is over: the rest is short."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before[0])
        if signal.getsignal(signal.SIGTERM) is interrupt:
            signal.signal(signal.SIGTERM, before[1])


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m wlshard.demo.train", description=__doc__)
    parser.add_argument("pool", nargs="?", default=os.environ.get("WL_POOL"), help="default: $WL_POOL")
    parser.add_argument("--seconds", type=float, default=60, help="of training (default %(default)s)")
    parser.add_argument("--steps", type=int, help="end after so many instead")
    parser.add_argument("--size", type=int, default=SIZE, help="voxels a side (default %(default)s)")
    parser.add_argument("--atlas", help="the atlas that the generators use (default: the phantom)")
    parser.add_argument("--batch-size", type=int, default=2, help="default %(default)s")
    parser.add_argument("--shuffle", type=int, default=100, help="samples mixed (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--out", default="demo-report", help="folder of the picture (default %(default)s)")
    half = max(1, (os.cpu_count() or 2) // 2)
    parser.add_argument("--threads", type=int, default=half, help="default: half of the cores")
    options = parser.parse_args(argv)
    if options.pool is None:
        parser.error("say which POOL, or set WL_POOL")
    return options


if __name__ == "__main__":
    sys.exit(main())
