"""Boxes in images: what a set says of an image, checked, and from the image to the batch and back."""

from dataclasses import dataclass

import torch
from PIL import Image, ImageOps
from torch import Tensor

# Of each image of a batch: `boxes` (N, 4) float32 as x1, y1, x2, y2 and `labels` (N,) int64, from 0.
Targets = list[dict[str, Tensor]]
# Of one image: as above, with `scores` (N,).
Detections = dict[str, Tensor]

# Boxes may stick out so far, in pixels: Pascal VOC counts pixels from 1.
_ROUNDING = 1.0
# What pads a batch.
_GREY = (128, 128, 128)


@dataclass
class Annotation:
    """What a set says of one image.

    Attributes:
        name: by which the image is known.
        size: (height, width).
        boxes: (N, 4) float32, x1, y1, x2, y2 in pixels of the image.
        labels: (N,) int64, positions in the class names.
        crowd: (N,) booleans: boxes around many objects, neither learnt nor counted as missed.
    """

    name: str
    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    crowd: Tensor


def checked(
    name: str,
    size: tuple[int, int],
    boxes: list[list[float]],
    labels: list[int | str],
    classes: list[str],
    crowd: list[bool] | None = None,
) -> tuple[Annotation, list[str]]:
    """The sound boxes of an image, and what is wrong with the others.

    A box that sticks out by no more than a pixel is cut; one that sticks out farther, is empty or has no known class is
    faulty.

    Args:
        name: of the image.
        size: (height, width).
        boxes: N of x1, y1, x2, y2.
        labels: N positions in `classes`, or names.
        classes: the class names.
        crowd: N booleans; default: none is.
    """
    height, width = size
    faults: list[str] = []
    kept: list[list[float]] = []
    kept_labels: list[int] = []
    kept_crowd: list[bool] = []
    for k, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        x1, y1, x2, y2 = box
        place = f"{name}: box {k + 1} ({', '.join(f'{value:g}' for value in box)})"
        number = label if isinstance(label, int) else classes.index(label) if label in classes else -1
        if not 0 <= number < len(classes):
            faults.append(f"{place} has the unknown class '{label}'")
        elif not (x2 > x1 and y2 > y1):
            faults.append(f"{place} is empty")
        elif min(x1, y1) < -_ROUNDING or x2 > width + _ROUNDING or y2 > height + _ROUNDING:
            faults.append(f"{place} sticks out of the image of {width}x{height} pixels")
        else:
            cut = [max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)]
            if cut[2] <= cut[0] or cut[3] <= cut[1]:
                faults.append(f"{place} is empty")
                continue
            kept.append(cut)
            kept_labels.append(number)
            kept_crowd.append(bool(crowd[k]) if crowd is not None else False)
    annotation = Annotation(
        name,
        size,
        torch.tensor(kept, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(kept_labels, dtype=torch.int64),
        torch.tensor(kept_crowd, dtype=torch.bool),
    )
    return annotation, faults


def scale_to_fit(
    image_size: tuple[int, int], batch_size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[float, float]]:
    """The size (height, width) that an image has within a batch, and by how much its (x, y) are multiplied."""
    height, width = image_size
    factor = min(batch_size[0] / height, batch_size[1] / width)
    fitted = max(1, min(batch_size[0], round(height * factor))), max(1, min(batch_size[1], round(width * factor)))
    return fitted, (fitted[1] / width, fitted[0] / height)


def fit(image: Image.Image, boxes: Tensor, batch_size: tuple[int, int]) -> tuple[Image.Image, Tensor]:
    """An image and its boxes as they are in a batch: resized whole, padded at the right and below.

    Args:
        image: of any size.
        boxes: (N, 4) in its pixels.
        batch_size: (height, width).
    """
    (height, width), factors = scale_to_fit((image.height, image.width), batch_size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    right, below = batch_size[1] - width, batch_size[0] - height
    return ImageOps.expand(resized, (0, 0, right, below), fill=_GREY), boxes * boxes.new_tensor(factors * 2)


def to_image(boxes: Tensor, image_size: tuple[int, int], batch_size: tuple[int, int]) -> Tensor:
    """Boxes (N, 4) of a batch in the pixels of the image itself, cut at its border: the way back of `fit`."""
    _, factors = scale_to_fit(image_size, batch_size)
    height, width = image_size
    return (boxes / boxes.new_tensor(factors * 2)).clamp(min=0).minimum(boxes.new_tensor([width, height] * 2))
