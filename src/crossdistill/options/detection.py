"""Options of object detection."""

from dataclasses import dataclass
from typing import Literal

from crossdistill.options.values import PositiveInt, Share


@dataclass
class DetectionOptions:
    """The task, and what is particular to object detection."""

    task: Literal["classification", "detection"] = "classification"
    """what is learnt of an image: its class, or the boxes and classes of the objects in it."""
    detector: Literal["faster_rcnn", "retinanet", "fcos"] = "fcos"
    """head of the student, one of torchvision's."""
    pyramid_channels: PositiveInt = 256
    """channels of every level of the student's feature pyramid."""
    score_threshold: Share = 0.05
    """boxes with a lower score are not given, nor counted."""
    boxes: Literal["refuse", "skip"] = "refuse"
    """what a box outside of its image, an empty one, one of an unknown class, or a missing image does: stop before
    training, or be left out and counted."""
