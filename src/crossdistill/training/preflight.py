"""What can be wrong with a teacher, found before training instead of after it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from lightning.fabric import Fabric
from rich.console import Console
from torch import Tensor

from crossdistill.data import EvalLoader, ImageData
from crossdistill.distiller import Distiller
from crossdistill.errors import UserError
from crossdistill.evaluation import empty_logits, predict
from crossdistill.options import PairOptions
from crossdistill.staged import StagedModel
from crossdistill.training.devices import over_processes

# A fixed seed, so that the same run is refused or let through every time.
_SLICE_SEED = 0


@dataclass
class TeacherReport:
    """What was found.

    Attributes:
        warnings: lines for the user.
        logits: (N, K) float32, what the teacher says of the validation images of this process, zeros elsewhere; None
            for a teacher without a head.
        images: how many images the teacher was checked on.
        top1: its accuracy on them in percent; None where none were asked.
        chance: the share of the most frequent class in percent.
    """

    warnings: list[str] = field(default_factory=list)
    logits: Tensor | None = None
    images: int = 0
    top1: float | None = None
    chance: float | None = None


def check_teacher(
    teacher: StagedModel,
    student: StagedModel,
    data: ImageData,
    validation: EvalLoader,
    *,
    images: int,
    allow_weak: bool,
    reads_logits: bool = True,
    known: Tensor | None = None,
) -> TeacherReport:
    """Check that the teacher knows the classes of the data and answers better than chance; ask it about all images.

    It is shown a fixed random choice of the validation images first, at the size of the student's batches, as in
    training, then the others. Near chance means within three standard errors of the best constant answer, which is the
    share of the most frequent validation class; of images without labels nobody knows. A teacher without a head is not
    asked; a method that needs its logits refuses it.

    Args:
        teacher: from `build_model`.
        student: the model that will learn from it.
        data: the data set.
        validation: its validation images, of this process.
        images: validation images to check it on; 0 checks none.
        allow_weak: let a teacher pass that is untrained, has a new head or is near chance; it is warned of.
        reads_logits: whether the method learns from its logits; if not, a new head is only warned of.
        known: (N, K) float32, what it says of all validation images, where that is known: it is not asked then.

    Raises:
        UserError: other classes than the data's; and, without `allow_weak`, a teacher without weights, with a new head,
            or near chance.
    """
    _check_classes(teacher, data)
    report = TeacherReport(_differences(teacher, student))

    def object_to(line: str) -> None:
        if not allow_weak:
            raise UserError(f"{line}, or insist with --allow_weak_teacher true")
        report.warnings.append(line)

    card = teacher.card
    if card.weights == "none":
        object_to(f"the teacher {teacher.name} has no weights: give --teacher_weights")
    elif not card.head_trained and teacher.num_classes:
        line = f"the teacher {teacher.name} has a new head for the {teacher.num_classes} classes"
        if reads_logits:
            object_to(
                f"{line}: train it on them first (crossdistill train --student_weights pretrained), map its own "
                "outputs with --teacher_classes, or use its features alone (--teacher.kwargs.num_classes=0)"
            )
        else:
            report.warnings.append(f"{line}, whose answers mean nothing; this method reads its features only")
    if teacher.num_classes == 0:
        return report

    # Of the whole set, so that several processes check the same images as one.
    chosen = torch.randperm(validation.size, generator=torch.Generator().manual_seed(_SLICE_SEED))[:images]
    is_checked = torch.isin(validation.indices, chosen)
    checked, others = is_checked.nonzero().flatten(), (~is_checked).nonzero().flatten()
    report.logits = known
    if report.logits is None:
        report.logits = empty_logits(teacher, validation.size)
        predict(teacher, validation.at(checked), report.logits)
    if images and data.labelled and (card.head_trained or reads_logits):
        right, count = _right(report.logits, data, validation.indices[checked])
        chance = data.validation.labels.bincount().max().item() / len(data.validation)
        accuracy = right / count
        report.images, report.top1, report.chance = count, 100 * accuracy, 100 * chance
        if accuracy <= chance + 3 * math.sqrt(chance * (1 - chance) / count):
            object_to(
                f"the teacher {teacher.name} is near chance: {accuracy:.1%} of {count} validation images right, the "
                f"most frequent class alone gives {chance:.1%}: check its weights, image size and normalisation"
            )
    if known is None:
        predict(teacher, validation.at(others), report.logits)
    return report


def ask_about_validation(
    fabric: Fabric,
    distillers: Sequence[Distiller],
    data: ImageData,
    validation: EvalLoader,
    options: PairOptions,
    console: Console,
    *,
    known: Tensor | None = None,
    judge: bool = True,
) -> Tensor | None:
    """What the teacher says of all validation images, and whether it may teach at all.

    Args:
        fabric: launched.
        distillers: the methods, with one student and one teacher, which is on the device.
        data: the data set.
        validation: its validation images, of this process.
        options: say what the teacher is checked for.
        console: where warnings are printed.
        known: what it says of them, where that is known; else it is asked.
        judge: False asks only: a run that goes on has judged it before.

    Returns:
        (N, K) float32 on the device; None for a teacher without a head.

    Raises:
        UserError: as `check_teacher`.
    """
    student, teacher = distillers[0].student, distillers[0].teacher
    assert teacher is not None
    known = known.to(fabric.device) if known is not None else None
    if judge:
        report = check_teacher(
            teacher,
            student,
            data,
            validation,
            images=options.preflight_images,
            allow_weak=options.allow_weak_teacher,
            reads_logits=any("logits" in distiller.needs.teacher for distiller in distillers),
            known=known,
        )
        for warning in report.warnings:
            console.print(f"warning: {warning}", soft_wrap=True)
        said = report.logits
    else:
        said = known if known is not None else _ask(teacher, validation)
    return said if said is None or said is known else over_processes(fabric, said, "sum")


def _ask(teacher: StagedModel, validation: EvalLoader) -> Tensor | None:
    """What the teacher says of the validation images of this process, (N, K) float32; None without a head."""
    if teacher.num_classes == 0:
        return None
    logits = empty_logits(teacher, validation.size)
    predict(teacher, validation, logits)
    return logits


def _right(logits: Tensor, data: ImageData, indices: Tensor) -> tuple[int, int]:
    """How many of these images, of all processes together, are answered right, and how many they are."""
    right = logits[indices.to(logits.device)].argmax(dim=1).cpu() == data.validation.labels[indices]
    counts = torch.tensor([right.sum(), len(right)], device=logits.device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(counts)
    return int(counts[0]), int(counts[1])


def _check_classes(teacher: StagedModel, data: ImageData) -> None:
    if teacher.num_classes == 0 or not data.labelled:
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
