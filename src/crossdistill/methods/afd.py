"""AFD: attention over the student's stages, so that what teaches what is learnt.

Ji, Heo, Park: Show, Attend and Distill: Knowledge Distillation via Attention-based Feature Matching (AAAI 2021, arXiv
2102.02973). Each stage t of the teacher asks the student's stages s how much each of them should learn from it, by
their means over positions g; the maps are compared where AT compares them, as energies A over positions. With linear
layers W, batch norms N, position embeddings p of width d, and a ReLU on the keys alone,

    q_t = N(W_t g_t),   k_s = ReLU(N(W_s g_s)),   [k_s1 ... k_sT] = N(W k_s)                                  (1)
    a_ts = softmax over s of (q_t . k_st + p_t . p_s) / sqrt(d)                                                (2)
    afd_loss = mean over images of sum_s a_ts mean over positions of (A(F_s) / |A(F_s)| - A(F'_t) / |A(F'_t)|)^2  (3)
    L = w_label CE(s, y) + w_feature sum_t afd_loss

d = 128 and w_feature = 200 are the authors'. The paper has a norm where their code, and so this, has the mean square.
Their code adds 0.9 KD with T = 4 beside the labels: that is `kd+afd`.

The student's energies are brought to the teacher's grid, unlike the rule of the other methods (the coarser grid):
the attention weighs the student's stages by their distance, and distances on grids of different sizes differ by that
alone. A teacher's grid of one position has no places, and its term is zero; below 49 positions the weight shrinks in
proportion, as in AT.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import check_range
from crossdistill.methods.at import SMALLEST_GRID
from crossdistill.modules.alignment import batch_norm, shrink
from crossdistill.modules.precision import in_float32
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel


@in_float32
def afd_loss(student_energies: Tensor, teacher_energy: Tensor, attention: Tensor) -> Tensor:
    """Equation (3) of one stage of the teacher.

    Args:
        student_energies: (B, S, N), A of each of the student's stages on the teacher's grid.
        teacher_energy: (B, N), A of the teacher's.
        attention: (B, S), a_t, whose rows sum to one.
    """
    ours, theirs = F.normalize(student_energies, dim=2), F.normalize(teacher_energy, dim=1)
    return (attention * (ours - theirs[:, None]).square().mean(dim=2)).sum(dim=1).mean()


class StageAttention(nn.Module):
    """Equations (1) and (2).

    Args:
        student_channels: of the student's stages.
        teacher_channels: of the teacher's.
        width: d.
    """

    def __init__(self, student_channels: list[int], teacher_channels: list[int], width: int) -> None:
        super().__init__()
        self.width = width
        self.queries = nn.ModuleList(_LinearNorm(channels, width) for channels in teacher_channels)
        self.keys = nn.ModuleList(_LinearNorm(channels, width) for channels in student_channels)
        self.bilinear = _LinearNorm(width, width * len(teacher_channels))
        self.teacher_positions = nn.Parameter(torch.empty(len(teacher_channels), width))
        self.student_positions = nn.Parameter(torch.empty(len(student_channels), width))
        for positions in (self.teacher_positions, self.student_positions):
            nn.init.xavier_normal_(positions)

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """a, (B, T, S), from the maps of both."""
        queries = torch.stack([q(x.mean(dim=(2, 3))) for q, x in zip(self.queries, teacher, strict=True)], dim=1)
        keys = torch.stack([k(x.mean(dim=(2, 3))).relu() for k, x in zip(self.keys, student, strict=True)], dim=1)
        # (B, S, T, d)
        keys = self.bilinear(keys.flatten(0, 1)).unflatten(0, keys.shape[:2]).unflatten(2, (-1, self.width))
        logits = torch.einsum("bstd,btd->bts", keys, queries) + self.teacher_positions @ self.student_positions.mT
        return (logits / math.sqrt(self.width)).softmax(dim=2)


class _LinearNorm(nn.Module):
    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, outputs)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, vectors: Tensor) -> Tensor:
        return batch_norm(self.norm, self.linear(vectors))


class AFD(Distiller):
    """Attention-based feature matching: each stage of the teacher chooses, per image, the stages that learn from it.

    Args:
        student: the model that is trained, of any architecture.
        teacher: the model that is learnt from, of any architecture; it needs no head.
        label_weight: w_label, of the cross-entropy with the labels.
        feature_weight: w_feature of each stage of the teacher, less below 49 positions; 200 in the authors' code.
        width: d, of queries, keys and position embeddings; 128 in the authors' code.
    """

    needs = Needs(teacher={"features"}, student={"features"})
    ranges: ClassVar = {"feature_weight": Range(10, 4000, log=True)}

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        label_weight: float = 1.0,
        feature_weight: float = 200.0,
        width: int = 128,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        check_range("afd", at_least=1, width=width)
        self.feature_weight = feature_weight
        ours, theirs = ([stage.channels for stage in model.stages] for model in (student, teacher))
        self.attention = StageAttention(ours, theirs, width)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        attention = self.attention(student.features, teacher.features)
        ours = [energy(feature) for feature in student.features]
        terms = {}
        for t, feature in enumerate(teacher.features):
            size = (feature.shape[2], feature.shape[3])
            brought = torch.stack([_to_grid(one, size).flatten(1) for one in ours], dim=1)
            weight = self.feature_weight * min(1.0, math.prod(size) / SMALLEST_GRID)
            terms[f"stage{t + 1}"] = weight * afd_loss(brought, energy(feature).flatten(1), attention[:, t])
        return terms


def energy(feature: Tensor) -> Tensor:
    """A: mean over channels of (B, C, H, W) squared, (B, 1, H, W)."""
    # Squares of bfloat16 would lose what tells places apart.
    return feature.to(torch.promote_types(feature.dtype, torch.float32)).square().mean(dim=1, keepdim=True)


def _to_grid(energies: Tensor, size: tuple[int, int]) -> Tensor:
    """Averaged where finer, repeated where coarser."""
    energies = shrink(energies, size)
    return energies if energies.shape[2:] == size else F.adaptive_avg_pool2d(energies, size)
