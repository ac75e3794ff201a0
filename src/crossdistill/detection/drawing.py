"""Boxes drawn on images."""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.ops import box_iou

from crossdistill.detection.boxes import Detections

FOUND, MISSED, INVENTED = "#2ca02c", "#ff9900", "#e0218a"
# Boxes that overlap by this much, and agree in class, are of one object.
_SAME_OBJECT = 0.5
# Smaller images are enlarged to this side, or their labels would hide them.
_LEAST_SIDE = 320


def draw_found(image: Image.Image, found: Detections, classes: Sequence[str], min_score: float) -> Image.Image:
    """An image with what was found in it, class and score at each box.

    Args:
        image: RGB.
        found: boxes (N, 4) in pixels of the image, scores and labels (N,).
        classes: the class names.
        min_score: boxes with a lower score are left out.
    """
    shown = found["scores"] >= min_score
    labels, scores = found["labels"][shown].tolist(), found["scores"][shown].tolist()
    texts = [f"{classes[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    return _draw(image, found["boxes"][shown], texts, [FOUND] * len(texts))


def draw_judged(
    image: Image.Image, found: Detections, truth: Detections, classes: Sequence[str], min_score: float
) -> Image.Image:
    """An image with what was found (green), missed (orange) and invented (magenta).

    Args:
        image: RGB.
        found: as for `draw_found`.
        truth: the boxes and labels that are there.
        classes: the class names.
        min_score: boxes with a lower score count as not found.
    """
    shown = found["scores"] >= min_score
    boxes, labels = found["boxes"][shown], found["labels"][shown]
    right, missed = judge(boxes, labels, truth)
    texts = [classes[label] for label in [*labels.tolist(), *truth["labels"][missed].tolist()]]
    colours = [FOUND if hit else INVENTED for hit in right.tolist()] + [MISSED] * int(missed.sum())
    return _draw(image, torch.cat([boxes, truth["boxes"][missed]]), texts, colours)


def judge(boxes: Tensor, labels: Tensor, truth: Detections) -> tuple[Tensor, Tensor]:
    """Which boxes are of an object that is there, each object once, and which objects have none.

    Args:
        boxes: (N, 4), best first.
        labels: (N,).
        truth: `boxes` (M, 4) and `labels` (M,).

    Returns:
        (N,) and (M,) booleans.
    """
    overlap = box_iou(boxes, truth["boxes"]) * (labels[:, None] == truth["labels"][None])
    right = torch.zeros(len(boxes), dtype=torch.bool)
    missed = torch.ones(len(truth["boxes"]), dtype=torch.bool)
    for k in range(len(boxes)):
        left = overlap[k] * missed
        if len(left) and left.max() >= _SAME_OBJECT:
            right[k], missed[left.argmax()] = True, False
    return right, missed


def _draw(image: Image.Image, boxes: Tensor, texts: list[str], colours: list[str]) -> Image.Image:
    factor = max(1, -(-_LEAST_SIDE // max(image.size)))
    drawn = image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(drawn)
    for box, text, colour in zip((boxes * factor).tolist(), texts, colours, strict=True):
        draw.rectangle(box, outline=colour, width=2)
        place = (box[0] + 3, max(0.0, box[1] - 12))
        draw.rectangle(draw.textbbox(place, text), fill="#000000")
        draw.text(place, text, fill=colour)
    return drawn
