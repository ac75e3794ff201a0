"""Augmentation of an image together with its boxes, with torchvision's transforms."""

import math
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.functional import pil_to_tensor

from crossdistill.data.transforms import seeded
from crossdistill.detection.boxes import Annotation, fit
from crossdistill.errors import UserError
from crossdistill.options import DataOptions

# As in torchvision's recipe for SSD, which leaves more of an image: up to this many times its sides are shown.
_LARGEST_ZOOM = 2.0
_FILL = 128
# Boxes that a crop leaves less of, in pixels, are no objects any more.
_LEAST_SIDE = 2
# What changes labels of an image and has no meaning for boxes, with the value that leaves it off.
_FOR_CLASSES: dict[str, Any] = {
    "mixup": 0.0,
    "cutmix": 0.0,
    "label_smoothing": 0.0,
    "random_erasing": 0.0,
    "rand_augment": None,
    "repeated_augmentation": 1,
    "images_per_class": None,
}


class BoxTransform:
    """Zoom out, crop, flip and colour of an image with its boxes, then its place in the batch.

    The crop is that of SSD (Liu et al., ECCV 2016): one that overlaps with the objects by a share drawn for it.

    Args:
        image_size: (height, width) of the batch.
        options: `crop` (`resized` or `none`), `crop_scale`, `flip` and `color_jitter` are read.

    Raises:
        UserError: an augmentation that there is not for boxes.
    """

    def __init__(self, image_size: tuple[int, int], options: DataOptions) -> None:
        check_augmentation(options)
        self.image_size = image_size
        steps: list[Any] = []
        if options.color_jitter:
            steps.append(v2.ColorJitter(*[options.color_jitter] * 3))
        if options.crop == "resized":
            steps.append(v2.RandomZoomOut(_FILL, (1.0, _LARGEST_ZOOM)))
            steps.append(v2.RandomIoUCrop(min_scale=math.sqrt(options.crop_scale)))
        if options.flip:
            steps.append(v2.RandomHorizontalFlip(options.flip))
        steps.append(v2.SanitizeBoundingBoxes(min_size=_LEAST_SIDE))
        self.steps = v2.Compose(steps)

    def __call__(self, image: Image.Image, annotation: Annotation, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Pixels (3, H, W) uint8 and the target, a function of the image and the seed.

        The global random states stay as they were. Boxes around crowds are not learnt.
        """
        single = ~annotation.crowd
        sample = {
            "image": image,
            "boxes": tv_tensors.BoundingBoxes(
                annotation.boxes[single], format="XYXY", canvas_size=(image.height, image.width)
            ),
            "labels": annotation.labels[single],
        }
        with seeded(seed):
            sample = self.steps(sample)
        fitted, boxes = fit(sample["image"], sample["boxes"].as_subclass(torch.Tensor), self.image_size)
        return pil_to_tensor(fitted), {"boxes": boxes, "labels": sample["labels"]}


def check_augmentation(options: DataOptions) -> None:
    """Refuse augmentations that there are not for boxes.

    Raises:
        UserError: naming the option.
    """
    for name, off in _FOR_CLASSES.items():
        if getattr(options, name) != off:
            raise UserError(f"--{name} is for classification: leave it out with --task detection")
    if options.crop == "shifted":
        raise UserError("--crop shifted is for classification: give resized or none with --task detection")
