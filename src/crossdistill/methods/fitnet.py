"""FitNet: the student's maps, through a 1x1 convolution, match the teacher's.

Romero et al.: FitNets: Hints for Thin Deep Nets (ICLR 2015, arXiv 1412.6550), section 2.2. With r_k a 1x1 convolution
from the student's channels to the teacher's,

    fitnet_loss(r_k(F_k), F'_k) = mean (r_k(F_k) - F'_k)^2                                                    (1)
    L = w_label CE(s, y) + w_feature sum_k fitnet_loss(r_k(F_k), F'_k)

The paper matches one layer in the middle, with half the squared norm, as a first training of the lower half of the
student; logits and labels follow in a second. All later comparisons train once, with both terms, and so does this. They
do not agree on the rest: CRD's benchmark (arXiv 1910.10699) takes the stage in the middle and a weight of 100; OFA's,
and those that take over its tables for unlike architectures (PAT, RSD), take all four stages and a weight of 1, with
raw features and a student brought to the teacher's grid. From ConvNeXt-T to Swin-P they have 24.06 % on CIFAR-100,
where the student alone has 72.63. RSD's code scales that term by 0.1.

Here: all stages, weight 1, on the coarser grid, and the teacher's features standardised
(crossdistill.modules.alignment), without which a weight means nothing across teachers. `standardize_features=False` is
the matching of those tables, `stages=[2], feature_weight=100` CRD's.
"""

from collections.abc import Iterable
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.modules.alignment import StageAlignment, first_images
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel


def fitnet_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Equation (1): squared error, mean over all elements.

    Args:
        student_features: (B, C, H, W), projected to the teacher's channels.
        teacher_features: (B, C, H, W).
    """
    return F.mse_loss(student_features, teacher_features)


class FitNet(Distiller):
    """Hints: each stage of the student predicts the teacher's features.

    Args:
        student: the model that is trained, of any architecture.
        teacher: the model that is learnt from, of any architecture; it needs no head.
        stages: stages of the student that are matched, counted from 1; default: all that have a partner (OFA's tables).
        label_weight: w_label, of the cross-entropy with the labels.
        feature_weight: w_feature of each stage; 1 in OFA's tables, 100 in CRD's benchmark.
        standardize_features: standardise the teacher's features per stage and channel; False as published.
    """

    needs = Needs(teacher={"features"}, student={"features"})
    # Published are 0.1 (in effect), 1 and 100.
    ranges: ClassVar = {"feature_weight": Range(0.1, 100, log=True)}

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        stages: list[int] | None = None,
        label_weight: float = 1.0,
        feature_weight: float = 1.0,
        standardize_features: bool = True,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        self.feature_weight = feature_weight
        self.alignment = StageAlignment(student, teacher, stages, standardize=standardize_features, owner="fitnet")
        self.projectors = self.alignment.projectors()
        self.rank_local = self.alignment.statistics("alignment")

    def prepare(self, batches: Iterable[Tensor]) -> dict[str, float]:
        for images in first_images(batches):
            self.alignment.measure(self.teach(images))
        return {}

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        terms = {}
        aligned = self.alignment(student, teacher)
        for number, projector, (ours, theirs) in zip(self.alignment.numbers, self.projectors, aligned, strict=True):
            terms[f"stage{number}"] = self.feature_weight * fitnet_loss(projector(ours), theirs)
        return terms
