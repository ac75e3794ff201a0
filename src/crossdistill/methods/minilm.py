"""MiniLM: the student's last attention block relates the tokens as the teacher's does.

Wang et al.: MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers (NeurIPS
2020, arXiv 2002.10957). What a token attends to is a distribution over tokens, and so is how alike the values of two
tokens are; neither depends on the models' widths.

With A, B of Q, K, V (heads, N, d) the queries, keys and values of the last attention block,

    R(A, B) = softmax(A B^T / sqrt d)                                                                     (1)
    L(A, B) = mean_{heads, tokens} KL(R_T(A, B) || R_S(A, B))                                             (2)
    MiniLM: L(Q, K) + L(V, V)                                                                             (3)
    MiniLMv2: L(Q, Q) + L(K, K) + L(V, V), with relation heads                                            (4)

(3) asks for as many heads in the student as in the teacher. Vision Transformers of unlike width have unlike numbers of
heads; (4) (arXiv 2012.15828) puts the heads of each model side by side and cuts them anew into one number of relation
heads, the teacher's own here. Both are for models that cut the image into one grid.

Made for language, where no label is needed. Here the labels keep their term, with weight 1 as everywhere. (1) leaves
out position biases, and in Swin lets a token see all others, not its window alone. The relations are those of class
tokens too where both models have as many, else of the patches alone. MiniLMv2's choice of an earlier teacher layer
is left out.
"""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import UserError
from crossdistill.modules.precision import in_float32
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel
from crossdistill.staged.attention import AttentionTap

# Positions of Q, K and V in `Projections`.
_RELATIONS = {"v1": ((0, 1), (2, 2)), "v2": ((0, 0), (1, 1), (2, 2))}


@in_float32
def minilm_loss(student_one: Tensor, student_other: Tensor, teacher_one: Tensor, teacher_other: Tensor) -> Tensor:
    """Equation (2), mean over images.

    Args:
        student_one: (B, heads, N, d_S), A of the student.
        student_other: (B, heads, N, d_S), B of the student.
        teacher_one: (B, heads, N, d_T), A of the teacher.
        teacher_other: (B, heads, N, d_T), B of the teacher.
    """
    student, teacher = _log_relations(student_one, student_other), _log_relations(teacher_one, teacher_other)
    return F.kl_div(student, teacher, reduction="sum", log_target=True) / student[..., 0].numel()


def _log_relations(one: Tensor, other: Tensor) -> Tensor:
    """log R of equation (1), (B, heads, N, N)."""
    return (one @ other.mT / math.sqrt(one.shape[-1])).log_softmax(dim=-1)


def relation_heads(part: Tensor, heads: int) -> Tensor:
    """Queries, keys or values (B, heads of the model, N, d) cut into another number of heads."""
    return part.transpose(1, 2).flatten(2).unflatten(2, (heads, -1)).transpose(1, 2)


class MiniLM(Distiller):
    """Distillation of the last attention block's relations, between Transformers with one grid of tokens.

    Args:
        student: the model that is trained, with attention in its last stage.
        teacher: the model that is learnt from, as the student, with or without a head.
        variant: "v1", equation (3), for as many heads; "v2", equation (4), for any; default: v1 where it fits.
        heads: relation heads of v2; a divisor of the width of both models' attention. Default: as many as the teacher
            has heads.
        relation_weight: weight of (3) or (4).
        label_weight: weight of the cross-entropy with the labels; the papers learn without labels.
    """

    needs = Needs(teacher={"attention"}, student={"attention"})
    ranges: ClassVar = {"relation_weight": Range(0.1, 10, log=True)}

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        variant: Literal["v1", "v2"] | None = None,
        heads: int | None = None,
        relation_weight: float = 1.0,
        label_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        self.student_tap, self.teacher_tap = AttentionTap(student, "MiniLM"), AttentionTap(teacher, "MiniLM")
        ours, theirs = self.student_tap, self.teacher_tap
        if ours.size != theirs.size:
            grids = (f"{model.name} has {t.size[0]}x{t.size[1]}" for t, model in ((ours, student), (theirs, teacher)))
            raise UserError(
                f"MiniLM relates tokens of one grid: {' and '.join(grids)}: choose patches of one size, or another "
                "--teacher_image_size"
            )
        self.variant = variant or ("v1" if ours.heads == theirs.heads and heads is None else "v2")
        if self.variant == "v1" and ours.heads != theirs.heads:
            raise UserError(
                f"minilm: variant=v1 compares head by head: {student.name} has {ours.heads} and {teacher.name} "
                f"{theirs.heads}: choose v2"
            )
        self.heads = theirs.heads if heads is None or self.variant == "v1" else heads
        for tap, model in ((ours, student), (theirs, teacher)):
            width = tap.heads * tap.head_size
            if self.heads < 1 or width % self.heads:
                raise UserError(
                    f"minilm: heads={self.heads} must divide the width of both models' attention, and that of "
                    f"{model.name} is {width}: set --method.kwargs.heads"
                )
        self.same_prefix = ours.prefix_tokens == theirs.prefix_tokens
        self.relation_weight = relation_weight

    def run_models(self, batch: Batch, teacher_outputs: Outputs | None) -> tuple[Outputs, Outputs]:
        if teacher_outputs is None or teacher_outputs.attention is None:
            with torch.no_grad():
                teacher_outputs = self.teacher_tap(batch.images, prefix=True)
        return self.student_tap(batch.images, prefix=True), teacher_outputs

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        # Outputs that were stored may be without class tokens; patches come last.
        tokens = min(outputs.attention.queries.shape[2] for outputs in (student, teacher))
        tokens = tokens if self.same_prefix else math.prod(self.student_tap.size)
        ours, theirs = (
            [relation_heads(part[:, :, -tokens:], self.heads) for part in outputs.attention]
            for outputs in (student, teacher)
        )
        names = ("queries", "keys", "values")
        return {
            f"{names[a]}_{names[b]}": self.relation_weight * minilm_loss(ours[a], ours[b], theirs[a], theirs[b])
            for a, b in _RELATIONS[self.variant]
        }
