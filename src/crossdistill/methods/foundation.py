"""Foundation: what a foundation model represents, without labels.

Sariyildiz et al.: UNIC: Universal Classification Models via Multi-teacher Distillation (ECCV 2024, arXiv 2408.05088)
for the loss, Zhang et al.: Accessing Vision Foundation Models via ImageNet-1K (Proteus, ICLR 2025, arXiv 2407.10366)
for the projectors. The student learns the teacher's pooled vector and its vector at every patch; neither labels nor a
head of the teacher are read, so that a self-supervised or image-text backbone can teach. With P_1, P_2 a LayerNorm and
a linear layer each, and the teacher's vectors standardised per channel,

    foundation_loss(s, t) = w_cosine (1 - cos(s, t)) + w_l1 SmoothL1(s, t)                                    (1)
    L = w_pooled foundation_loss(P_1(s_pooled), t_pooled) + w_patch mean_i foundation_loss(P_2(s_i), t_i) + w_label CE

Smooth L1 has its bend at 1 and is a mean over channels. w_cosine = w_l1 = 1/2, and the mean of both kinds of vectors,
are UNIC's; Proteus takes the mean squared error, of class token, patches and masked patches. UNIC's projectors are MLPs
(`hidden_size=3072` on the last block) fed by all blocks; only the last map is read here. Masked patches and several
teachers are left out. The pooled vector is what the teacher's classifier reads, or returns where it has none: the class
token of DINOv2, the mean of a CNN. Patches meet on the coarser of the two grids.

w_label is 0, as in both papers: the student's head is not trained, and `top1` says nothing. Train a head afterwards
(`crossdistill train --student_weights FILE`), or along with it by `label_weight=1`. What to watch in the meantime is
`teacher_cosine`, the mean of cos(P_1(s_pooled), t_pooled) over validation images, in percent.
"""

from collections.abc import Iterable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import check_range
from crossdistill.modules.alignment import first_images, match_grids
from crossdistill.modules.initialization import initialise
from crossdistill.modules.precision import in_float32
from crossdistill.modules.standardizer import Standardizer
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel


@in_float32
def foundation_loss(
    student_vectors: Tensor, teacher_vectors: Tensor, cosine_weight: float = 0.5, smooth_l1_weight: float = 0.5
) -> Tensor:
    """Equation (1), mean over images and positions.

    Args:
        student_vectors: (B, D) or (B, N, D).
        teacher_vectors: of the same shape.
        cosine_weight: w_cosine.
        smooth_l1_weight: w_l1.
    """
    cosine = F.cosine_similarity(student_vectors, teacher_vectors, dim=-1).mean()
    return cosine_weight * (1 - cosine) + smooth_l1_weight * F.smooth_l1_loss(student_vectors, teacher_vectors)


class Foundation(Distiller):
    """A foundation model's representation: its pooled vector and its patches, by cosine and smooth L1, without labels.

    Args:
        student: the model that is trained, of any architecture.
        teacher: the model that is learnt from, of any architecture; it needs no head.
        cosine_weight: w_cosine of equation (1); 0.5 in UNIC.
        smooth_l1_weight: w_l1 of equation (1); 0.5 in UNIC.
        pooled_weight: w_pooled; 0.5 in UNIC, which averages both kinds of vectors.
        patch_weight: w_patch; 0.5 in UNIC.
        hidden_size: units of one hidden layer in the projectors; 0 for none, as in Proteus; 3072 in UNIC.
        standardize_features: standardise the teacher's vectors per channel, as in UNIC; Proteus does not.
        label_weight: weight of the cross-entropy with the labels, where there are any; 0 does not train the head.
    """

    needs = Needs(teacher={"final", "pooled"}, student={"final", "pooled"})
    # Two ratios: of patches to the pooled vector, of Smooth L1 to the cosine. Accuracy tells them apart only where a
    # label_weight trains the head.
    ranges: ClassVar = {"patch_weight": Range(0.05, 5, log=True), "smooth_l1_weight": Range(0.05, 5, log=True)}

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        cosine_weight: float = 0.5,
        smooth_l1_weight: float = 0.5,
        pooled_weight: float = 0.5,
        patch_weight: float = 0.5,
        hidden_size: int = 0,
        standardize_features: bool = True,
        label_weight: float = 0.0,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        check_range("foundation", at_least=0, hidden_size=hidden_size)
        self.cosine_weight = cosine_weight
        self.smooth_l1_weight = smooth_l1_weight
        self.pooled_weight = pooled_weight
        self.patch_weight = patch_weight
        self.project_pooled = _projector(student.pooled_size, teacher.pooled_size, hidden_size)
        self.project_patches = _projector(student.final_channels, teacher.final_channels, hidden_size)
        self.standardizers = nn.ModuleDict(
            {
                "pooled": Standardizer(teacher.pooled_size, enabled=standardize_features),
                "patches": Standardizer(teacher.final_channels, enabled=standardize_features),
            }
        )
        self.rank_local = tuple(f"standardizers.{name}" for name, _ in self.standardizers.named_buffers())

    def prepare(self, batches: Iterable[Tensor]) -> dict[str, float]:
        for images in first_images(batches):
            self._measure(self.teach(images))
        return {}

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        if self.training:
            self._measure(teacher)
        ours, theirs = match_grids(student.final, self.standardizers["patches"](teacher.final))
        pooled = self._loss(self.project_pooled(student.pooled), self.standardizers["pooled"](teacher.pooled))
        patches = self._loss(self.project_patches(_tokens(ours)), _tokens(theirs))
        return {"pooled": self.pooled_weight * pooled, "patches": self.patch_weight * patches}

    @torch.no_grad()
    def validation_metrics(self, batch: Batch, model: StagedModel, outputs: Outputs) -> dict[str, Tensor]:
        """Cosine of the projected and the teacher's pooled vector."""
        ours = self.project_pooled(outputs.pooled)
        theirs = self.standardizers["pooled"](self.teach(batch.images).pooled)
        return {"teacher_cosine": F.cosine_similarity(ours.float(), theirs.float(), dim=1)}

    def _loss(self, ours: Tensor, theirs: Tensor) -> Tensor:
        return foundation_loss(ours, theirs, self.cosine_weight, self.smooth_l1_weight)

    def _measure(self, teacher: Outputs) -> None:
        for name, vectors in (("pooled", teacher.pooled), ("patches", teacher.final)):
            standardizer = self.standardizers[name]
            assert isinstance(standardizer, Standardizer)
            standardizer.measure(vectors)


def _projector(channels: int, outputs: int, hidden: int) -> nn.Module:
    widths = [channels, hidden, outputs] if hidden else [channels, outputs]
    layers: list[nn.Module] = [nn.LayerNorm(channels)]
    for i in range(len(widths) - 1):
        layers += [nn.GELU()] if i else []
        layers.append(nn.Linear(widths[i], widths[i + 1]))
    return nn.Sequential(*layers).apply(initialise)


def _tokens(feature: Tensor) -> Tensor:
    """(B, D, H, W) -> (B, H W, D)."""
    return feature.flatten(2).mT
