"""RSD: redundancy suppression, each projected channel of the student correlates with one of the teacher's and no other.

Zhang et al.: Cross-Architecture Distillation Made Simple with Redundancy Suppression (ICCV 2025, arXiv 2507.21844).
What two architectures agree on across images is knowledge, what is particular to each is redundant. With z = MLP(s) the
student's projected and t the teacher's pooled vectors, each channel standardised over the batch of B images,

    P = t^T z / B                                       (D, D), the correlation of every pair of channels        (1)
    rsd_loss(z, t) = sum_i (P_ii - 1)^2 + kappa sum_{i != j} P_ij^2                                          (2)
    L = w_label CE(s, y) + w_feature rsd_loss(z, t)

The MLP (linear, batch norm, GELU, linear, without biases, hidden width twice the student's) keeps the student's own
representation apart from the match, and is dropped after training. All numbers are those of the released code:
w_feature 0.1, kappa 0.01, hidden width 2. The pooled vectors are what the classifiers read. Correlations need images:
the smaller the batch, the more of P is chance (about 1 / B per entry, squared). With several processes each takes its
own batch's, as released.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import check_range
from crossdistill.modules.alignment import batch_norm
from crossdistill.modules.initialization import initialise
from crossdistill.modules.precision import in_float32
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel

# Added to the deviations, as released.
_EPSILON = 1e-5


@in_float32
def rsd_loss(student_pooled: Tensor, teacher_pooled: Tensor, kappa: float) -> Tensor:
    """Equation (2).

    Args:
        student_pooled: (B, D), z.
        teacher_pooled: (B, D), t.
        kappa: weight of the correlations between different channels.
    """
    student, teacher = _standardise(student_pooled), _standardise(teacher_pooled)
    correlation = teacher.mT @ student / len(student)
    diagonal = correlation.diagonal()
    return (diagonal - 1).square().sum() + kappa * (correlation.square().sum() - diagonal.square().sum())


def _standardise(pooled: Tensor) -> Tensor:
    return (pooled - pooled.mean(dim=0)) / (pooled.std(dim=0, correction=0) + _EPSILON)


class RSD(Distiller):
    """Redundancy suppression: what the student's and the teacher's pooled vectors have in common, channel by channel.

    Args:
        student: the model that is trained, of any architecture.
        teacher: the model that is learnt from, of any architecture; it needs no head.
        kappa: weight of the correlations between different channels; 0.01 in the authors' code.
        hidden_ratio: hidden width of the projector, in widths of the student; 2 in the authors' code.
        label_weight: w_label, of the cross-entropy with the labels.
        feature_weight: w_feature; 0.1 in the authors' code.
    """

    needs = Needs(teacher={"pooled"}, student={"pooled"})
    ranges: ClassVar = {"feature_weight": Range(0.01, 1, log=True), "kappa": Range(0.001, 0.1, log=True)}

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        kappa: float = 0.01,
        hidden_ratio: int = 2,
        label_weight: float = 1.0,
        feature_weight: float = 0.1,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        check_range("rsd", at_least=0, kappa=kappa)
        check_range("rsd", at_least=1, hidden_ratio=hidden_ratio)
        self.kappa = kappa
        self.feature_weight = feature_weight
        hidden = hidden_ratio * student.pooled_size
        self.enter = nn.Linear(student.pooled_size, hidden, bias=False)
        self.norm = nn.BatchNorm1d(hidden)
        self.leave = nn.Linear(hidden, teacher.pooled_size, bias=False)
        initialise(self.enter)
        initialise(self.leave)

    def project(self, pooled: Tensor) -> Tensor:
        """z, (B, D): the student's vectors (B, D_s) in the teacher's width."""
        return self.leave(F.gelu(batch_norm(self.norm, self.enter(pooled))))

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        loss = rsd_loss(self.project(student.pooled), teacher.pooled, self.kappa)
        return {"correlation": self.feature_weight * loss}
