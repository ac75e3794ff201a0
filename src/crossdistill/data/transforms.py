"""Augmentation of one image in a worker process, with torchvision's and timm's transforms."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import RandAugment, rand_augment_transform
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import pil_to_tensor

from crossdistill.data.augment import CROP_RATIO, PADDING_SHARE
from crossdistill.data.images import fit
from crossdistill.errors import UserError
from crossdistill.options import DataOptions

# What RandAugment fills uncovered corners with: the mean colour of ImageNet, as in timm.
_FILL = (124, 116, 104)


class TrainTransform:
    """Crop, flip, colour jitter and RandAugment of one image; random erasing follows on the device.

    Args:
        image_size: height and width of the outcome.
        options: `crop`, `crop_scale`, `flip`, `color_jitter` and `rand_augment` are read.

    Raises:
        UserError: the RandAugment policy cannot be read.
    """

    def __init__(self, image_size: tuple[int, int], options: DataOptions) -> None:
        self.image_size = image_size
        steps: list = []
        if options.crop == "resized":
            steps.append(
                transforms.RandomResizedCrop(
                    image_size, (options.crop_scale, 1.0), CROP_RATIO, InterpolationMode.BILINEAR
                )
            )
        else:
            steps.append(self._fit)
        if options.crop == "shifted":
            padding = [image_size[1] // PADDING_SHARE, image_size[0] // PADDING_SHARE]
            steps.append(transforms.RandomCrop(image_size, padding))
        if options.flip:
            steps.append(transforms.RandomHorizontalFlip(options.flip))
        if options.rand_augment:
            steps.append(_rand_augment(options.rand_augment, image_size))
        if options.color_jitter:
            steps.append(transforms.ColorJitter(*[options.color_jitter] * 3))
        self.steps = transforms.Compose(steps)

    def __call__(self, image: Image.Image, seed: int) -> Tensor:
        """(3, H, W) uint8, a function of the image and the seed; the global random states stay as they were."""
        with seeded(seed):
            return pil_to_tensor(self.steps(image))

    def _fit(self, image: Image.Image) -> Image.Image:
        return fit(image, self.image_size)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's, NumPy's and torch's CPU generators seeded within the block, and put back after it."""
    states = random.getstate(), np.random.get_state(), torch.random.default_generator.get_state()
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    # Not torch.manual_seed, which seeds the GPUs too.
    torch.random.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.default_generator.set_state(states[2])


def _rand_augment(policy: str, image_size: tuple[int, int]) -> RandAugment:
    try:
        augment = rand_augment_transform(policy, {"translate_const": int(0.45 * min(image_size)), "img_mean": _FILL})
    except (AssertionError, ValueError) as error:
        raise UserError(
            f"--rand_augment {policy} is no policy in timm's notation; give one like rand-m9-mstd0.5-inc1"
        ) from error
    for operation in augment.ops:
        if operation.name.startswith("Posterize"):
            operation.level_fn = partial(_at_least_one_bit, operation.level_fn)
    return augment


def _at_least_one_bit(level_fn: Callable, level: float, hparams: dict) -> tuple[int]:
    # timm's strongest posterisation leaves 0 bits: a black image in older Pillows, an error since Pillow 13.
    return (max(1, level_fn(level, hparams)[0]),)
