"""Training without a teacher: the baseline that every method must beat, and how teachers are made."""

from torch import Tensor

from crossdistill.distiller import Distiller, label_loss
from crossdistill.staged import Outputs


class Scratch(Distiller):
    """The student alone, on the labels."""

    needs_teacher = False

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        indices: Tensor | None = None,
        teacher_outputs: Outputs | None = None,
    ) -> dict[str, Tensor]:
        return {"labels": label_loss(self.student(images).logits, labels)}
