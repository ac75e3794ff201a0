"""RKD: the images of a batch keep the distances and angles that they have in the teacher's embedding.

Park et al.: Relational Knowledge Distillation (CVPR 2019, arXiv 1904.05068). What is taught is not where an image lies
but how images lie to each other, so that the two embeddings need not have one width, nor anything else in common.

With t_i, s_i the vectors that the classifiers read, mu the mean distance of two different images, and h the Huber loss
(quadratic up to 1),

    psi_D(i, j) = |t_i - t_j| / mu                                                                        (1)
    L_D = mean_ij h(psi_D(t_i, t_j), psi_D(s_i, s_j))                                                     (2)
    psi_A(i, j, k) = <e_ij, e_kj>,  e_ij = (t_i - t_j) / |t_i - t_j|                                      (3)
    L_A = mean_ijk h(psi_A(t_i, t_j, t_k), psi_A(s_i, s_j, s_k))                                          (4)
    L = w_label CE(s, y) + w_D L_D + w_A L_A                                                              (5)

The means are over all pairs and triples, those of an image with itself included, as in the authors' code. The images
are those of one forward pass, of all processes; each process has the angles at its own images. (4) takes B^3 values of
memory: 64 MB at a batch of 256 for each of a few tensors, 4 GB at 1024.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.modules.gather import gather_batches
from crossdistill.modules.precision import in_float32
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel

# Below this a distance is none; the authors'.
_EPSILON = 1e-12


def rkd_loss(student_pooled: Tensor, teacher_pooled: Tensor, distance_weight: float, angle_weight: float) -> Tensor:
    """Equation (5) without the label term.

    Args:
        student_pooled: (B, D_S).
        teacher_pooled: (B, D_T), of the same images.
        distance_weight: w_D.
        angle_weight: w_A.
    """
    distances, angles = distance_loss(student_pooled, teacher_pooled), angle_loss(student_pooled, teacher_pooled)
    return distance_weight * distances + angle_weight * angles


@in_float32
def distance_loss(student_pooled: Tensor, teacher_pooled: Tensor) -> Tensor:
    """Equation (2): (B, D_S) and (B, D_T) -> a scalar."""
    return F.smooth_l1_loss(_distances(student_pooled), _distances(teacher_pooled))


@in_float32
def angle_loss(student_pooled: Tensor, teacher_pooled: Tensor, vertices: int | None = None) -> Tensor:
    """Equation (4).

    Args:
        student_pooled: (B, D_S).
        teacher_pooled: (B, D_T), of the same images.
        vertices: the first so many images are the middle one of a triple, j; default: all.
    """
    return F.smooth_l1_loss(_angles(student_pooled, vertices), _angles(teacher_pooled, vertices))


def _distances(pooled: Tensor) -> Tensor:
    """(B, B), the mean of those that are not 0 being 1."""
    # Not through a matrix product, which loses small distances and has no gradient at 0.
    distances = torch.cdist(pooled, pooled, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / mean.clamp(min=_EPSILON)


def _angles(pooled: Tensor, vertices: int | None) -> Tensor:
    """Cosines (vertices, B, B) of the angle at each vertex between any two images."""
    edges = F.normalize(pooled[None, :] - pooled[:vertices, None], dim=2, eps=_EPSILON)
    return edges @ edges.mT


class RKD(Distiller):
    """Relational distillation: distances and angles between the pooled vectors of the images of a batch, equation (5).

    Args:
        student: the model that is trained, of any architecture.
        teacher: the model that is learnt from, of any architecture, with or without a head.
        distance_weight: w_D; 25 in RepDistiller, mdistiller and OFA-KD (for its unlike pairs too). The authors' metric
            learning has 1.
        angle_weight: w_A; 50 there. The authors' metric learning has 2.
        label_weight: weight of the cross-entropy with the labels.
    """

    needs = Needs(teacher={"pooled"}, student={"pooled"})
    # From the authors' metric learning, 1 and 2, to ten times the field's 25 and 50.
    ranges: ClassVar = {"distance_weight": Range(1, 250, log=True), "angle_weight": Range(2, 500, log=True)}

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        label_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        ours, theirs = gather_batches(student.pooled), gather_batches(teacher.pooled)
        return {
            "distances": self.distance_weight * distance_loss(ours, theirs),
            "angles": self.angle_weight * angle_loss(ours, theirs, vertices=len(student.pooled)),
        }
