"""AB: on which side of a neuron's boundary an image lies.

Heo et al.: Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons (AAAI 2019, arXiv
1811.03233). Whether a neuron responds matters more than how strongly. Signs have no gradient, so a hinge with a margin
stands for them; with r_k a 1x1 convolution and a batch norm,

    ab_loss(S, F') = sum over c, h, w of max(0, m - S)^2 where F' > 0, max(0, m + S)^2 elsewhere; mean over images  (1)
    L = w_feature sum_k 2^(k - n) ab_loss(r_k(F_k), F'_k),   k = 1 ... n, for a first share of the training         (2)
    L = w_label CE(s, y) behind it

(1) with m = 1 is a sum over elements, so its weight goes with the size of the maps: the authors have 3e-3 on CIFAR-10
at 32 pixels and 1e-3 at 224. They initialise the student by (2), then train it on labels, or on the teacher's answers;
in `kd+ab` KD's term is there from the start. An eighth is the share in the benchmark of contrastive representation
distillation (arXiv 1910.10699), 30 of 240 epochs. Both parts are under one learning-rate schedule; theirs begins anew.

The paper's position is before a ReLU. The stages' ends are behind it in ResNets, where zero is the other side, which is
the same sign. Of residual streams (ViT, ConvNeXt) it is the sign of the stream, which nobody has tried.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import check_range
from crossdistill.modules.alignment import StageAlignment, batch_norm
from crossdistill.modules.initialization import initialise
from crossdistill.modules.precision import in_float32
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel


@in_float32
def ab_loss(student_features: Tensor, teacher_features: Tensor, margin: float = 1.0) -> Tensor:
    """Equation (1): sum over channels and positions, mean over images.

    Args:
        student_features: (B, C, H, W), S, projected to the teacher's channels.
        teacher_features: (B, C, H, W), F', of which the signs count.
        margin: m.
    """
    towards = torch.where(teacher_features > 0, -student_features, student_features)
    return F.relu(margin + towards).square().sum() / len(student_features)


class Connector(nn.Module):
    """r_k: a 1x1 convolution and a batch norm.

    Args:
        channels: of the student's map.
        outputs: of the teacher's map.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, outputs, kernel_size=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        # As released.
        initialise(self.projection)

    def forward(self, ours: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, outputs, H, W)."""
        return batch_norm(self.norm, self.projection(ours))


class AB(Distiller):
    """Activation boundaries: each stage of the student is positive where the teacher's is, then learns the labels.

    Args:
        student: the model that is trained, of any architecture.
        teacher: the model that is learnt from, of any architecture; it needs no head.
        stages: stages of the student that are matched, counted from 1; default: all that have a partner.
        label_weight: w_label of equation (2), behind the first share of the training.
        feature_weight: w_feature of equation (2); the authors' 3e-3 for images of 32 pixels, 1e-3 for 224.
        margin: m of equation (1); 1 in the authors' code.
        initialization: share of the training that learns boundaries alone; 1 learns both all the time.
    """

    needs = Needs(teacher={"features"}, student={"features"})
    # A sum over elements: the weight that suits falls with the size of the maps.
    ranges: ClassVar = {"feature_weight": Range(1e-4, 0.1, log=True)}

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        stages: list[int] | None = None,
        label_weight: float = 1.0,
        feature_weight: float = 3e-3,
        margin: float = 1.0,
        initialization: float = 0.125,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        check_range("ab", above=0, margin=margin)
        check_range("ab", above=0, at_most=1, initialization=initialization)
        self.feature_weight = feature_weight
        self.margin = margin
        self.initialization = initialization
        self.alignment = StageAlignment(student, teacher, stages, owner="ab")
        self.connectors = nn.ModuleList(
            Connector(ours.channels, theirs.channels) for ours, theirs in self.alignment.pairs
        )

    def label_terms(self, student: Outputs, labels: Tensor) -> dict[str, Tensor]:
        begun = self._boundaries_are_over() if self.initialization < 1 else 1.0
        return {name: begun * term for name, term in super().label_terms(student, labels).items()}

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        going_on = 1 - self._boundaries_are_over() if self.initialization < 1 else 1.0
        terms = {}
        aligned = zip(self.alignment.numbers, self.connectors, self.alignment(student, teacher), strict=True)
        for before_last, (number, connector, (ours, theirs)) in enumerate(reversed(list(aligned))):
            weight = self.feature_weight * 0.5**before_last
            # A switch of 0 or 1: other processes wait for the gradient of every parameter.
            terms[f"stage{number}"] = going_on * weight * ab_loss(connector(ours), theirs, self.margin)
        return terms

    def _boundaries_are_over(self) -> Tensor:
        return (self.progress >= self.initialization).to(self.progress.dtype)
