"""ReviewKD: every level of the teacher is learnt from all deeper levels of the student.

Chen et al.: Distilling Knowledge via Knowledge Review (CVPR 2021, arXiv 2104.09044). From the last level backwards, an
attention based fusion (ABF) mixes a level's map with what came up from the deeper ones, and gives the projection that
is compared with the teacher's map of that level. With F_n the pooled vector as a map of one position, R_{n+1} absent,

    X_k = BN(conv1x1(F_k))                                        to the width m of all fusions
    R_k = a_1 X_k + a_2 up(R_{k+1}),   a = sigmoid(conv1x1([X_k, up(R_{k+1})]))   two maps of one channel        (1)
    HCL(a, b) = [MSE(a, b) + sum_l w_l MSE(pool_l(a), pool_l(b))] / (1 + sum_l w_l),   l = 4, 2, 1               (2)
    L = w_label CE(s, y) + w_feature min(1, x / x_0) sum_k HCL(BN(conv3x3(R_k)), F'_k),   x the progress         (3)

HCL is the hierarchical context loss: l runs over the grids that are coarser than the map, w_l = 1/2, 1/4, 1/8 in this
order. R_n = X_n. m is the smaller of 512 and the width of the student's pooled vector, w_feature ramps up over the
first 20 of 240 epochs (x_0 = 1/12), as in the authors' CIFAR-100 code. Its weights go from 0.6 to 8 with the pair, 1 is
its default and what it used on ImageNet for ResNet-34 to ResNet-18.

The maps were those before the last ReLU, of the teacher's grid, to which the student's are enlarged. Here they are the
stages' ends on the coarser grid (crossdistill.modules.alignment), standardised: what BN of (3) gives has unit
deviation.
"""

from collections.abc import Iterable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import check_range
from crossdistill.modules.alignment import StageAlignment, batch_norm, first_images
from crossdistill.modules.standardizer import Standardizer
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel

_HCL_LEVELS = (4, 2, 1)
_WIDEST_FUSION = 512


def hcl_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Equation (2): squared error of two maps and of their averages over ever coarser grids, mean over all elements.

    Args:
        student_features: (B, C, H, W).
        teacher_features: (B, C, H, W).
    """
    loss = F.mse_loss(student_features, teacher_features)
    weight, total = 1.0, 1.0
    for level in _HCL_LEVELS:
        if level >= min(student_features.shape[2:]):
            continue
        weight /= 2
        student = F.adaptive_avg_pool2d(student_features, level)
        teacher = F.adaptive_avg_pool2d(teacher_features, level)
        loss = loss + weight * F.mse_loss(student, teacher)
        total += weight
    return loss / total


class Fusion(nn.Module):
    """Equation (1), and the projection of (3).

    Args:
        channels: of the student's map.
        width: m.
        outputs: channels of the teacher's map.
        deepest: no map comes up from below.
    """

    def __init__(self, channels: int, width: int, outputs: int, deepest: bool) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, width, kernel_size=1, bias=False)
        self.enter_norm = nn.BatchNorm2d(width)
        self.attention = None if deepest else nn.Conv2d(2 * width, 2, kernel_size=1)
        self.leave = nn.Conv2d(width, outputs, kernel_size=3, padding=1, bias=False)
        self.leave_norm = nn.BatchNorm2d(outputs)
        # As released.
        nn.init.kaiming_uniform_(self.enter.weight, a=1)
        nn.init.kaiming_uniform_(self.leave.weight, a=1)

    def forward(self, feature: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """F_k (B, C, H, W) and R_{k+1} (B, m, h, w) -> the projection (B, outputs, H, W) and R_k (B, m, H, W)."""
        fused = batch_norm(self.enter_norm, self.enter(feature))
        if self.attention is not None:
            assert deeper is not None
            deeper = F.interpolate(deeper, fused.shape[2:], mode="nearest")
            own, other = torch.sigmoid(self.attention(torch.cat([fused, deeper], dim=1))).split(1, dim=1)
            fused = own * fused + other * deeper
        return batch_norm(self.leave_norm, self.leave(fused)), fused


class ReviewKD(Distiller):
    """Knowledge review: each level of the teacher is predicted from this and all deeper levels of the student.

    Args:
        student: the model that is trained, of any architecture.
        teacher: the model that is learnt from, of any architecture; it needs no head.
        stages: stages of the student that are matched, counted from 1; default: all that have a partner.
        width: m; default: the smaller of 512 and the width of the student's pooled vector.
        label_weight: w_label of equation (3).
        feature_weight: w_feature of equation (3); 1 by the authors' default, 0.6 to 8 with their pairs.
        warm_up: x_0 of equation (3), the share of the training over which the weight grows from 0; 0 for none.
        standardize_features: standardise the teacher's features per level and channel; False as published.
    """

    needs = Needs(teacher={"features", "pooled"}, student={"features", "pooled"})
    # The authors' weights are 0.6 to 8, by the pair.
    ranges: ClassVar = {"feature_weight": Range(0.1, 10, log=True)}

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        stages: list[int] | None = None,
        width: int | None = None,
        label_weight: float = 1.0,
        feature_weight: float = 1.0,
        warm_up: float = 1 / 12,
        standardize_features: bool = True,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        width = min(_WIDEST_FUSION, student.pooled_size) if width is None else width
        check_range("reviewkd", at_least=1, width=width)
        check_range("reviewkd", at_least=0, at_most=1, warm_up=warm_up)
        self.feature_weight = feature_weight
        self.warm_up = warm_up
        self.alignment = StageAlignment(student, teacher, stages, standardize=standardize_features, owner="reviewkd")
        self.pooled_standardizer = Standardizer(teacher.pooled_size, enabled=standardize_features)
        self.fusions = nn.ModuleList(
            Fusion(ours.channels, width, theirs.channels, deepest=False) for ours, theirs in self.alignment.pairs
        )
        self.pooled_fusion = Fusion(student.pooled_size, width, teacher.pooled_size, deepest=True)
        self.rank_local = self.alignment.statistics("alignment")
        pooled = (f"pooled_standardizer.{name}" for name, _ in self.pooled_standardizer.named_buffers())
        self.rank_local += tuple(pooled)

    def prepare(self, batches: Iterable[Tensor]) -> dict[str, float]:
        for images in first_images(batches):
            outputs = self.teach(images)
            self.alignment.measure(outputs)
            self.pooled_standardizer.measure(outputs.pooled)
        return {}

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        if self.training:
            self.pooled_standardizer.measure(teacher.pooled)
        weight = self.feature_weight * ((self.progress / self.warm_up).clamp(max=1) if self.warm_up else 1.0)
        projection, deeper = self.pooled_fusion(_as_map(student.pooled), None)
        terms = {"pooled": weight * hcl_loss(projection, _as_map(self.pooled_standardizer(teacher.pooled)))}
        levels = zip(self.alignment.numbers, self.fusions, self.alignment(student, teacher), strict=True)
        for number, fusion, (ours, theirs) in reversed(list(levels)):
            projection, deeper = fusion(ours, deeper)
            terms[f"stage{number}"] = weight * hcl_loss(projection, theirs)
        return terms


def _as_map(pooled: Tensor) -> Tensor:
    return pooled[:, :, None, None]
