"""Knowledge distillation on logits.

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (2015, arXiv 1503.02531), section 2. The student
matches the teacher's class probabilities, both softened by a temperature T; the factor T^2 keeps the gradient's size
independent of T. The paper states no weights; the defaults here are those of RepDistiller and mdistiller, the field's
two reference implementations.

`standardize` sets the temperature per image, so that the student need not reach the scale of the teacher's logits, only
their relations: Sun et al., Logit Standardization in Knowledge Distillation (CVPR 2024, arXiv
2403.01427). With mean and deviation over the classes,

    z' = (z - mean z) / std z                                                                             (1)

takes the place of the logits of both in `kd_loss`. Their authors use it with temperature 2 and teacher_weight 9
(label_weight 0.1 on CIFAR-100).
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import check_range
from crossdistill.modules.precision import in_float32
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel

# What is left of equal logits by rounding; the authors add the root of it to the deviation.
_NO_VARIANCE = 1e-14


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


@in_float32
def standardize_logits(logits: Tensor) -> Tensor:
    """Equation (1), (B, K) -> (B, K); logits that are all equal have no deviation and become 0.

    The deviation is the sample's (K - 1), as in the authors' code.
    """
    centred = logits - logits.mean(dim=1, keepdim=True)
    variance = centred.square().sum(dim=1, keepdim=True) / max(1, logits.shape[1] - 1)
    # A head that starts at zero (MLP-Mixer) must not divide by it, in the gradient neither.
    return centred / torch.where(variance > _NO_VARIANCE, variance, 1.0).sqrt()


class KD(Distiller):
    """Logit distillation: `label_weight * CE(s, y) + teacher_weight * kd_loss(s, t, temperature)`.

    Args:
        student: the model that is trained.
        teacher: the model that is learnt from.
        temperature: softens both distributions; 4 for a confident teacher, 1 for a soft one.
        label_weight: weight of the cross-entropy with the labels.
        teacher_weight: weight of the divergence from the teacher.
        standardize: compare the logits in units of their own deviation, equation (1). It takes another temperature and
            weight: the authors' `temperature=2`, `teacher_weight=9`.
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
        standardize: bool = False,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        check_range("kd", above=0, temperature=temperature)
        self.temperature = temperature
        self.teacher_weight = teacher_weight
        self.standardize = standardize

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        ours, theirs = student.logits, teacher.logits
        if self.standardize:
            ours, theirs = standardize_logits(ours), standardize_logits(theirs)
        loss = kd_loss(ours, theirs, self.temperature)
        return {"logits": self.teacher_weight * loss}
