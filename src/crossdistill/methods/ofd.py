"""OFD: the overhaul of feature distillation, a partial distance behind a margin ReLU.

Heo et al.: A Comprehensive Overhaul of Feature Distillation (ICCV 2019, arXiv 1904.01866), section 3. A negative
response of the teacher says that something is absent, and its size nothing more: it is cut at the channel's margin m,
and the student may be below it. With r_k a 1x1 convolution and a batch norm,

    m_c = E[F'_c | F'_c < 0]                                                                                    (1)
    ofd_loss(S, F', m) = sum over c, h, w of (S - max(F', m))^2, where S > max(F', m) or F' > 0; mean over images  (2)
    L = w_label CE(s, y) + w_feature sum_k 2^(k - n) ofd_loss(r_k(F_k), F'_k, m_k),   k = 1 ... n                (3)

(2) is a sum over elements, so its weight goes with the size of the maps: the authors' code has 1e-3 on CIFAR-100 at 32
pixels and 1e-4 on ImageNet at 224. They compute (1) from the parameters of the batch norm in front of the ReLU, under a
normal distribution; here it is measured on training images before the first step, for any teacher.

The paper's position is before the last ReLU of a stage, which its models were rewritten to give. The stages' ends are
behind it in ResNets: no response is negative, the margins are zero, and what is left of the method is that the student
may be below zero where the teacher is zero. ConvNeXt, Swin, ViT and MobileNets end their stages without a ReLU and have
margins. The teacher's channels are divided by their deviation, which keeps the signs and lets a weight serve several
teachers (the authors' lie behind a batch norm); `scale_features=False` leaves them.
"""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.modules.alignment import StageAlignment, batch_norm, first_images
from crossdistill.modules.initialization import initialise
from crossdistill.modules.precision import in_float32
from crossdistill.modules.standardizer import Standardizer
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel


@in_float32
def ofd_loss(student_features: Tensor, teacher_features: Tensor, margins: Tensor) -> Tensor:
    """Equation (2): sum over channels and positions, mean over images.

    Args:
        student_features: (B, C, H, W), S, projected to the teacher's channels.
        teacher_features: (B, C, H, W), F'.
        margins: (C,), m, of 0 or less.
    """
    target = teacher_features.maximum(margins[:, None, None])
    counts = (student_features > target) | (teacher_features > 0)
    return torch.where(counts, (student_features - target).square(), 0.0).sum() / len(student_features)


class Margin(nn.Module):
    """Equation (1): the mean of the negative values of each channel, over all that was measured; 0 where none were.

    Args:
        channels: C.
    """

    mean: Tensor
    count: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("count", torch.zeros(channels))

    @torch.no_grad()
    def measure(self, feature: Tensor) -> None:
        """Take (B, C, H, W) into the means."""
        count = (feature < 0).sum(dim=(0, 2, 3))
        total = feature.to(self.mean.dtype).clamp(max=0).sum(dim=(0, 2, 3))
        self.count = self.count + count
        self.mean = self.mean + (total - count * self.mean) / self.count.clamp(min=1)

    def forward(self) -> Tensor:
        """m, (C,)."""
        return self.mean


class Connector(nn.Module):
    """One stage of the student beside one of the teacher: r_k, and what is known of the teacher's channels.

    Args:
        channels: of the student's map.
        outputs: of the teacher's map.
        scale: divide the teacher's channels by their standard deviation.
    """

    def __init__(self, channels: int, outputs: int, scale: bool) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, outputs, kernel_size=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.margin = Margin(outputs)
        self.scale = Standardizer(outputs, enabled=scale)
        # As released.
        initialise(self.projection)

    def measure(self, theirs: Tensor) -> None:
        """Take a batch of the teacher's maps, (B, outputs, H, W), into the statistics."""
        self.margin.measure(theirs)
        self.scale.measure(theirs)

    def forward(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """The loss of (B, channels, H, W) and (B, outputs, H, W)."""
        deviation = self.scale.deviation()
        margins = self.margin() / deviation.flatten()
        return ofd_loss(batch_norm(self.norm, self.projection(ours)), theirs / deviation, margins)


class OFD(Distiller):
    """The overhaul: each stage of the student matches the teacher's where the teacher responds, and is below elsewhere.

    Args:
        student: the model that is trained, of any architecture.
        teacher: the model that is learnt from, of any architecture; it needs no head.
        stages: stages of the student that are matched, counted from 1; default: all that have a partner.
        label_weight: w_label of equation (3).
        feature_weight: w_feature of equation (3); the authors' 1e-3 for images of 32 pixels, 1e-4 for 224.
        scale_features: divide the teacher's channels by their standard deviation; False as published.
    """

    needs = Needs(teacher={"features"}, student={"features"})
    # A sum over elements: the weight that suits falls with the size of the maps.
    ranges: ClassVar = {"feature_weight": Range(1e-5, 1e-2, log=True)}

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        stages: list[int] | None = None,
        label_weight: float = 1.0,
        feature_weight: float = 1e-3,
        scale_features: bool = True,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        self.feature_weight = feature_weight
        self.alignment = StageAlignment(student, teacher, stages, owner="ofd")
        self.connectors = nn.ModuleList(
            Connector(ours.channels, theirs.channels, scale_features) for ours, theirs in self.alignment.pairs
        )
        buffers = (f"connectors.{name}" for name, _ in self.connectors.named_buffers())
        self.rank_local = tuple(name for name in buffers if ".margin." in name or ".scale." in name)

    def prepare(self, batches: Iterable[Tensor]) -> dict[str, float]:
        for images in first_images(batches):
            self._measure(self.teach(images))
        return {}

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        if self.training:
            self._measure(teacher)
        terms = {}
        aligned = zip(self.alignment.numbers, self.connectors, self.alignment(student, teacher), strict=True)
        for before_last, (number, connector, (ours, theirs)) in enumerate(reversed(list(aligned))):
            terms[f"stage{number}"] = self.feature_weight * 0.5**before_last * connector(ours, theirs)
        return terms

    def _measure(self, teacher: Outputs) -> None:
        for connector, theirs in zip(self.connectors, self.alignment.teacher_maps(teacher), strict=True):
            assert isinstance(connector, Connector)
            connector.measure(theirs)
