"""PKT: the probability that one image picks another as its neighbour is the teacher's.

Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer (ECCV 2018, arXiv 1803.10837). The
affinities of an image to all images of the batch, summing to 1, are a distribution over neighbours; the student's is
brought to the teacher's. Only similarities are compared, so the two embeddings may be of any width.

With cos the cosine of the vectors that the classifiers read,

    a_ij = (1 + cos(x_i, x_j)) / 2,   p_ij = a_ij / sum_k a_ik                                            (1)
    L_PKT = mean_ij p^T_ij log((p^T_ij + eps) / (p^S_ij + eps))                                           (2)
    L = w_label CE(s, y) + w_PKT L_PKT                                                                    (3)

The mean over pairs is the released code's; the paper writes a sum. Affinities are all near 1 / B, so (2) falls as
1 / B^2 and more: the large weight is for batches of 64 to 128. The images are those of one forward pass, of all
processes.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.modules.gather import gather_batches
from crossdistill.modules.precision import in_float32
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel

# The authors'.
_EPSILON = 1e-7


@in_float32
def pkt_loss(student_pooled: Tensor, teacher_pooled: Tensor) -> Tensor:
    """Equation (2).

    Args:
        student_pooled: (B, D_S).
        teacher_pooled: (B, D_T), of the same images.
    """
    student, teacher = _neighbours(student_pooled), _neighbours(teacher_pooled)
    return (teacher * ((teacher + _EPSILON) / (student + _EPSILON)).log()).mean()


def _neighbours(pooled: Tensor) -> Tensor:
    """Equation (1), (B, B)."""
    directions = F.normalize(pooled, dim=1, eps=_EPSILON)
    affinities = (1 + directions @ directions.mT) / 2
    return affinities / affinities.sum(dim=1, keepdim=True)


class PKT(Distiller):
    """Probabilistic knowledge transfer between the pooled vectors of the images of a batch, equation (3).

    Args:
        student: the model that is trained, of any architecture.
        teacher: the model that is learnt from, of any architecture, with or without a head.
        neighbour_weight: w_PKT; 30000 in RepDistiller and mdistiller. The authors train with (2) alone.
        label_weight: weight of the cross-entropy with the labels.
    """

    needs = Needs(teacher={"pooled"}, student={"pooled"})
    # The weight that suits grows with the square of the batch.
    ranges: ClassVar = {"neighbour_weight": Range(1000, 1_000_000, log=True)}

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        neighbour_weight: float = 30000.0,
        label_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        self.neighbour_weight = neighbour_weight

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        loss = pkt_loss(gather_batches(student.pooled), gather_batches(teacher.pooled))
        return {"neighbours": self.neighbour_weight * loss}
