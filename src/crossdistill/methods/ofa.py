"""OFA: one-for-all distillation between heterogeneous architectures.

Hao et al.: One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation (NeurIPS 2023,
arXiv 2310.19444). Features of different architectures do not live in one space, so every stage of the student is
projected to class logits by a branch of its own and compared there with the teacher's final logits. No feature of the
teacher is used, so any teacher serves.

With p = softmax(z / T) and m the one-hot label, for the student's logits s and the teacher's t,

    ofa_loss(s, t, y) = -mean_b sum_c [(p_t + m)^gamma - m]_c log p_s,c                                  (1)
    L = w_label CE(s, y) + w_logit ofa_loss(s, t, y) + w_stage sum_k ofa_loss(branch_k(F_k), t, y)       (2)

This is the form that the authors' published results were computed with. The paper's text leaves the other classes
un-raised and folds the label term in: -(1 + p_t^y)^gamma log p_s^y - sum_{c != y} p_t^c log p_s^c.
With gamma = 1, (1) is the cross-entropy with the teacher's probabilities. There is no factor T^2.

The branches follow the published configuration: separable convolutions of stride 2 for convolutional students, patch
merging down to a 7x7 grid and transformer blocks for the others. Where a grid is smaller than the published ones (small
images), merging that would not change it is left out.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import PatchMerging
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import UserError, check_range
from crossdistill.modules.initialization import initialise
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, Stage, StagedModel

# The grid that token branches merge down to, and the heads of their blocks, as published.
_MERGED_SIDE = 7
_BRANCH_HEADS = 4


def ofa_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, gamma: float, temperature: float
) -> Tensor:
    """Equation (1), mean over images.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
        labels: (B,) class indices, or (B, K) soft labels, whose most likely class is the target.
        gamma: exponent that lifts the target class; the authors write epsilon in the code.
        temperature: T, above 0.
    """
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.softmax(teacher_logits / temperature, dim=1)
    hard = labels.argmax(dim=1) if labels.ndim == 2 else labels
    target = F.one_hot(hard, student.shape[1]).to(teacher.dtype)
    return -(((teacher + target) ** gamma - target) * student).sum(dim=1).mean()


class OFA(Distiller):
    """One-for-all distillation: the student's logits and every stage, through branches, match the teacher's logits.

    Args:
        student: the model that is trained, of any architecture.
        teacher: the model that is learnt from, of any architecture.
        gamma: exponent of equation (1); one value for all, or one per stage in `stages` and a last one for the logits.
        temperature: T of equation (1).
        label_weight: w_label of equation (2).
        logit_weight: w_logit of equation (2).
        stage_weight: w_stage of equation (2); the authors' CIFAR-100 runs used 0.1.
        stages: which stages have a branch, counted from 1; default: all.
    """

    needs = Needs(teacher={"logits"}, student={"logits", "features", "prefix"}, labels=True)
    # The authors' gammas are 1 and 1.5, their stage weights 1 and 0.1: there is one such term per stage.
    ranges: ClassVar = {
        "gamma": Range(1, 2),
        "temperature": Range(1, 4, log=True),
        "logit_weight": Range(0.1, 10, log=True),
        "stage_weight": Range(0.03, 3, log=True),
    }

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        gamma: float | list[float] = 1.0,
        temperature: float = 1.0,
        label_weight: float = 1.0,
        logit_weight: float = 1.0,
        stage_weight: float = 1.0,
        stages: list[int] | None = None,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        check_range("ofa", above=0, temperature=temperature)
        depth = len(student.stages)
        stages = list(range(1, depth + 1)) if stages is None else sorted(set(stages))
        if not set(stages) <= set(range(1, depth + 1)):
            raise UserError(f"ofa: stages={stages}, but {student.name} has stages 1 to {depth}")
        gammas = list(gamma) if isinstance(gamma, Sequence) else [gamma] * (len(stages) + 1)
        if len(gammas) != len(stages) + 1:
            raise UserError(
                f"ofa: gamma has {len(gammas)} values; give one, or {len(stages) + 1} (stages, then logits)"
            )
        self.stages = [stage - 1 for stage in stages]
        self.gammas = gammas
        self.temperature = temperature
        self.logit_weight = logit_weight
        self.stage_weight = stage_weight
        self.branches = nn.ModuleList(_branch(student, teacher, stage) for stage in self.stages)
        self.branches.apply(initialise)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        loss = ofa_loss(student.logits, teacher.logits, batch.labels, self.gammas[-1], self.temperature)
        terms = {"logits": self.logit_weight * loss}
        for stage, branch, gamma in zip(self.stages, self.branches, self.gammas, strict=False):
            logits = branch(student.features[stage], student.prefix[stage])
            loss = ofa_loss(logits, teacher.logits, batch.labels, gamma, self.temperature)
            terms[f"stage{stage + 1}"] = self.stage_weight * loss
        return terms


def _branch(student: StagedModel, teacher: StagedModel, stage: int) -> nn.Module:
    """The branch for one stage: convolutional where nothing but convolution mixes positions in the student."""
    mixing = {kind for part in student.stages for kind in part.mixing}
    below = len(student.stages) - 1 - stage
    if mixing <= {"convolution"}:
        width = max(student.pooled_size, teacher.pooled_size)
        return ConvolutionBranch(student.stages[stage].channels, width, below, student.num_classes)
    return TokenBranch(student.stages[stage], student.pooled_size, max(below, 1), student.num_classes)


class ConvolutionBranch(nn.Module):
    """Separable convolutions down to the last stage's grid, pooling, a linear layer.

    Args:
        channels: C of the stage's map.
        width: D of the pooled vector, the larger of the two models' penultimate widths.
        blocks: stages that follow this one; each is stood in for by one block of stride 2.
        num_classes: K.
    """

    def __init__(self, channels: int, width: int, blocks: int, num_classes: int) -> None:
        super().__init__()
        outputs = [channels * 2 ** (i + 1) for i in range(blocks - 1)] + [width]
        inputs = [channels, *outputs[:-1]]
        self.blocks = nn.Sequential(
            *(_separable_block(i, o) for i, o in zip(inputs, outputs, strict=True))
            if blocks
            else [nn.Conv2d(channels, width, kernel_size=1)]
        )
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, feature: Tensor, prefix: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, K)."""
        return self.classifier(self.blocks(feature).mean(dim=(2, 3)))


def _separable_block(channels: int, outputs: int) -> nn.Sequential:
    def half(outputs: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(channels, channels, kernel_size=3, stride=stride, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, outputs, kernel_size=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]

    return nn.Sequential(*half(channels, stride=2), *half(outputs, stride=1))


class TokenBranch(nn.Module):
    """Patch merging down to a 7x7 grid, transformer blocks, the class token (or the tokens' mean), a linear layer.

    Args:
        stage: the student's stage.
        width: D, the student's penultimate width.
        blocks: number of transformer blocks.
        num_classes: K.
    """

    def __init__(self, stage: Stage, width: int, blocks: int, num_classes: int) -> None:
        super().__init__()
        merges = max(0, int(math.log2(min(stage.size) / _MERGED_SIDE))) if min(stage.size) > _MERGED_SIDE else 0
        widths = [stage.channels] + [width] * merges
        self.merges = nn.ModuleList(PatchMerging(widths[i], width) for i in range(merges))
        # Without merging nothing has brought the tokens to the blocks' width yet.
        self.widen = nn.Linear(stage.channels, width) if not merges and stage.channels != width else nn.Identity()
        # Class tokens go around the merging, so they need the width of the blocks already.
        self.use_prefix = stage.prefix_tokens > 0 and stage.channels == width
        heads = math.gcd(width, _BRANCH_HEADS)
        self.blocks = nn.Sequential(*(Block(width, num_heads=heads, qkv_bias=False) for _ in range(blocks)))
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, feature: Tensor, prefix: Tensor | None = None) -> Tensor:
        """(B, C, H, W) and (B, P, C) -> (B, K)."""
        grid = feature.permute(0, 2, 3, 1)
        for i, merge in enumerate(self.merges):
            grid = merge(grid)
            if i < len(self.merges) - 1:
                grid = F.gelu(grid)
        tokens = self.widen(grid.flatten(1, 2))
        if self.use_prefix:
            assert prefix is not None
            tokens = torch.cat([prefix, tokens], dim=1)
        tokens = self.blocks(tokens)
        return self.classifier(tokens[:, 0] if self.use_prefix else tokens.mean(dim=1))
