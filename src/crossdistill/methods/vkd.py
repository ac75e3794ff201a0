"""VkD: an orthogonal projector and a normalised target.

Miles, Elezi, Deng: VkD: Improving Knowledge Distillation using Orthogonal Projections (CVPR 2024, arXiv 2403.06213). A
projector that is free to learn can do the matching in the student's stead. One that keeps all angles and lengths
cannot: what matches is the student's own representation. With s and t the means of the patch positions of the last
maps,

    vkd_loss(W s, t) = SmoothL1(W s, LayerNorm(t)),   W^T W = 1                                                 (1)
    L = w_label CE(s_class, y) + w_logit KL(t || s_distillation) + w_feature vkd_loss(W s, t)                  (2)

Smooth L1 has its bend at 1 and is a mean over elements, LayerNorm has no parameters, all weights are 1, as in the
released code. There the student is a distilled DeiT: its class head learns the labels and the head of its distillation
token the teacher's answer. A student with one head learns both with that. A teacher without a head has no second term:
set `logit_weight=0`.

W has orthonormal columns, or rows where the student is the wider one: then only a part of it, of the teacher's width,
is matched. It is a product of Householder reflections, orthogonal whatever the optimiser does to their vectors.
(PyTorch's `parametrizations.orthogonal`, which the released code names, reads signs from the parameter as integers, and
any weight decay turns them to zero and W with them.)
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import check_range
from crossdistill.methods.kd import kd_loss
from crossdistill.modules.precision import in_float32
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel


@in_float32
def vkd_loss(student_projected: Tensor, teacher_pooled: Tensor) -> Tensor:
    """Equation (1), mean over all elements.

    Args:
        student_projected: (B, D), W s.
        teacher_pooled: (B, D), t.
    """
    return F.smooth_l1_loss(student_projected, F.layer_norm(teacher_pooled, teacher_pooled.shape[1:]))


class OrthogonalProjection(nn.Module):
    """A linear map that keeps angles and lengths; onto fewer channels, those of a subspace.

    Args:
        channels: D of the vectors.
        outputs: D of the result.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.widens = outputs >= channels
        # Each column, below the diagonal and with 1 on it, is the vector of a reflection.
        rows, columns = max(channels, outputs), min(channels, outputs)
        self.reflections = nn.Parameter(torch.geqrf(torch.randn(rows, columns))[0].tril(diagonal=-1))

    def weight(self) -> Tensor:
        """(outputs, channels), with orthonormal columns or rows."""
        vectors = self.reflections.tril(diagonal=-1)
        columns = torch.linalg.householder_product(vectors, 2 / (1 + vectors.square().sum(dim=0)))
        return columns if self.widens else columns.mT

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, channels) -> (B, outputs)."""
        return F.linear(vectors, self.weight())


class VkD(Distiller):
    """Orthogonal projection: the student's pooled patches, turned but not bent, match the teacher's normalised ones.

    Args:
        student: the model that is trained, of any architecture; a distilled ViT in the paper.
        teacher: the model that is learnt from, of any architecture.
        label_weight: w_label of equation (2).
        logit_weight: w_logit of equation (2); 0 for a teacher without a head.
        feature_weight: w_feature of equation (2).
        temperature: of the second term of equation (2), as in `kd_loss`; 1 in the authors' code.
    """

    needs = Needs(teacher={"final"}, student={"final"})
    ranges: ClassVar = {
        "logit_weight": Range(0.1, 10, log=True),
        "feature_weight": Range(0.1, 10, log=True),
        "temperature": Range(1, 4, log=True),
    }

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        label_weight: float = 1.0,
        logit_weight: float = 1.0,
        feature_weight: float = 1.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        check_range("vkd", above=0, temperature=temperature)
        if logit_weight:
            self.declare(teacher={"logits"}, student={"head_logits"})
        self.logit_weight = logit_weight
        self.feature_weight = feature_weight
        self.temperature = temperature
        self.projector = OrthogonalProjection(student.final_channels, teacher.final_channels)

    def label_terms(self, student: Outputs, labels: Tensor) -> dict[str, Tensor]:
        if len(self.student.heads) < 2 or not self.logit_weight:
            return super().label_terms(student, labels)
        return {"labels": F.cross_entropy(student.head_logits["class"], labels)}

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        ours, theirs = student.final.mean(dim=(2, 3)), teacher.final.mean(dim=(2, 3))
        terms = {"features": self.feature_weight * vkd_loss(self.projector(ours), theirs)}
        if self.logit_weight:
            logits = student.head_logits[self.student.heads[-1]]
            terms["logits"] = self.logit_weight * kd_loss(logits, teacher.logits, self.temperature)
        return terms
