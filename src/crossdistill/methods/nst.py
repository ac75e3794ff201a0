"""NST: neuron selectivity transfer, what the channels as a set respond to.

Huang, Wang: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer (2017, arXiv 1707.01219). A channel's
map says what it selects. The maps of a stage are samples of a distribution, and the student's distribution comes near
to the teacher's in maximum mean discrepancy (MMD). With f_i the map of channel i as a vector over positions, brought to
unit norm, and the polynomial kernel k(x, y) = (x . y)^2,

    nst_loss(F, F') = mean_ij k(f'_i, f'_j) + mean_ij k(f_i, f_j) - 2 mean_ij k(f_i, f'_j),   mean over images   (1)
    L = w_label CE(s, y) + w_feature sum_k nst_loss(F_k, F'_k)

It compares sets of channels, so their numbers may differ, and adds no parameter. The weight is that of CRD's benchmark
(arXiv 1910.10699), with the same normalisation. A grid of one position has no maps: its term is zero.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.modules.alignment import StageAlignment
from crossdistill.modules.precision import in_float32
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel


@in_float32
def nst_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Equation (1), mean over images.

    Args:
        student_features: (B, C, H, W).
        teacher_features: (B, C', H, W): as many positions, any number of channels.
    """
    student, teacher = (F.normalize(features.flatten(2), dim=2) for features in (student_features, teacher_features))
    return _kernel(teacher, teacher) + _kernel(student, student) - 2 * _kernel(student, teacher)


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    """Mean of k over all pairs of channels of the same image: (B, C, N) and (B, C', N) -> ()."""
    return (one @ other.mT).square().mean()


class NST(Distiller):
    """Neuron selectivity transfer: the channels of each stage select what the teacher's select.

    Args:
        student: the model that is trained, of any architecture.
        teacher: the model that is learnt from, of any architecture; it needs no head.
        stages: stages of the student that are matched, counted from 1; default: all that have a partner.
        label_weight: w_label, of the cross-entropy with the labels.
        feature_weight: w_feature of each stage; 50 in CRD's benchmark.
    """

    needs = Needs(teacher={"features"}, student={"features"})
    ranges: ClassVar = {"feature_weight": Range(1, 1000, log=True)}

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        stages: list[int] | None = None,
        label_weight: float = 1.0,
        feature_weight: float = 50.0,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        self.feature_weight = feature_weight
        self.alignment = StageAlignment(student, teacher, stages, owner="nst")

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        aligned = zip(self.alignment.numbers, self.alignment(student, teacher), strict=True)
        return {f"stage{number}": self.feature_weight * nst_loss(ours, theirs) for number, (ours, theirs) in aligned}
