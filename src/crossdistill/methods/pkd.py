"""PKD: each map normalised per channel, so that only what correlates with the teacher's is learnt.

Cao et al.: PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient (NeurIPS 2022,
arXiv 2207.02039). Levels of two feature pyramids differ in the size of their activations, and so do their channels;
normalised over images and positions,

    n(F) = (F - mean F) / std F   per channel
    pkd_loss(F, F') = mean (n(F) - n(F'))^2 / 2 = 1 - mean over channels of Pearson's r(F, F')                 (1)
    L = task + w_feature sum_k pkd_loss(F_k, F'_k)

w_feature is 6 in the authors' configurations for pyramids. In the paper both pyramids have as many channels and grids.
Here stages are matched as in crossdistill.modules.alignment; where channels differ, a 1x1 convolution goes in front.
The deviation is that of the batch of this process, (variance + 1e-6)^(1/2), so that a channel of one value is zero.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.modules.alignment import StageAlignment, to_channels
from crossdistill.modules.precision import in_float32
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel

_LEAST_VARIANCE = 1e-6


@in_float32
def pkd_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Equation (1).

    Args:
        student_features: (B, C, H, W).
        teacher_features: (B, C, H, W).
    """
    return (normalise(student_features) - normalise(teacher_features)).square().mean() / 2


def normalise(features: Tensor) -> Tensor:
    """n(F), (B, C, H, W)."""
    variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0, keepdim=True)
    return (features - mean) * torch.rsqrt(variance + _LEAST_VARIANCE)


class PKD(Distiller):
    """Normalised matching: each stage of the student correlates with the teacher's, channel by channel.

    Args:
        student: the model that is trained, of any architecture, or a detector.
        teacher: the model that is learnt from, of any architecture, or a detector; it needs no head.
        stages: stages of the student that are matched, counted from 1; default: all that have a partner.
        label_weight: weight of the student's own task.
        feature_weight: w_feature of each stage; 6 in the authors' configurations.
    """

    needs = Needs(teacher={"features"}, student={"features"})
    ranges: ClassVar = {"feature_weight": Range(0.3, 30, log=True)}

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        stages: list[int] | None = None,
        label_weight: float = 1.0,
        feature_weight: float = 6.0,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        self.feature_weight = feature_weight
        self.alignment = StageAlignment(student, teacher, stages, owner="pkd")
        self.projectors = nn.ModuleList(
            nn.Identity()
            if ours.channels == theirs.channels
            else to_channels(ours.channels, theirs.channels, bias=False)
            for ours, theirs in self.alignment.pairs
        )

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        aligned = self.alignment(student, teacher)
        return {
            f"stage{number}": self.feature_weight * pkd_loss(projector(ours), theirs)
            for number, projector, (ours, theirs) in zip(self.alignment.numbers, self.projectors, aligned, strict=True)
        }
