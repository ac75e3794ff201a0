"""DeiT: distillation through a token that learns the teacher's decisions.

Touvron et al.: Training data-efficient image transformers & distillation through attention (ICML 2021, arXiv
2012.12877). A second token beside the class token has a head of its own. The class token's head learns the labels and
the distillation token's the teacher's answers; the model answers with the mean of both.

With z the logits of the heads, t the teacher's and y_t its class,

    L_hard = (1 - lambda) CE(z_class, y) + lambda CE(z_distillation, y_t)                                 (1)
    L_soft = (1 - lambda) CE(z_class, y) + lambda T^2 KL(softmax(t / T) || softmax(z_distillation / T))   (2)

with lambda = 1/2 in (1), and 0.1 with T = 3 in (2). A student without such a token learns both with its one head, as in
the paper's comparison.

The released code divides the divergence of (2) by B K instead of B (`variant="released"`), so that it weighs K times
less. Its own defaults for (2) are lambda = 0.5 and T = 1. timm's models answer with the mean of the logits, the paper
with the mean of the probabilities.
"""

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import UserError, check_range
from crossdistill.methods.kd import kd_loss
from crossdistill.ranges import Choice, Range
from crossdistill.staged import Outputs, StagedModel

Kind = Literal["hard", "soft"]
Variant = Literal["paper", "released"]


def deit_loss(
    student_logits: Tensor, teacher_logits: Tensor, kind: Kind, temperature: float, variant: Variant = "paper"
) -> Tensor:
    """The second term of (1) or (2) without its weight, mean over images.

    Args:
        student_logits: (B, K), z_distillation.
        teacher_logits: (B, K).
        kind: "hard": (1), "soft": (2).
        temperature: T of the soft kind, above 0.
        variant: "released" takes the soft kind's mean over classes too.
    """
    if kind == "hard":
        return F.cross_entropy(student_logits, teacher_logits.argmax(dim=1))
    loss = kd_loss(student_logits, teacher_logits, temperature)
    return loss / student_logits.shape[1] if variant == "released" else loss


class DeiT(Distiller):
    """DeiT's distillation: the labels to the class token's head, the teacher's answers to the distillation token's.

    It takes any student: one without a distillation token learns both with its one head.

    Args:
        student: the model that is trained; made for `deit_*_distilled_*`.
        teacher: the model that is learnt from, of any architecture; a CNN in the paper.
        kind: "hard" (the teacher's class), which the paper found better, or "soft" (its distribution).
        through: what learns the teacher's answers: "token", the distillation token's head, or "head", the model's own
            answer, which then learns the labels too; default: the token, where there is one.
        temperature: T of the soft kind; the paper's.
        label_weight: 1 - lambda; default: 0.5 for hard, 0.9 for soft, the paper's.
        teacher_weight: lambda; default: 0.5 for hard, 0.1 for soft, the paper's.
        variant: "paper", or "released" for a soft kind that is a mean over classes too.
    """

    needs = Needs(teacher={"logits"}, student={"logits", "head_logits"})
    # label_weight stays where `kind` puts it; the temperature is read by the soft kind alone.
    ranges: ClassVar = {
        "kind": Choice(("hard", "soft")),
        "temperature": Range(1, 6, log=True),
        "teacher_weight": Range(0.05, 5, log=True),
    }

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        kind: Kind = "hard",
        through: Literal["token", "head"] | None = None,
        temperature: float = 3.0,
        label_weight: float | None = None,
        teacher_weight: float | None = None,
        variant: Variant = "paper",
    ) -> None:
        teacher_share = 0.5 if kind == "hard" else 0.1
        super().__init__(student, teacher, 1 - teacher_share if label_weight is None else label_weight)
        check_range("deit", above=0, temperature=temperature)
        has_token = "distillation" in student.heads
        if through == "token" and not has_token:
            raise UserError(
                f"DeiT: {student.name} has no distillation token: choose a model such as "
                "deit_tiny_distilled_patch16_224, or --method.kwargs.through head"
            )
        self.through_token = has_token and through != "head"
        self.kind: Kind = kind
        self.temperature = temperature
        self.teacher_weight = teacher_share if teacher_weight is None else teacher_weight
        self.variant: Variant = variant

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        logits = student.head_logits["distillation"] if self.through_token else student.logits
        loss = deit_loss(logits, teacher.logits, self.kind, self.temperature, self.variant)
        return {"logits": self.teacher_weight * loss}

    def label_terms(self, student: Outputs, labels: Tensor) -> dict[str, Tensor]:
        if not self.through_token:
            return super().label_terms(student, labels)
        return {"labels": F.cross_entropy(student.head_logits["class"], labels)}
