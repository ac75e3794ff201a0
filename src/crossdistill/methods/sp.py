"""SP: images that are alike in the teacher's last map become alike in the student's.

Tung, Mori: Similarity-Preserving Knowledge Distillation (ICCV 2019, arXiv 1907.09682). Each map is a vector; the
similarities of the images of a batch with each other are a matrix of one size, whatever the maps' widths and grids.

With Q (B, C H W) the maps,

    G = Q Q^T, each row divided by its norm                                                               (1)
    L_SP = |G_T - G_S|^2 / B^2                                                                            (2)
    L = w_label CE(s, y) + gamma L_SP                                                                     (3)

A row of G has norm 1, so (2) falls as 1 / B: gamma is for batches of 64 to 128. The images are those of one forward
pass, of all processes.
"""

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.modules.gather import gather_batches
from crossdistill.modules.precision import in_float32
from crossdistill.ranges import Choice, Range
from crossdistill.staged import Outputs, StagedModel


@in_float32
def sp_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Equation (2).

    Args:
        student_features: (B, ...), maps or pooled vectors.
        teacher_features: (B, ...), of the same images.
    """
    # Of (B, B) values each, the mean is the sum over B^2.
    return F.mse_loss(_similarities(student_features), _similarities(teacher_features))


def _similarities(features: Tensor) -> Tensor:
    """Equation (1), (B, B)."""
    flat = features.flatten(1)
    return F.normalize(flat @ flat.mT, dim=1)


class SP(Distiller):
    """Similarity-preserving distillation of the last maps (or of the pooled vectors), equation (3).

    Args:
        student: the model that is trained, of any architecture.
        teacher: the model that is learnt from, of any architecture, with or without a head.
        similarity_weight: gamma; 3000 in RepDistiller (whose SP the authors verified) and mdistiller.
        feature: "map", what is pooled, patch positions only, as in the paper; or "pooled", what the classifier reads:
            of a class token's model the map says less of the answer.
        label_weight: weight of the cross-entropy with the labels.
    """

    needs = Needs(teacher={"final"}, student={"final"})
    # The weight that suits grows with the batch.
    ranges: ClassVar = {"similarity_weight": Range(100, 100_000, log=True), "feature": Choice(("map", "pooled"))}

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        similarity_weight: float = 3000.0,
        feature: Literal["map", "pooled"] = "map",
        label_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        self.similarity_weight = similarity_weight
        self.feature = "final" if feature == "map" else "pooled"
        self.declare(teacher={self.feature}, student={self.feature})

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        ours, theirs = (gather_batches(getattr(outputs, self.feature)) for outputs in (student, teacher))
        return {"similarities": self.similarity_weight * sp_loss(ours, theirs)}
