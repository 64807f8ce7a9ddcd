#!/usr/bin/env python
"""Train a ResNet on tar shards with PyTorch: WebLoader's script on today's libraries.

    python notebooks/pytorch-resnet50.py --training-urls 'train-{0000..0147}.tar' --val-urls 'val-{0..6}.tar'
    torchrun --nproc-per-node 8 notebooks/pytorch-resnet50.py …       # a process for each GPU; CPUs by gloo

Shards are files, http://, gs:// or s3:// URLs, or a pool. With --checkpoint FILE the run is saved every
--checkpoint-every steps, and the same command goes on behind the step saved last, with the same losses. Most
options, and the batches, come from photographs.py beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from photographs import loader, parser
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
LAYERS = {"resnet18": (False, (2, 2, 2, 2)), "resnet50": (True, (3, 4, 6, 3))}


class Block(nn.Module):
    """Two convolutions and a way around them; three, the middle one narrow, if `deep` (He et al. 2015)."""

    def __init__(self, inner: int, width: int, stride: int, deep: bool) -> None:
        super().__init__()
        outer = width * 4 if deep else width
        shape = [(1, inner, width, 1), (3, width, width, stride), (1, width, outer, 1)]
        if not deep:
            shape = [(3, inner, width, stride), (3, width, outer, 1)]
        layers = [layer for size, a, b, step in shape for layer in (*conv(size, a, b, step), nn.ReLU(True))]
        nn.init.zeros_(layers[-2].weight)  # begins as the way around
        self.body = nn.Sequential(*layers[:-1])
        same = inner == outer and stride == 1
        self.around = nn.Identity() if same else nn.Sequential(*conv(1, inner, outer, stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.around(x))


def conv(size: int, inner: int, outer: int, stride: int) -> tuple[nn.Module, nn.Module]:
    layer = nn.Conv2d(inner, outer, size, stride, size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer, nn.BatchNorm2d(outer)


def resnet(name: str, classes: int) -> nn.Module:
    deep, counts = LAYERS[name]
    layers = [*conv(7, 3, 64, 2), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)]
    inner = 64
    for stage, count in enumerate(counts):
        for number in range(count):
            stride = 2 if stage and not number else 1
            layers.append(Block(inner, 64 << stage, stride, deep))
            inner = (64 << stage) * (4 if deep else 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inner, classes))


class Run:
    """What is trained, how far it is, and the sums of the epoch: loss, top-1, top-5, samples."""

    def __init__(self, options: argparse.Namespace, device: torch.device, world: int) -> None:
        torch.manual_seed(options.seed)
        model = resnet(options.model, options.classes).to(device, memory_format=torch.channels_last)
        self.model = DistributedDataParallel(model) if world > 1 else model
        self.optimizer = torch.optim.SGD(
            model.parameters(), options.lr, options.momentum, weight_decay=options.weight_decay, nesterov=True
        )
        self.options, self.device, self.world = options, device, world
        self.epoch, self.step = 0, 0
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)

    def learn(self, images: Tensor, labels: Tensor, steps: int) -> float:
        warm, done = min(1.0, (self.step + 1) / (0.05 * steps + 1)), self.step / steps
        for group in self.optimizer.param_groups:  # a short warm-up, then half a cosine
            group["lr"] = self.options.lr * warm * (0.5 + 0.5 * math.cos(math.pi * done))
        loss = self.look(images, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def look(self, images: Tensor, labels: Tensor) -> Tensor:
        mean, spread = (torch.tensor(v, device=self.device).view(3, 1, 1) * 255 for v in (MEAN, SPREAD))
        found = self.model((images.permute(0, 3, 1, 2) - mean) / spread)
        loss = F.cross_entropy(found, labels)
        right = found.detach().topk(min(5, found.shape[1])).indices == labels[:, None]
        count = len(labels)
        seen = torch.stack([loss.detach() * count, right[:, 0].sum(), right.sum(), torch.tensor(count)])
        self.sums += seen.to(self.sums)
        return loss

    def scores(self) -> dict[str, float]:
        """Give the means over all ranks since the last call."""
        sums, self.sums = self.sums, torch.zeros_like(self.sums)
        if self.world > 1:
            dist.all_reduce(sums)
        loss, top1, top5, count = sums.tolist()
        return {"loss": loss / count, "top1": top1 / count, "top5": top5 / count}

    def save(self, batches: Any) -> None:
        if not self.options.checkpoint or int(os.environ.get("RANK", 0)):
            return
        model = self.model.module if self.world > 1 else self.model
        parts = {"model": model.state_dict(), "optimizer": self.optimizer.state_dict(), "sums": self.sums}
        place = {"epoch": self.epoch, "step": self.step, "loader": batches.state_dict()}
        torch.save({**parts, **place}, f"{self.options.checkpoint}.new")
        os.replace(f"{self.options.checkpoint}.new", self.options.checkpoint)

    def resume(self, batches: Any) -> None:
        if not self.options.checkpoint or not os.path.exists(self.options.checkpoint):
            return
        saved = torch.load(self.options.checkpoint, map_location=self.device, weights_only=True)
        (self.model.module if self.world > 1 else self.model).load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        batches.load_state_dict(saved["loader"])
        self.epoch, self.step, self.sums = saved["epoch"], saved["step"], saved["sums"]


def train(options: argparse.Namespace, device: torch.device, rank: int, world: int) -> None:
    with ExitStack() as stack:
        batches = stack.enter_context(loader(options, True, world).to(device))
        steps = len(batches) * options.epochs
        run = Run(options, device, world)
        run.resume(batches)
        log = stack.enter_context(open(options.losses, "a")) if options.losses and not rank else None
        while run.epoch < options.epochs:
            run.model.train()
            progress = tqdm(batches, f"epoch {run.epoch}", disable=True if rank else None, leave=False)
            for images, labels in progress:
                loss = run.learn(images, labels, steps)
                if log:
                    print(json.dumps({"step": run.step, "loss": loss}), file=log, flush=True)
                if run.step % options.checkpoint_every == 0:
                    run.save(batches)
            report = {"epoch": run.epoch, **{name: round(v, 4) for name, v in run.scores().items()}}
            if options.val_urls:
                report |= {f"val_{name}": round(v, 4) for name, v in validate(run, options).items()}
            run.epoch += 1
            run.save(batches)
            if not rank:
                print(json.dumps(report), flush=True)


def validate(run: Run, options: argparse.Namespace) -> dict[str, float]:
    run.model.eval()
    with torch.inference_mode(), loader(options, False, run.world).to(run.device) as batches:
        for images, labels in batches:
            run.look(images, labels)
    return run.scores()


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", choices=LAYERS, default="resnet50")
    arguments.add_argument("--weight-decay", type=float, default=5e-5)
    options = arguments.parse_args()
    world = int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    try:
        train(options, device, int(os.environ.get("RANK", 0)), world)
    finally:
        if world > 1:
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
