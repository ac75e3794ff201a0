"""Candidate teachers side by side, before any training: what `crossdistill rank` shows.

Nothing here is sure to find the best teacher. docs/analysis.md says what is known of each measure.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from rich.table import Table
from torch import Tensor

from crossdistill.analysis.cka import FEWEST_IMAGES, MinibatchCKA
from crossdistill.analysis.representations import knows_classes
from crossdistill.data import Batch
from crossdistill.staged import Outputs, StagedModel
from crossdistill.staged.modes import eval_mode, unchanged_statistics

Order = Literal["top1", "logit_ratio", "cka"]
# Of the candidates' measures, the one of which less is said to be better.
_LESS_IS_BETTER = "logit_ratio"


@dataclass
class Candidate:
    """What is known of a teacher without training.

    Attributes:
        name: what it was named as.
        parameters: number of parameters.
        top1: accuracy in percent; None where its outputs are not the classes of the data.
        standard_error: of `top1`, from the number of images.
        logit_ratio: mean over images of the first logit over the second (R12 of Gosal et al., arXiv 2605.15689), over
            those images whose second logit is positive; None where they are fewer than half, for then it means nothing,
            and without a head.
        logit_margin: mean difference of the first logit and the second, which is the logarithm of the ratio of their
            probabilities; None without a head.
        cka: minibatch CKA of its last stage with the student's.
    """

    name: str
    parameters: int
    top1: float | None
    standard_error: float | None
    logit_ratio: float | None
    logit_margin: float | None
    cka: float


@dataclass
class Ranking:
    """The candidates, best first.

    Attributes:
        candidates: in their order.
        order: what they are ordered by.
        student: the student's name.
        images: number of validation images.
    """

    candidates: list[Candidate]
    order: Order
    student: str
    images: int

    def __rich__(self) -> Table:
        """One table, for `rich.print`."""
        table = Table(
            title=f"teachers for {self.student}, by {self.order}",
            title_justify="left",
            caption=f"{self.images} validation images; top-1 with its standard error; logit ratio: less is said to be "
            "better; CKA: last stage of the teacher and of the student. What these foretell: docs/analysis.md",
            caption_justify="left",
        )
        for column in ("teacher", "parameters", "top-1 %", "logit ratio", "logit margin", "CKA"):
            table.add_column(column, justify="left" if column == "teacher" else "right", overflow="fold")
        for found in self.candidates:
            top1 = "-" if found.top1 is None else f"{found.top1:.2f} +- {found.standard_error:.2f}"
            measures = (found.logit_ratio, found.logit_margin, found.cka)
            cells = ("-" if value is None or math.isnan(value) else f"{value:.3f}" for value in measures)
            table.add_row(found.name, f"{found.parameters:,}", top1, *cells)
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found = [asdict(candidate) for candidate in self.candidates]
        for values in found:
            values["cka"] = None if math.isnan(values["cka"]) else values["cka"]
        return {"student": self.student, "images": self.images, "order": self.order, "teachers": found}


@torch.no_grad()
def describe_candidate(
    name: str, teacher: StagedModel, student: StagedModel, batches: Iterable[Batch], classes: Sequence[str]
) -> Candidate:
    """Measure one teacher; both models are left in the mode they were in.

    Args:
        name: what it is called in the table.
        teacher: on the device of the batches.
        student: the model that would learn from it, with the weights that it would begin with.
        batches: validation images.
        classes: the classes of the data, in the order of the labels.
    """
    cka = MinibatchCKA()
    firsts: list[Tensor] = []
    rights: list[Tensor] = []
    for batch in batches:
        with eval_mode(teacher):
            outputs = teacher(batch.images)
        if len(batch.images) >= FEWEST_IMAGES:
            cka.add([outputs.features[-1], _as_training_begins(student, batch.images).features[-1]])
        if teacher.num_classes > 1:
            firsts.append(outputs.logits.float().topk(2).values.cpu())
            rights.append((outputs.logits.argmax(dim=1) == batch.labels).cpu())
    top1 = error = ratio = margin = None
    if firsts:
        ratio, margin = logit_ratio(torch.cat(firsts)), (-torch.cat(firsts).diff()).mean().item()
    if rights and knows_classes(teacher, classes):
        right = torch.cat(rights).double()
        share = right.mean().item()
        top1, error = 100 * share, 100 * math.sqrt(share * (1 - share) / len(right))
    parameters = sum(parameter.numel() for parameter in teacher.parameters())
    return Candidate(name, parameters, top1, error, ratio, margin, cka.result()[0, 1].item())


def _as_training_begins(student: StagedModel, images: Tensor) -> Outputs:
    """What a student says before its first step: without weights its batch norms know nothing but the batch.

    The statistics of a new batch norm, 0 and 1, are nobody's: with them CKA depends on the seed twice as much.
    """
    if student.card.weights != "none":
        with eval_mode(student):
            return student(images)
    # Restores the mode.
    with eval_mode(student):
        student.train()
        with unchanged_statistics(student):
            return student(images)


def logit_ratio(firsts: Tensor) -> float | None:
    """Mean of the first logit over the second, of the images whose second logit is positive.

    Logits mean the same when a number is added to all of them, and this ratio does not; where the second is near zero
    or below it, it is no measure of anything.

    Args:
        firsts: (N, 2) the two largest logits, larger first.

    Returns:
        None where the second logit is positive for fewer than half of the images.
    """
    counted = firsts[firsts[:, 1] > 0].double()
    return (counted[:, 0] / counted[:, 1]).mean().item() if 2 * len(counted) >= len(firsts) else None


def ranked(candidates: Iterable[Candidate], order: Order) -> list[Candidate]:
    """The candidates, best first; those that lack the measure come last, in the order in which they were given."""

    def key(candidate: Candidate) -> tuple[bool, float]:
        value = getattr(candidate, order)
        if value is None or math.isnan(value):
            return True, 0.0
        return False, value if order == _LESS_IS_BETTER else -value

    return sorted(candidates, key=key)
