"""Label smoothing, mixup and CutMix of a batch."""

import random

import torch.nn.functional as F
from torch import Tensor

from crossdistill.data.draws import MIX, seed_of


class Mixer:
    """Mixes each image with its neighbour in the batch, and smooths the labels.

    Partners are adjacent pairs (0 with 1, 2 with 3, ...), and the one share, box and choice of a step are drawn from
    (data seed, step) alone: the outcome does not depend on how a global batch is split over devices and accumulation.

    mixup: Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018. CutMix: Yun et al., "CutMix:
    Regularization strategy to train strong classifiers with localizable features", ICCV 2019.

    Args:
        num_classes: K.
        label_smoothing: share of a label that is spread evenly over all K classes.
        mixup: both parameters of the Beta distribution of the share; 0 is off.
        cutmix: the same for CutMix; where both are on, one is chosen for a step, each half of the time.
        data_seed: seed of the draws.
    """

    def __init__(self, num_classes: int, label_smoothing: float, mixup: float, cutmix: float, data_seed: int) -> None:
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.mixup = mixup
        self.cutmix = cutmix
        self.data_seed = data_seed

    def __call__(self, images: Tensor, labels: Tensor, *, step: int) -> tuple[Tensor, Tensor]:
        """One batch, or one device's part of it.

        Args:
            images: (B, 3, H, W); B even where mixing is on.
            labels: (B,) class indices; None where there are none, and stays so.
            step: number of the optimiser step.

        Returns:
            images (B, 3, H, W) and labels: (B,) untouched where nothing is on, else (B, K) soft labels.
        """
        if not (self.mixup or self.cutmix):
            return images, self._soften(labels) if self.label_smoothing and labels is not None else labels
        assert len(images) % 2 == 0, "the loader admits only even batches where mixing is on"
        draw = random.Random(seed_of(MIX, self.data_seed, step))
        use_cutmix = draw.random() < 0.5 if self.mixup and self.cutmix else bool(self.cutmix)
        alpha = self.cutmix if use_cutmix else self.mixup
        share = draw.betavariate(alpha, alpha)
        partners = _swap_pairs(images)
        if use_cutmix:
            top, bottom, left, right = _box(draw, images.shape[-2], images.shape[-1], 1 - share)
            images = images.clone()
            images[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
            # The box is cut at the border; labels follow the pixels that were really taken.
            share = 1 - (bottom - top) * (right - left) / (images.shape[-2] * images.shape[-1])
        else:
            images = share * images + (1 - share) * partners
        if labels is None:
            return images, labels
        labels = self._soften(labels)
        return images, share * labels + (1 - share) * _swap_pairs(labels)

    def _soften(self, labels: Tensor) -> Tensor:
        one_hot = F.one_hot(labels, self.num_classes).float()
        return one_hot * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes


def _swap_pairs(batch: Tensor) -> Tensor:
    """Each entry's neighbour: 0 and 1 change places, 2 and 3, ..."""
    return batch.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def _box(draw: random.Random, height: int, width: int, area: float) -> tuple[int, int, int, int]:
    """top, bottom, left, right of a box with this share of the area, centred anywhere and cut at the border."""
    half_height, half_width = height * area**0.5 / 2, width * area**0.5 / 2
    y, x = draw.random() * height, draw.random() * width
    return (
        max(0, round(y - half_height)),
        min(height, round(y + half_height)),
        max(0, round(x - half_width)),
        min(width, round(x + half_width)),
    )
