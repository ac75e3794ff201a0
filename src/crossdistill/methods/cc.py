"""CC: the correlation of the images of a batch, under a Gaussian kernel, is the teacher's.

Peng et al.: Correlation Congruence for Knowledge Distillation (ICCV 2019, arXiv 1904.01802). The correlation of two
images is a kernel of their vectors, of which a Taylor series is taken; the matrix of all of them is taught.

With f the vectors that the classifiers read, of norm 1,

    k(i, j) = exp(-gamma |f_i - f_j|^2) ~ e^(-2 gamma) sum_{p <= P} (2 gamma)^p / p! <f_i, f_j>^p         (1)
    L_CC = |K_T - K_S|^2 / B^2                                                                            (2)
    L = w_label CE(s, y) + w_CC L_CC                                                                      (3)

with P = 2 and gamma = 0.4. The paper adds the divergence of `kd` as its instance congruence, and draws batches in which
classes repeat; here is the correlation term alone, on plain batches, as in the field's comparisons. The paper's weight
could not be established for (2) as a mean over pairs; 100 is that of Knowledge-Distillation-Zoo (AberHu).

What the field's comparisons call CC (RepDistiller, from code that the authors shared with it, and OFA-KD) is another
loss, `variant="released"`: both vectors are brought to one width by learned linear layers, and

    L_CC = mean_b sum_d delta_bd delta_(b+1)d,   delta = |g_S(s) - g_T(t)|                                (4)

over neighbours in the batch, with weight 0.02. The teacher's layer is learnt too.
"""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import check_range
from crossdistill.modules.gather import gather_batches
from crossdistill.modules.precision import in_float32
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel


@in_float32
def cc_loss(student_pooled: Tensor, teacher_pooled: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    """Equation (2).

    Args:
        student_pooled: (B, D_S).
        teacher_pooled: (B, D_T), of the same images.
        gamma: of the Gaussian kernel.
        order: P, terms of the series behind the constant.
    """
    # Of (B, B) values each, the mean is the sum over B^2.
    return F.mse_loss(_correlations(student_pooled, gamma, order), _correlations(teacher_pooled, gamma, order))


def _correlations(pooled: Tensor, gamma: float, order: int) -> Tensor:
    """Equation (1), (B, B)."""
    directions = F.normalize(pooled, dim=1)
    cosines = directions @ directions.mT
    terms = [(2 * gamma) ** p / math.factorial(p) * cosines**p for p in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(terms).sum(dim=0)


@in_float32
def neighbour_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Equation (4), (B, D) and (B, D) -> a scalar; 0 for a batch of one."""
    difference = (student_embedding - teacher_embedding).abs()
    return (difference[:-1] * difference[1:]).sum() / max(1, len(difference) - 1)


class CC(Distiller):
    """Correlation congruence between the pooled vectors of the images of a batch, equation (3).

    The images of (2) are those of one forward pass, of all processes; those of (4) of each process.

    Args:
        student: the model that is trained, of any architecture.
        teacher: the model that is learnt from, of any architecture, with or without a head.
        variant: "paper", equation (2), or "released", equation (4), as RepDistiller and OFA-KD have it.
        gamma: of the kernel of (1); the paper's.
        order: P of (1); the paper's.
        width: of the embeddings of (4); RepDistiller's and OFA-KD's.
        correlation_weight: w_CC; default: 100 for the paper's, 0.02 for the released one.
        label_weight: weight of the cross-entropy with the labels.
    """

    needs = Needs(teacher={"pooled"}, student={"pooled"})
    # Of the paper's variant: the released one's weight is of another scale.
    ranges: ClassVar = {"correlation_weight": Range(5, 2000, log=True), "gamma": Range(0.1, 1.6, log=True)}

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        variant: Literal["paper", "released"] = "paper",
        gamma: float = 0.4,
        order: int = 2,
        width: int = 128,
        correlation_weight: float | None = None,
        label_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        check_range("cc", above=0, gamma=gamma)
        check_range("cc", at_least=1, order=order, width=width)
        self.variant = variant
        self.gamma = gamma
        self.order = order
        default = 100.0 if variant == "paper" else 0.02
        self.correlation_weight = default if correlation_weight is None else correlation_weight
        if variant == "released":
            self.student_embedding = nn.Linear(student.pooled_size, width)
            self.teacher_embedding = nn.Linear(teacher.pooled_size, width)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        if self.variant == "released":
            loss = neighbour_loss(self.student_embedding(student.pooled), self.teacher_embedding(teacher.pooled))
        else:
            loss = cc_loss(gather_batches(student.pooled), gather_batches(teacher.pooled), self.gamma, self.order)
        return {"correlations": self.correlation_weight * loss}
