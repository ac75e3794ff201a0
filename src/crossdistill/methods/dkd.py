"""DKD: decoupled knowledge distillation, the target class and the others weighted apart.

Zhao et al.: Decoupled Knowledge Distillation (CVPR 2022, arXiv 2203.08679). The divergence of `kd` is the sum of two:
how sure the teacher is of the target class (TCKD), and how it ranks the others among themselves (NCKD). In `kd` the
second is multiplied by 1 - p_t, so a teacher that is sure of its answer teaches nothing of the rest. Here it has a
weight of its own.

With p = softmax(z / T), p_t that of the target, b = (p_t, 1 - p_t) and q = softmax over the other classes alone,

    TCKD = KL(b^T || b^S),   NCKD = KL(q^T || q^S)                                                          (1)
    KD = TCKD + (1 - p_t^T) NCKD                                                                          (2)
    DKD = alpha TCKD + beta NCKD, times T^2                                                               (3)

The sum is computed from logarithms, and the target is taken out of the softmax; the authors subtract 1000 from its
logit and take the logarithm of a probability that may be 0. The values are the same.

The released code multiplies (3) by min(epoch / 20, 1) in a training of 240 epochs on CIFAR-100, and of 1 of 100 epochs
on ImageNet: `warmup` is this share.
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


@in_float32
def dkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    """Equation (3), mean over images.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
        labels: (B,) class indices, or (B, K) soft labels, whose most likely class is the target.
        alpha: weight of the target class.
        beta: weight of the other classes.
        temperature: T, above 0.
    """
    target = labels.argmax(dim=1) if labels.ndim == 2 else labels
    student_binary, student_others = _decouple(student_logits / temperature, target)
    teacher_binary, teacher_others = _decouple(teacher_logits / temperature, target)
    of_target = F.kl_div(student_binary, teacher_binary, reduction="batchmean", log_target=True)
    of_others = F.kl_div(student_others, teacher_others, reduction="batchmean", log_target=True)
    return (alpha * of_target + beta * of_others) * temperature**2


def _decouple(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of b, (B, 2), and of q, (B, K) with 0 at the target."""
    is_target = F.one_hot(target, logits.shape[1]).bool()
    others = logits.masked_fill(is_target, -torch.inf)
    either = torch.stack([logits.gather(1, target[:, None])[:, 0], others.logsumexp(dim=1)], dim=1)
    return either.log_softmax(dim=1), others.log_softmax(dim=1).masked_fill(is_target, 0.0)


class DKD(Distiller):
    """Decoupled distillation: `label_weight * CE(s, y) + ramp * dkd_loss(s, t, y, alpha, beta, temperature)`.

    Labels that are soft (mixup, smoothing) stand for their most likely class in the second term, as in the code of
    OFA-KD; the first takes them as they are.

    Args:
        student: the model that is trained.
        teacher: the model that is learnt from.
        alpha: weight of TCKD; 1 throughout the authors' configurations.
        beta: weight of NCKD; the authors' default for CIFAR-100. They chose it per pair: 2 to 8 there, 0.5 and 2 on
            ImageNet, more for a teacher that is surer. OFA-KD has 2 for its unlike pairs.
        temperature: T of both; 4 on CIFAR-100, 1 on ImageNet and in OFA-KD.
        warmup: share of the training over which the term rises from 0 to its weight; the authors' 20 of 240 epochs. A
            large beta needs it. On ImageNet it is 0.01, in OFA-KD 0.
        label_weight: weight of the cross-entropy with the labels; 1 throughout the authors' configurations.
    """

    needs = Needs(teacher={"logits"}, student={"logits"}, labels=True)
    # The authors' betas are 0.5 to 8, by the pair; a large one needs its ramp. alpha is 1 in all of their runs.
    ranges: ClassVar = {
        "beta": Range(0.5, 16, log=True),
        "temperature": Range(1, 8, log=True),
        "warmup": Range(0, 0.25),
    }

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        warmup: float = 20 / 240,
        label_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        check_range("dkd", above=0, temperature=temperature)
        check_range("dkd", at_least=0, at_most=1, warmup=warmup)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.warmup = warmup

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        loss = dkd_loss(student.logits, teacher.logits, batch.labels, self.alpha, self.beta, self.temperature)
        ramp = (self.progress / self.warmup).clamp(max=1.0) if self.warmup else 1.0
        return {"logits": ramp * loss}
