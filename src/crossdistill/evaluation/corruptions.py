"""Common corruptions of validation images, at five severities each.

Hendrycks, Dietterich: Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (ICLR 2019): eight
of its fifteen, those that need no picture of frost and no motion model. Strengths are the paper's: of CIFAR-10-C for
images below 96 pixels, of ImageNet-C above. The published sets hold JPEG files of images that were corrupted at another
size, so results here compare models with each other, not with published tables.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur, jpeg, pil_to_tensor, to_pil_image

from crossdistill.data import draws
from crossdistill.data.loaders import Batch
from crossdistill.evaluation.accuracy import evaluate
from crossdistill.staged import StagedModel

SEVERITIES = range(1, 6)
# Sides below this take the strengths of CIFAR-10-C.
_LARGE = 96


def _gaussian_noise(images: Tensor, strength: float, generators: list[torch.Generator]) -> Tensor:
    return images + strength * _each(generators, lambda g: torch.randn(images.shape[1:], generator=g)).to(images)


def _shot_noise(images: Tensor, strength: float, generators: list[torch.Generator]) -> Tensor:
    photons = [torch.poisson(i * strength, generator=g) for i, g in zip(images.cpu(), generators, strict=True)]
    return torch.stack(photons).to(images) / strength


def _impulse_noise(images: Tensor, strength: float, generators: list[torch.Generator]) -> Tensor:
    drawn = _each(generators, lambda g: torch.rand(images.shape[1:], generator=g)).to(images)
    # Half of the changed values are salt, half pepper.
    return torch.where(drawn < strength, (drawn < strength / 2).to(images), images)


def _gaussian_blur(images: Tensor, strength: float, _: list[torch.Generator]) -> Tensor:
    side = 2 * min(round(4 * strength), (min(images.shape[2:]) - 1) // 2) + 1
    return gaussian_blur(images, [side, side], [strength, strength])


def _brightness(images: Tensor, strength: float, _: list[torch.Generator]) -> Tensor:
    # The value of HSV is the largest channel; hue and saturation stay.
    value = images.amax(dim=1, keepdim=True)
    brighter = (value + strength).clamp(max=1.0)
    return torch.where(value > 0, images * brighter / value.clamp(min=1e-6), brighter)


def _contrast(images: Tensor, strength: float, _: list[torch.Generator]) -> Tensor:
    mean = images.mean(dim=(2, 3), keepdim=True)
    return mean + strength * (images - mean)


def _jpeg_compression(images: Tensor, strength: float, _: list[torch.Generator]) -> Tensor:
    return _each_as_bytes(images, lambda pixels: jpeg(pixels, int(strength)))


def _pixelate(images: Tensor, strength: float, _: list[torch.Generator]) -> Tensor:
    height, width = images.shape[2:]

    def change(pixels: Tensor) -> Tensor:
        # The box filter of Pillow weighs pixels as the paper's code does; PyTorch has no equal to it.
        picture = to_pil_image(pixels)
        coarse = picture.resize((int(width * strength), int(height * strength)), Image.Resampling.BOX)
        return pil_to_tensor(coarse.resize((width, height), Image.Resampling.BOX))

    return _each_as_bytes(images, change)


def _each_as_bytes(images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    pixels = (images * 255).round().byte().cpu()
    return torch.stack([change(image) for image in pixels]).to(images) / 255


def _each(generators: list[torch.Generator], draw: Callable[[torch.Generator], Tensor]) -> Tensor:
    return torch.stack([draw(generator) for generator in generators])


# What it does, its strengths on small images, and on large ones.
_TABLE: dict[
    str, tuple[Callable[[Tensor, float, list[torch.Generator]], Tensor], tuple[float, ...], tuple[float, ...]]
] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0), (1, 2, 3, 4, 6)),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "jpeg_compression": (_jpeg_compression, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
}
CORRUPTIONS = tuple(_TABLE)


def corrupt(images: Tensor, name: str, severity: int, indices: Tensor) -> Tensor:
    """Corrupt images; what is random is a function of the corruption, the severity and the image alone.

    Args:
        images: (B, 3, H, W) in [0, 1].
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        indices: (B,) positions of the images in the data set.

    Returns:
        (B, 3, H, W) in [0, 1], rounded to the 256 levels that a file would hold.
    """
    change, small, large = _TABLE[name]
    strength = (small if min(images.shape[2:]) < _LARGE else large)[severity - 1]
    kind = 10 * CORRUPTIONS.index(name) + severity
    generators = [
        torch.Generator().manual_seed(draws.seed_of(draws.CORRUPT, 0, kind, index)) for index in indices.tolist()
    ]
    return (change(images, strength, generators).clamp(0, 1) * 255).round() / 255


class CorruptedBatches:
    """The batches of an evaluation loader, corrupted.

    Args:
        batches: every image once.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
    """

    def __init__(self, batches: Iterable[Batch], name: str, severity: int) -> None:
        self.batches, self.name, self.severity = batches, name, severity

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            yield replace(batch, images=corrupt(batch.images, self.name, self.severity, batch.indices))


def corrupted_top1(
    model: StagedModel,
    batches: Iterable[Batch],
    track: Callable[[Sequence[tuple[str, int]]], Iterable[tuple[str, int]]] = iter,
) -> dict[str, list[float]]:
    """Top-1 in percent under each common corruption, at severities 1 to 5.

    Args:
        model: on the device of the batches.
        batches: every clean image once, again for each corruption and severity.
        track: shows progress over the pairs of corruption and severity.
    """
    top1: dict[str, list[float]] = {name: [] for name in CORRUPTIONS}
    for name, severity in track([(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]):
        top1[name].append(evaluate(model, CorruptedBatches(batches, name, severity))["top1"])
    return top1
