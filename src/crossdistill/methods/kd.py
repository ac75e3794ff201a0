"""Knowledge distillation on logits.

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (2015, arXiv 1503.02531), section 2. The student
matches the teacher's class probabilities, both softened by a temperature T; the factor T^2 keeps the gradient's size
independent of T. The paper states no weights; the defaults here are this project's.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import check_range
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(t / T) || softmax(s / T)), mean over images.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
        temperature: T, above 0.
    """
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


class KD(Distiller):
    """Logit distillation: `label_weight * CE(s, y) + teacher_weight * kd_loss(s, t, temperature)`.

    Args:
        student: the model that is trained.
        teacher: the model that is learnt from.
        temperature: softens both distributions; 4 for a confident teacher, 1 for a soft one.
        label_weight: weight of the cross-entropy with the labels.
        teacher_weight: weight of the divergence from the teacher.
    """

    needs = Needs(teacher={"logits"}, student={"logits"})
    # With teacher_weight at 0.9 the labels weigh from a ninetieth of the teacher to ten times as much.
    ranges: ClassVar = {"temperature": Range(1, 8, log=True), "label_weight": Range(0.01, 9, log=True)}

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        temperature: float = 4.0,
        label_weight: float = 0.1,
        teacher_weight: float = 0.9,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        check_range("kd", above=0, temperature=temperature)
        self.temperature = temperature
        self.teacher_weight = teacher_weight

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        loss = kd_loss(student.logits, teacher.logits, self.temperature)
        return {"logits": self.teacher_weight * loss}
