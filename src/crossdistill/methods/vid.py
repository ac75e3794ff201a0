"""VID: variational information distillation, the teacher's features predicted with a learnt uncertainty.

Ahn et al.: Variational Information Distillation for Knowledge Transfer (CVPR 2019, arXiv 1904.05835), section 2. The
mutual information between a stage of the teacher and of the student is at least the log likelihood of the teacher's
features under a Gaussian whose mean mu(F) the student predicts and whose variance each channel learns. With softplus
the logarithm of 1 + exp,

    vid_loss(mu, F', a) = mean (mu - F')^2 / (2 sigma^2) + log(sigma^2) / 2,   sigma^2 = softplus(a) + epsilon   (1)
    L = w_label CE(s, y) + w_feature sum_k vid_loss(mu_k(F_k), F'_k, a_k)

mu_k: three 1x1 convolutions with ReLUs between them, of the teacher's width; sigma^2 begins at 5, epsilon is 1e-5, the
weight 1, the mean is over all elements: as CRD's benchmark (arXiv 1910.10699) has it from the authors' code. What a
channel cannot predict costs log sigma at most, so no channel of the teacher is forced upon the student. That holds once
the variances have settled: from 5 they take long to reach those of a ViT's residual stream, so the teacher's features
are standardised first; `standardize_features=False` is the published form.
"""

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import check_range
from crossdistill.modules.alignment import StageAlignment, first_images
from crossdistill.modules.precision import in_float32
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel

_SMALLEST_VARIANCE = 1e-5


@in_float32
def vid_loss(predicted_mean: Tensor, teacher_features: Tensor, raw_variance: Tensor) -> Tensor:
    """Equation (1): negative log likelihood without its constant, mean over all elements.

    Args:
        predicted_mean: (B, C, H, W).
        teacher_features: (B, C, H, W).
        raw_variance: (C,), a.
    """
    variance = (F.softplus(raw_variance) + _SMALLEST_VARIANCE)[:, None, None]
    return 0.5 * ((predicted_mean - teacher_features).square() / variance + variance.log()).mean()


class VID(Distiller):
    """Variational information distillation: each stage of the student predicts the teacher's, as far as it can.

    Args:
        student: the model that is trained, of any architecture.
        teacher: the model that is learnt from, of any architecture; it needs no head.
        stages: stages of the student that are matched, counted from 1; default: all that have a partner.
        label_weight: w_label, of the cross-entropy with the labels.
        feature_weight: w_feature of each stage; 1 in CRD's benchmark.
        initial_variance: sigma^2 at first; 5 in CRD's benchmark.
        standardize_features: standardise the teacher's features per stage and channel; False as published.
    """

    needs = Needs(teacher={"features"}, student={"features"})
    ranges: ClassVar = {"feature_weight": Range(0.05, 20, log=True)}

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        stages: list[int] | None = None,
        label_weight: float = 1.0,
        feature_weight: float = 1.0,
        initial_variance: float = 5.0,
        standardize_features: bool = True,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        check_range("vid", above=_SMALLEST_VARIANCE, initial_variance=initial_variance)
        self.feature_weight = feature_weight
        self.alignment = StageAlignment(student, teacher, stages, standardize=standardize_features, owner="vid")
        self.rank_local = self.alignment.statistics("alignment")
        self.means = nn.ModuleList(_regressor(ours.channels, theirs.channels) for ours, theirs in self.alignment.pairs)
        # The inverse of softplus.
        raw = math.log(math.expm1(initial_variance - _SMALLEST_VARIANCE))
        self.raw_variances = nn.ParameterList(torch.full((t.channels,), raw) for _, t in self.alignment.pairs)

    def prepare(self, batches: Iterable[Tensor]) -> dict[str, float]:
        for images in first_images(batches):
            self.alignment.measure(self.teach(images))
        return {}

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        terms = {}
        aligned = self.alignment(student, teacher)
        parts = zip(self.alignment.numbers, self.means, self.raw_variances, aligned, strict=True)
        for number, mean, raw_variance, (ours, theirs) in parts:
            terms[f"stage{number}"] = self.feature_weight * vid_loss(mean(ours), theirs, raw_variance)
        return terms


def _regressor(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, outputs, kernel_size=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, kernel_size=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, kernel_size=1, bias=False),
    )
