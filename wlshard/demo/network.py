"""A small 3-D network that labels voxels, its loss, and the Dice score."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812  (as all of torch's users write it)
from torch import Tensor, nn

WIDTHS = 16, 32, 64
SIDE = 2 ** len(WIDTHS)  # sides of volumes are multiples of this


class Segmenter(nn.Module):
    """A U-Net at half resolution, and a Gaussian mixture at full resolution that it is the prior of.

    Takes images (B, 1, D, H, W); gives logits (B, classes, D, H, W) and, for the loss, the U-Net's own at
    half the sides. The U-Net (Ronneberger et al. 2015, arXiv:1505.04597) says roughly what is where; from
    that the brightness of each class in this very image is measured, and each voxel is weighed against it,
    as in unified segmentation (Ashburner and Friston 2005, doi:10.1016/j.neuroimage.2005.02.018). Without
    the second part a minute on a CPU teaches where a head's parts usually lie, and no contrast.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        pairs = list(pairwise(WIDTHS))
        self.stem = nn.Conv3d(1, WIDTHS[0], 4, stride=2, padding=1)
        self.down = nn.ModuleList(nn.Sequential(_block(a, b, 2), _block(b, b)) for a, b in pairs)
        self.lift = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in reversed(pairs))
        self.up = nn.ModuleList(_block(a, a) for a, _ in reversed(pairs))
        self.head = nn.Conv3d(WIDTHS[0], classes, 1)
        self.mix = nn.Conv3d(2 * classes, classes, 1)
        with torch.no_grad():  # begin as a mixture model that trusts its prior three times as much
            self.mix.weight.copy_(
                torch.cat([torch.eye(classes), 0.3 * torch.eye(classes)], 1)[..., None, None, None]
            )
            self.mix.bias.zero_()  # type: ignore[union-attr]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(images)
        skipped: list[Tensor] = []
        for down in self.down:
            skipped.append(x)
            x = down(x)
        for lift, up in zip(self.lift, self.up, strict=True):
            x = up(F.interpolate(lift(x), scale_factor=2) + skipped.pop())
        coarse = self.head(x)
        prior = F.interpolate(coarse, scale_factor=2, mode="trilinear")
        return self.mix(torch.cat([prior, _likelihood(images, coarse)], 1)), coarse


def _likelihood(images: Tensor, coarse: Tensor) -> Tensor:
    """Give the log-likelihood of each voxel's brightness in each class, a Gaussian measured in this image."""
    seen, chance = F.avg_pool3d(images, 2), coarse.softmax(1)
    weight = chance.sum((2, 3, 4), keepdim=True) + 1e-3
    centre = (chance * seen).sum((2, 3, 4), keepdim=True) / weight
    spread = (chance * (seen - centre) ** 2).sum((2, 3, 4), keepdim=True) / weight + 1e-3
    return (-0.5 * ((images - centre) ** 2 / spread + spread.log())).clamp(-10, 5)


def _block(inner: int, outer: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv3d(inner, outer, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.InstanceNorm3d(outer, affine=True), nn.LeakyReLU(0.1, inplace=True))


def loss_of(found: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
    """Give the loss of what the network found, its half resolution counting half."""
    logits, coarse = found
    return _loss(logits, labels) + 0.5 * _loss(coarse, labels[:, ::2, ::2, ::2])


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Give cross-entropy plus one minus the soft Dice score (Milletari et al. 2016, arXiv:1606.04797)."""
    truth = F.one_hot(labels, logits.shape[1]).movedim(-1, 1)
    chance = logits.softmax(1)
    both = (chance * truth).sum((0, 2, 3, 4))
    either = chance.sum((0, 2, 3, 4)) + truth.sum((0, 2, 3, 4))
    overlap = (2 * both + 1) / (either + 1)
    return F.cross_entropy(logits, labels) + 1 - overlap[1:].mean()


def predict(network: nn.Module, images: Tensor) -> Tensor:
    """Label images (N, 1, D, H, W), one at a time; gives (N, D, H, W), uint8."""
    with torch.inference_mode():
        return torch.cat([network(image[None])[0].argmax(1).to(torch.uint8) for image in images])


def dice(found: Tensor, labels: Tensor, classes: int) -> list[float]:
    """Give the Dice score of each class but 0 over all volumes: 2 |A ∩ B| / (|A| + |B|)."""
    return [_overlap(found == label, labels == label) for label in range(1, classes)]


def _overlap(one: Tensor, other: Tensor) -> float:
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0
