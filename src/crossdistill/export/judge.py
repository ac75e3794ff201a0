"""Whether an exported file says what the student says: asked in the runtime that will run it, on real images."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crossdistill.data import Batch
from crossdistill.errors import UserError
from crossdistill.export.backend import Runtime

# Images at a time. Beside single ones an odd number: a graph whose batch was frozen to a power of two shows.
BATCH = 5


@dataclass
class Judgement:
    """What a model says of the images that an export is judged on.

    Attributes:
        images: how many.
        top1: accuracy in percent.
        student_agreement: percent of images on which it answers as the student does before export.
        teacher_agreement: percent on which it answers as the teacher does; None where no teacher was loaded.
        largest_difference: of a logit, from the student's before export; over all images, alone and in batches.
        relative_difference: the same, as a share of the student's largest logit.
    """

    images: int
    top1: float
    student_agreement: float
    teacher_agreement: float | None
    largest_difference: float
    relative_difference: float


@dataclass
class Reference:
    """What an export is compared with.

    Attributes:
        labels: (N,) int64.
        student: (N, K) float32 logits before export.
        teacher: (N, K) float32 logits; None where there is none.
    """

    labels: Tensor
    student: Tensor
    teacher: Tensor | None

    def judge(self, *answers: Tensor) -> Judgement:
        """Judge logits (N, K); of several of the same images the first counts, and the differences of all."""
        said = answers[0].argmax(dim=1)
        difference = max((answer - self.student).abs().max().item() for answer in answers)
        return Judgement(
            images=len(self.labels),
            top1=_share(said == self.labels),
            student_agreement=_share(said == self.student.argmax(dim=1)),
            teacher_agreement=None if self.teacher is None else _share(said == self.teacher.argmax(dim=1)),
            largest_difference=difference,
            relative_difference=difference / self.student.abs().max().item(),
        )


def judge(name: str, runtime: Runtime, batches: Iterable[Batch], reference: Reference) -> Judgement:
    """Ask a runtime about every image, in batches and alone.

    Args:
        name: of the export, for messages.
        runtime: the opened file.
        batches: all images of the reference in order, `BATCH` at a time, on the CPU.
        reference: what to compare with.

    Raises:
        UserError: the runtime fails on a batch size.
    """
    together, alone = torch.empty_like(reference.student), torch.empty_like(reference.student)
    for batch in batches:
        images = np.ascontiguousarray(batch.images.numpy())
        together[batch.indices] = _ask(name, runtime, images)
        alone[batch.indices] = torch.cat([_ask(name, runtime, image[None]) for image in images])
    return reference.judge(together, alone)


def check_drop(name: str, before: Judgement, after: Judgement, max_drop: float) -> None:
    """Refuse an export that lost more accuracy than is allowed.

    Raises:
        UserError: says how much it lost.
    """
    drop = before.top1 - after.top1
    # A NaN anywhere makes the difference one, whatever the answers happen to be.
    if drop > max_drop or not np.isfinite(after.largest_difference):
        raise UserError(
            f"{name}: top-1 is {after.top1:.2f} % and was {before.top1:.2f} % before export, on {after.images} images: "
            f"{drop:.2f} points lost, and --max_drop allows {max_drop:g}; the largest difference of a logit is "
            f"{after.relative_difference:.1%} of the largest logit. Nothing was written: leave it out, "
            "or raise --max_drop"
        )


def _ask(name: str, runtime: Runtime, images: np.ndarray) -> Tensor:
    try:
        return torch.from_numpy(np.asarray(runtime.run(images), dtype=np.float32))
    except Exception as error:
        # A runtime may raise anything; what it was written for is any batch size.
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name}: {runtime.version} fails on {len(images)} image(s) at a time ({reason})") from error


def _share(answers: Tensor) -> float:
    return 100 * answers.double().mean().item()
