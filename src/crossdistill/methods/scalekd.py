"""ScaleKD: attention projectors into a strong Transformer, two views of its last map, its own last stage in between.

Fan et al.: ScaleKD: Strong Vision Transformers Could Be Excellent Teachers (NeurIPS 2024, arXiv 2411.06786). With F_n
and F_{n-1} the student's last two stages, t the teacher's last map behind its norm, and g its last stage and norm,

    CAP(F, Q) = N + MLP(N),   N = LayerNorm(Attention(queries Q' = ReLU(conv1x1(Q)), keys and values F'))       (1)
    F' = ReLU(BN(conv3x3(F))) + position code,   Attention of temperature 1/5
    A_v = g(CAP_v(F_{n-1}, learnt queries)),   B_v = CAP_v(F_n, A_v),   for the views v = spatial, frequency    (2)
    scalekd_loss(a, t, v) = sum_{h,w} |u(v(a)) - u(v(t))|^2,   u(x) = x / |x| per position, mean over images   (3)
    L = w_label CE(s, y) + w_logit KL(t || s) + sum_v w_v [scalekd_loss(A_v, t, v) + scalekd_loss(B_v, t, v)]   (4)

CAP, the cross attention projector, gives one token per position of the teacher's grid, whatever the student's grid is.
A path through the teacher's own frozen last stage makes its parameters a part of what is learnt (teacher parameter
perception), and its result is what the second projector asks with. The frequency view drops the constant component of a
discrete cosine transform: the mean over positions, so that it is computed so, without the transform. What is left says
how positions differ; the spatial view is dominated by what they share.

The weights are the released ones: 0.08 and 0.06 for the views, 1/2 each for labels and logits, temperature 1. (3) is a
sum over positions, made for a grid of 7x7. The released heads are 8 by default and 16 to 24 for Swin-L; here 8, where
they divide the teacher's width. A class token, which the released teachers lack, enters the last stage as the teacher
has it for this image. The teacher needs a grid of more than one position, and to be run in segments. A student whose
last map is one position gives every query the same answer: its frequency term is constant then.
"""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import UserError, check_range
from crossdistill.methods.kd import kd_loss
from crossdistill.modules.alignment import batch_norm
from crossdistill.modules.precision import in_float32
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, Stage, StagedModel

View = Literal["spatial", "frequency"]
VIEWS: tuple[View, View] = ("spatial", "frequency")

_MLP_RATIO = 4
_INVERSE_TEMPERATURE = 5.0
# Positions that differ by less than this share of the map's vectors are not scaled up to unit length: in half precision
# the difference is rounding, and where there is none at all its gradient would have no bound.
_SMALLEST_SHARE = 0.01


@in_float32
def scalekd_loss(student_features: Tensor, teacher_features: Tensor, view: View) -> Tensor:
    """Equation (3): sum over positions, mean over images.

    Args:
        student_features: (B, D, H, W), projected to the teacher's width and grid.
        teacher_features: (B, D, H, W).
        view: "spatial" (as they are) or "frequency" (without their mean over positions).
    """
    student, teacher = (_seen(features, view) for features in (student_features, teacher_features))
    return (student - teacher).square().sum() / len(student)


def _seen(features: Tensor, view: View) -> Tensor:
    if view == "spatial":
        return F.normalize(features, dim=1)
    different = features - features.mean(dim=(2, 3), keepdim=True)
    smallest = _SMALLEST_SHARE * features.detach().norm(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    return different / different.norm(dim=1, keepdim=True).maximum(smallest.clamp(min=1e-12))


class AttentionProjector(nn.Module):
    """Equation (1): the teacher's positions ask the student's.

    Args:
        student: the student's stage.
        channels: D, the teacher's width.
        size: (H, W) of the teacher's grid.
        heads: at most this many, a divisor of D.
        learnt_queries: whether it has queries of its own.
    """

    def __init__(self, student: Stage, channels: int, size: tuple[int, int], heads: int, learnt_queries: bool) -> None:
        super().__init__()
        self.heads = math.gcd(channels, heads)
        self.queries = nn.Parameter(torch.randn(1, channels, *size)) if learnt_queries else None
        self.query_projection = nn.Conv2d(channels, channels, kernel_size=1)
        self.convolution = nn.Conv2d(student.channels, student.channels, kernel_size=3, padding=1)
        self.norm = nn.BatchNorm2d(student.channels)
        self.position_code = nn.Parameter(trunc_normal_(torch.zeros(1, student.channels, *student.size), std=0.02))
        self.to_query = nn.Linear(channels, channels)
        self.to_key = nn.Linear(student.channels, channels)
        self.to_value = nn.Linear(student.channels, channels)
        self.mixed = nn.Linear(channels, channels)
        self.token_norm = nn.LayerNorm(channels)
        hidden = _MLP_RATIO * channels
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, feature: Tensor, queries: Tensor | None = None) -> Tensor:
        """F (B, C, h, w), and queries (B, D, H, W) where it has none of its own -> (B, D, H, W)."""
        if queries is None:
            assert self.queries is not None
            queries = self.queries.expand(len(feature), -1, -1, -1)
        asked = self.to_query(_tokens(torch.relu(self.query_projection(queries))))
        seen = _tokens(torch.relu(batch_norm(self.norm, self.convolution(feature))) + self.position_code)
        query, key, value = (
            x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (asked, self.to_key(seen), self.to_value(seen))
        )
        scale = _INVERSE_TEMPERATURE / math.sqrt(query.shape[-1])
        answer = F.scaled_dot_product_attention(query, key, value, scale=scale).transpose(1, 2).flatten(2)
        tokens = self.token_norm(self.mixed(answer))
        return (tokens + self.mlp(tokens)).mT.unflatten(2, queries.shape[2:])


class ScaleKD(Distiller):
    """Attention projectors: the student's last two stages become the teacher's last map, in two views of it.

    Args:
        student: the model that is trained, of any architecture, of two stages at least.
        teacher: the model that is learnt from, run in segments; a large Transformer in the paper.
        heads: attention heads of the projectors; fewer where they do not divide the teacher's width.
        label_weight: w_label of equation (4); the authors' 1 - alpha, 1 where they take no logits.
        logit_weight: w_logit of equation (4); the authors' alpha; 0 for a teacher without a head.
        spatial_weight: w_v of the spatial view; 0.08 in the authors' code.
        frequency_weight: w_v of the frequency view; 0.06 in the authors' code.
        temperature: of the logit term, as in `kd_loss`; 1 in the authors' code.
    """

    needs = Needs(teacher={"prefix", "final", "segments"}, student={"features"})
    # label_weight stays: the others are measured against it.
    ranges: ClassVar = {
        "logit_weight": Range(0.05, 5, log=True),
        "spatial_weight": Range(0.008, 0.8, log=True),
        "frequency_weight": Range(0.006, 0.6, log=True),
        "temperature": Range(1, 4, log=True),
    }

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        heads: int = 8,
        label_weight: float = 0.5,
        logit_weight: float = 0.5,
        spatial_weight: float = 0.08,
        frequency_weight: float = 0.06,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        check_range("scalekd", at_least=1, heads=heads)
        check_range("scalekd", above=0, temperature=temperature)
        for model in (student, teacher):
            if len(model.stages) < 2:
                raise UserError(f"ScaleKD compares the last two stages and {model.name} has one: name its stage ends")
        last, before = teacher.stages[-1], teacher.stages[-2]
        if math.prod(last.size) == 1:
            raise UserError(
                f"ScaleKD compares positions and the last map of {teacher.name} has one only: "
                "give it larger images with --teacher_image_size"
            )
        if logit_weight:
            self.declare(teacher={"logits"}, student={"logits"})
        self.logit_weight = logit_weight
        self.view_weights = dict(zip(VIEWS, (spatial_weight, frequency_weight), strict=True))
        self.temperature = temperature
        self.into_last_stage = nn.ModuleDict(
            {v: AttentionProjector(student.stages[-2], before.channels, before.size, heads, True) for v in VIEWS}
        )
        self.into_last_map = nn.ModuleDict(
            {v: AttentionProjector(student.stages[-1], teacher.final_channels, last.size, heads, False) for v in VIEWS}
        )

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        assert self.teacher is not None
        terms = {}
        if self.logit_weight:
            terms["logits"] = self.logit_weight * kd_loss(student.logits, teacher.logits, self.temperature)
        last = len(self.teacher.stages) - 1
        for view, weight in self.view_weights.items():
            entry = self.into_last_stage[view](student.features[-2])
            through = self.teacher.run_from(last, entry, teacher.prefix[-2]).final
            projected = self.into_last_map[view](student.features[-1], through)
            terms[f"{view}_through_teacher"] = weight * scalekd_loss(through, teacher.final, view)
            terms[view] = weight * scalekd_loss(projected, teacher.final, view)
        return terms


def _tokens(feature: Tensor) -> Tensor:
    """(B, D, H, W) -> (B, H W, D)."""
    return feature.flatten(2).mT
