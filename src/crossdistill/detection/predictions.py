"""What models find in images, as files: `detections.json` of a run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from crossdistill.detection.boxes import Detections
from crossdistill.detection.sources import DetectionData
from crossdistill.errors import UserError
from crossdistill.files import written_whole


@dataclass
class FoundBoxes:
    """What the models of a run found in the validation images.

    Attributes:
        classes: K names.
        images: N names.
        truth: of each image, its boxes and labels.
        student: of each image, boxes, scores and labels.
        teacher: as `student`; None without a teacher that finds boxes.
    """

    classes: list[str]
    images: list[str]
    truth: list[Detections]
    student: list[Detections]
    teacher: list[Detections] | None


def write_detections(
    path: Path, data: DetectionData, student: dict[int, Detections], teacher: dict[int, Detections] | None
) -> None:
    """Write what was found in each validation image, in its own pixels.

    Args:
        path: the file.
        data: the data set.
        student: of each image by its position, `boxes` (N, 4), `scores` and `labels` (N,).
        teacher: as `student`.
    """
    source = data.validation
    content = {
        "classes": data.classes,
        "images": source.names,
        "truth": [as_json(one.boxes, one.labels) for one in source.annotations],
        "student": [_found_as_json(student[k]) for k in range(len(source))],
        "teacher": None if teacher is None else [_found_as_json(teacher[k]) for k in range(len(source))],
    }
    with written_whole(path) as beside:
        beside.write_text(json.dumps(content) + "\n")


def read_detections(path: Path) -> FoundBoxes:
    """What `write_detections` wrote.

    Raises:
        UserError: the file is not there, or damaged.
    """
    try:
        content = json.loads(path.read_text())
        parts = {
            key: None if content[key] is None else [_from_json(image) for image in content[key]]
            for key in ("truth", "student", "teacher")
        }
        return FoundBoxes(content["classes"], content["images"], **parts)  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is missing or damaged ({' '.join(str(error).split())})") from error


def as_json(boxes: torch.Tensor, labels: torch.Tensor, scores: torch.Tensor | None = None) -> list[dict[str, Any]]:
    """Boxes as plain values: `box` as x1, y1, x2, y2 to a hundredth of a pixel, `class` as a position, `score`."""
    listed: list[dict[str, Any]] = []
    for k, (box, label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True)):
        one: dict[str, Any] = {"box": [round(value, 2) for value in box], "class": label}
        if scores is not None:
            one["score"] = round(scores[k].item(), 5)
        listed.append(one)
    return listed


def _found_as_json(found: Detections) -> list[dict[str, Any]]:
    return as_json(found["boxes"], found["labels"], found["scores"])


def _from_json(image: list[dict[str, Any]]) -> Detections:
    return {
        "boxes": torch.tensor([one["box"] for one in image], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([one["class"] for one in image], dtype=torch.int64),
        "scores": torch.tensor([one.get("score", 1.0) for one in image], dtype=torch.float32),
    }
