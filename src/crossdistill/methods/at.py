"""AT: attention transfer, the places that matter to the teacher.

Zagoruyko, Komodakis: Paying More Attention to Attention (ICLR 2017, arXiv 1612.03928), the activation-based form. Which
channels respond differs between networks; where they respond can be compared as it is. With A(F) the mean over channels
of F^2, as a vector over positions,

    at_loss(F, F') = mean (A(F) / |A(F)| - A(F') / |A(F')|)^2                                                 (1)
    L = w_label CE(s, y) + w_feature sum_k at_loss(F_k, F'_k)

The mean is over images and positions, as in the authors' code, whose weight is 1000; the paper's beta / 2 times a norm
is that weight divided by the number of elements. Its smallest map has 49 positions; on fewer, where the mean over
positions of maps of unit norm grows, the weight shrinks in proportion. It adds no parameter. For Transformers and MLPs
A is taken over the patch positions of the residual stream: its mean square is dominated by whichever channels are
largest there, so in a ViT with outlier channels it is their map. A grid of one position has no places: its term is
zero.
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

# Positions of the smallest map that the weight was made for, ImageNet's last.
SMALLEST_GRID = 7 * 7


@in_float32
def at_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Equation (1), mean over images and positions.

    Args:
        student_features: (B, C, H, W).
        teacher_features: (B, C', H, W): as many positions, any number of channels.
    """
    return F.mse_loss(attention_map(student_features), attention_map(teacher_features))


def attention_map(features: Tensor) -> Tensor:
    """A(F) / |A(F)|, (B, H W)."""
    return F.normalize(features.square().mean(dim=1).flatten(1))


class AT(Distiller):
    """Attention transfer: each stage of the student is strong at the places where the teacher's is.

    Args:
        student: the model that is trained, of any architecture.
        teacher: the model that is learnt from, of any architecture; it needs no head.
        stages: stages of the student that are matched, counted from 1; default: all that have a partner.
        label_weight: w_label, of the cross-entropy with the labels.
        feature_weight: w_feature of each stage, less below 49 positions; 1000 in the authors' code.
    """

    needs = Needs(teacher={"features"}, student={"features"})
    ranges: ClassVar = {"feature_weight": Range(30, 30_000, log=True)}

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        stages: list[int] | None = None,
        label_weight: float = 1.0,
        feature_weight: float = 1000.0,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        self.feature_weight = feature_weight
        self.alignment = StageAlignment(student, teacher, stages, owner="at")

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        terms = {}
        for number, (ours, theirs) in zip(self.alignment.numbers, self.alignment(student, teacher), strict=True):
            weight = self.feature_weight * min(1.0, ours[0, 0].numel() / SMALLEST_GRID)
            terms[f"stage{number}"] = weight * at_loss(ours, theirs)
        return terms
