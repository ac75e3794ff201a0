"""What can be wrong with a teacher, found before training instead of after it."""

import math
from typing import Any

import torch

from crossdistill.data import EvalLoader, ImageData
from crossdistill.errors import UserError
from crossdistill.evaluation.accuracy import evaluate
from crossdistill.staged import StagedModel

# A fixed seed, so that the same run is refused or let through every time.
_SLICE_SEED = 0
_BATCH = 64


def check_teacher(
    teacher: StagedModel,
    student: StagedModel,
    data: ImageData,
    *,
    images: int,
    allow_weak: bool,
    device: torch.device | str,
) -> dict[str, Any]:
    """Check that the teacher knows the classes of the data, and answers better than chance on validation images.

    It is shown a fixed random slice, at the size of the student's batches, as in training. Near chance means within
    three standard errors of the best constant answer, which is the share of the most frequent validation class. A
    teacher without a head is not asked; a method that needs its logits refuses it.

    Args:
        teacher: from `build_model`, on `device`.
        student: the model that will learn from it.
        data: the data set.
        images: validation images to ask it about; 0 asks none.
        allow_weak: let a teacher pass that is untrained, has a new head or is near chance; it is warned of.
        device: where to run.

    Returns:
        `images`, `teacher_top1` and `chance` in percent (None where none were asked), and `warnings`, a list of lines.

    Raises:
        UserError: other classes than the data's; and, without `allow_weak`, a teacher without weights, with a new head,
            or near chance.
    """
    _check_classes(teacher, data)
    warnings = _differences(teacher, student)

    def object_to(line: str) -> None:
        if not allow_weak:
            raise UserError(f"{line}, or insist with --allow_weak_teacher true")
        warnings.append(line)

    card = teacher.card
    if card.weights == "none":
        object_to(f"the teacher {teacher.name} has no weights: give --teacher_weights")
    elif not card.head_trained and teacher.num_classes:
        object_to(
            f"the teacher {teacher.name} has a new head for the {teacher.num_classes} classes: train it on them first "
            "(crossdistill train --student_weights pretrained), map its own outputs with --teacher_classes, "
            "or use its features alone (--teacher.kwargs.num_classes=0)"
        )
    report: dict[str, Any] = {"images": 0, "teacher_top1": None, "chance": None, "warnings": warnings}
    if teacher.num_classes == 0 or images == 0:
        return report

    chosen = torch.randperm(len(data.validation), generator=torch.Generator().manual_seed(_SLICE_SEED))[:images]
    batches = EvalLoader(
        data.validation.subset(chosen),
        image_size=student.image_size,
        batch_size=_BATCH,
        device=device,
        # Starting processes takes longer than decoding a slice.
        workers=0,
    )
    accuracy = evaluate(teacher, batches)["top1"] / 100
    chance = data.validation.labels.bincount().max().item() / len(data.validation)
    if accuracy <= chance + 3 * math.sqrt(chance * (1 - chance) / len(chosen)):
        object_to(
            f"the teacher {teacher.name} is near chance: {accuracy:.1%} of {len(chosen)} validation images right, the "
            f"most frequent class alone gives {chance:.1%}: check its weights, image size and normalisation"
        )
    return report | {"images": len(chosen), "teacher_top1": 100 * accuracy, "chance": 100 * chance}


def _check_classes(teacher: StagedModel, data: ImageData) -> None:
    if teacher.num_classes == 0:
        return
    if teacher.num_classes != len(data.classes):
        raise UserError(
            f"the teacher {teacher.name} has {teacher.num_classes} classes, the data has {len(data.classes)}: "
            "map them with --teacher_classes FILE"
        )
    for index, (known, name) in enumerate(zip(teacher.card.classes or data.classes, data.classes, strict=True)):
        if known != name:
            raise UserError(
                f"class {index} is '{name}' in the data and '{known}' for the teacher {teacher.name}: "
                "map them with --teacher_classes FILE"
            )


def _differences(teacher: StagedModel, student: StagedModel) -> list[str]:
    """What a user may not expect, although each model resizes and normalises for itself."""
    lines = []
    if teacher.image_size != student.image_size:
        (from_height, from_width), (height, width) = student.image_size, teacher.image_size
        lines.append(
            f"the teacher sees the {from_height}x{from_width} images of the student resized to {height}x{width} "
            "(see --teacher_image_size)"
        )
    theirs, ours = teacher.card, student.card
    if (theirs.mean, theirs.std) != (ours.mean, ours.std):
        lines.append(
            f"each model normalises its own way: teacher mean {_rounded(theirs.mean)} std {_rounded(theirs.std)}, "
            f"student mean {_rounded(ours.mean)} std {_rounded(ours.std)}"
        )
    return lines


def _rounded(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in values) + ")"
