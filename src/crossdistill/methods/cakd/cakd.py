"""CAKD: cross-architecture knowledge distillation, from a Transformer to a CNN.

Liu et al.: Cross-Architecture Knowledge Distillation (ACCV 2022, arXiv 2207.05273). A CNN and a Transformer have no
feature in common, so the student's map h_S is projected into two spaces that the teacher has: the attention space of
its last block (partially cross attention, PCA) and the space of its final tokens h_T (group-wise linear, GL). A critic
and changed views of the images make the match robust. All projectors are dropped after training.

    {Q_S, K_S, V_S} = Proj1(h_S), three 3x3 convolutions                                                      (1)
    Attn = softmax(Q K^T / sqrt d) V, of the student and of the teacher                                       (2)
    PCAttn_S = softmax(g(Q_S) g(K_S)^T / sqrt d) g(V_S),  g takes each element from the teacher with p = 0.5  (3)
    L_proj1 = w_attn |Attn_T - PCAttn_S|^2 + w_gram |V_T V_T^T / sqrt d - V_S V_S^T / sqrt d|^2               (4)
    h'_S = Proj2(h_S), every 4x4 block of the grid with a linear layer of its own                             (5)
    L_proj2 = w_gl |h_T - h'_S|^2                                                                             (6)
    x~ = a changed view of x with p = 0.5, else x                                                             (7)
    L_MAD = mean(-log D(h_T) - log(1 - D(h'_S))), which the critic D minimises every fifth step               (8)
    L_MVG = mean log(1 - D(h'_S)), here in the non-saturating form -log D(h'_S)                               (9)
    L = w_label CE(s, y) + L_proj1 + L_proj2 + lambda L_MVG                                                   (10)

The squared norms are means. The paper's (10) has no cross-entropy, but its figure has a class head: it is taken to be
meant. (4) uses V_S without g. The student alone sees x~. What (7) changes is colour and hidden patches: a crop or a
rotation of one view only would set the tokens of (4) and (6) against those of other places. The labels, (4) and (6)
learn from the image itself, by default: in a short training changed views alone cost 3.9 points of plain accuracy. The
paper states neither lambda nor the dropout in (5), nor the widths of D, nor how strongly views are changed: this is our
reading of it, not the method as published.

The released code (`variant="released"`) computes, with e the epoch of 120,

    L = CE + w(e) (0.2 |A_S - A_T|^2 + 0.05 |G_S - G_T|^2 - log D(A_S)
                   + |s - t|^2 + |P(z_S) - z_T|^2 + 0.05 |h'_S - h_T|^2)
    w(e) = min(max(e - 25, 0) / 50, 0.2)

A: Q K^T / sqrt d before the softmax, mean over heads, the student's from one linear layer and 16 heads, without g.
G: V V^T, mean over heads, scaled by 1 / sqrt d for the student and not for the teacher. s, t: logits; z: the vectors
that the classifiers read; D: a PatchGAN on A, stepped every iteration. No dropout, no views. Its adversarial term sent
no gradient to the student, and its critic learnt from the student's side alone; here both work. A further term
of the released sum, which depends on the teacher only, has no gradient at all and is left out.
"""

import math
import warnings
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import UserCaution, UserError, check_range
from crossdistill.methods.cakd.critic import Discriminator, PatchScore, TokenScore, adversarial_loss
from crossdistill.methods.cakd.projectors import ConvolutionProjector, GroupWiseLinear, LinearProjector
from crossdistill.methods.cakd.views import random_view
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel
from crossdistill.staged.attention import AttentionTap, Projections
from crossdistill.staged.modes import unchanged_statistics

# The released schedule and heads.
_EPOCHS, _RAMP_START, _RAMP_LENGTH, _RAMP_TOP = 120, 25, 50, 0.2
_RELEASED_HEADS = 16

_DEFAULTS: dict[str, dict[str, float]] = {
    "paper": {
        "attention_weight": 1.0,
        "gram_weight": 0.02,
        "gl_weight": 1.0,
        "logit_weight": 0.0,
        "adversarial_weight": 0.1,
        "critic_every": 5,
        "replacement_probability": 0.5,
        "dropout": 0.1,
        "view_probability": 0.5,
    },
    "released": {
        "attention_weight": 0.2,
        "gram_weight": 0.05,
        "gl_weight": 0.05,
        "logit_weight": 1.0,
        "adversarial_weight": 1.0,
        "critic_every": 1,
        "replacement_probability": 0.0,
        "dropout": 0.0,
        "view_probability": 0.0,
    },
}


def cakd_loss(student: Projections, teacher: Projections, replaced: Projections) -> tuple[Tensor, Tensor]:
    """Both terms of equation (4), unweighted, mean over all elements.

    Args:
        student: Q_S, K_S, V_S, (B, heads, N, d) each.
        teacher: Q_T, K_T, V_T, of the same shape.
        replaced: the masks of g, booleans of the same shape: where true, (3) takes the teacher's element.

    Returns:
        The attention term and the Gram term.
    """
    crossed = Projections(*(torch.where(*parts) for parts in zip(replaced, teacher, student, strict=True)))
    attention = F.mse_loss(attend(crossed), attend(teacher))
    return attention, F.mse_loss(gram(student.values), gram(teacher.values))


def attend(projections: Projections) -> Tensor:
    """Equation (2), (B, heads, N, d)."""
    return F.scaled_dot_product_attention(*projections)


def gram(values: Tensor) -> Tensor:
    """V V^T / sqrt d: how alike the values of two positions are, (B, heads, N, N)."""
    return values @ values.mT / math.sqrt(values.shape[-1])


def attention_logits(projections: Projections) -> Tensor:
    """A of the released code, (B, N, N)."""
    queries, keys, _ = projections
    return (queries @ keys.mT).mean(dim=1) / math.sqrt(queries.shape[-1])


class CAKD(Distiller):
    """Cross-architecture knowledge distillation: a CNN learns in the attention and token spaces of a Transformer.

    The teacher sees the images themselves; `teacher_outputs` serve only where they hold its attention.

    Args:
        student: the model that is trained, a CNN in the paper; of any architecture.
        teacher: the model that is learnt from, with attention in its last stage (ViT, DeiT, BEiT, EVA, Swin).
        variant: "paper" (equations 1-10) or "released" (what the authors' code computes, its adversary repaired). Where
            a default below reads "a / b", b is the released one.
        label_weight: weight of the cross-entropy with the labels.
        attention_weight: w_attn of equation (4); default: 1 / 0.2.
        gram_weight: w_gram of equation (4); default: 0.02 / 0.05. The paper has 1, with which SGD at its learning rate
            diverges in the first steps (docs/methods/cakd.md).
        gl_weight: w_gl of equation (6); default: 1 / 0.05.
        logit_weight: weight of the squared error of the logits, and with "released" of the pooled vectors too;
            default: 0 / 1.
        adversarial_weight: lambda of equation (10); default: 0.1 / 1. Not stated in the paper.
        replacement_probability: p of equation (3), in training; default: 0.5 / 0.
        dropout: on the input of equation (5); default: 0.1 / 0. The rate is not stated in the paper.
        view_probability: p of equation (7), per image, in training; default: 0.5 / 0.
        views: what sees the changed views: "critic", equations (8) and (9) alone, by a second pass of the student, or
            "everywhere", all terms and the labels too, in one pass.
        view_strength: brightness, contrast and saturation of a view are scaled by 1 - strength to 1 + strength.
        view_masked: share of the patches of a view that are hidden.
        critic_every: optimiser steps of the student for one of the critic; default: 5 / 1.
        critic_learning_rate: of the critic's Adam.
        student_stage: the student's stage that h_S is taken from, counted from 1; default: the deepest whose grid is at
            least the teacher's (stride 16 beside a ViT with patches of 16).
    """

    needs = Needs(teacher={"attention", "final"}, student={"features"})
    # Around the values of both variants. Gram's ends where SGD at the paper's rate diverges (docs/methods/cakd.md).
    ranges: ClassVar = {
        "attention_weight": Range(0.1, 10, log=True),
        "gram_weight": Range(0.002, 0.1, log=True),
        "gl_weight": Range(0.03, 10, log=True),
        "adversarial_weight": Range(0.01, 1, log=True),
        # Changed views cost accuracy in short trainings.
        "view_probability": Range(0, 1),
    }

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        variant: Literal["paper", "released"] = "paper",
        label_weight: float = 1.0,
        attention_weight: float | None = None,
        gram_weight: float | None = None,
        gl_weight: float | None = None,
        logit_weight: float | None = None,
        adversarial_weight: float | None = None,
        replacement_probability: float | None = None,
        dropout: float | None = None,
        view_probability: float | None = None,
        views: Literal["critic", "everywhere"] = "critic",
        view_strength: float = 0.4,
        view_masked: float = 0.25,
        critic_every: int | None = None,
        critic_learning_rate: float = 1e-3,
        student_stage: int | None = None,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        defaults = _DEFAULTS[variant]

        def chosen(name: str, value: float | None) -> float:
            return defaults[name] if value is None else value

        self.variant = variant
        self.attention_weight = chosen("attention_weight", attention_weight)
        self.gram_weight = chosen("gram_weight", gram_weight)
        self.gl_weight = chosen("gl_weight", gl_weight)
        self.logit_weight = chosen("logit_weight", logit_weight)
        self.adversarial_weight = chosen("adversarial_weight", adversarial_weight)
        self.replacement_probability = chosen("replacement_probability", replacement_probability)
        self.view_probability = chosen("view_probability", view_probability)
        self.views = views
        self.view_strength = view_strength
        self.view_masked = view_masked
        self.critic_every = int(chosen("critic_every", critic_every))
        self.critic_learning_rate = critic_learning_rate
        dropout = chosen("dropout", dropout)
        check_range("cakd", at_least=1, critic_every=self.critic_every)
        check_range(
            "cakd",
            at_least=0,
            at_most=1,
            replacement_probability=self.replacement_probability,
            view_probability=self.view_probability,
            view_strength=view_strength,
            view_masked=view_masked,
        )
        check_range("cakd", at_least=0, below=1, dropout=dropout)
        check_range("cakd", at_least=0, critic_learning_rate=critic_learning_rate)

        if self.logit_weight and not teacher.num_classes:
            raise UserError(f"cakd: logit_weight={self.logit_weight}, and {teacher.name} has no head: set it to 0")
        if self.logit_weight:
            self.declare(teacher={"logits"}, student={"logits"})
        self.tap = AttentionTap(teacher, "CAKD")
        width, *size = self.tap.final_shape
        if tuple(size) != self.tap.size:
            raise UserError(
                f"CAKD matches positions of the last stage of {teacher.name}, {self.tap.size}, which its final map, "
                f"{tuple(size)}, does not have: choose a ViT, DeiT or Swin as the teacher"
            )
        self.stage = _student_stage(student, self.tap.size, student_stage)
        channels = student.stages[self.stage].channels
        self.gl_projector = GroupWiseLinear(channels, width, self.tap.size, dropout=dropout)
        if variant == "released":
            self.progress_unit = "epoch"
            self.declare(teacher={"pooled"}, student={"pooled"})
            self.pca_projector: nn.Module = LinearProjector(channels, math.gcd(channels, _RELEASED_HEADS))
            self.pooled_projector = nn.Linear(student.pooled_size, teacher.pooled_size)
            self.critic = Discriminator(PatchScore())
        else:
            self.pca_projector = ConvolutionProjector(channels, self.tap.heads, self.tap.head_size)
            self.critic = Discriminator(TokenScore(width))

    def run_models(self, batch: Batch, teacher_outputs: Outputs | None) -> tuple[Outputs, Outputs]:
        if teacher_outputs is None or teacher_outputs.attention is None:
            with torch.no_grad():
                teacher_outputs = self.tap(batch.images)
        seen = self.view(batch.images) if self.views == "everywhere" else batch.images
        return self.student(seen), teacher_outputs

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        feature = _resize(student.features[self.stage], self.tap.size)
        student_projections = self.pca_projector(feature)
        tokens = self.gl_projector(feature)
        teacher_tokens = teacher.final.flatten(2).mT
        if self.variant == "released":
            distilled = self._released_terms(student, teacher, student_projections)
        else:
            distilled = self._paper_terms(student_projections, teacher.attention)
            fake = tokens if self.views == "everywhere" else self._tokens_of_view(batch.images, tokens)
            adversarial = self._against_critic(teacher_tokens, fake)
            distilled["adversarial"] = self.adversarial_weight * adversarial
        distilled["gl"] = self.gl_weight * F.mse_loss(tokens, teacher_tokens)
        if self.logit_weight:
            distilled["logits"] = self.logit_weight * F.mse_loss(student.logits, teacher.logits)
        ramp = self.ramp()
        return {name: ramp * term for name, term in distilled.items()}

    def _paper_terms(self, student: Projections, teacher: Projections) -> dict[str, Tensor]:
        attention, relation = cakd_loss(student, teacher, self.replaced(teacher))
        return {"attention": self.attention_weight * attention, "gram": self.gram_weight * relation}

    def _tokens_of_view(self, images: Tensor, tokens: Tensor) -> Tensor:
        """h'_S of the changed views, by a second pass of the student; outside of training there are none."""
        if not self.training or not self.view_probability:
            return tokens
        # The pass on the images themselves has updated the statistics already.
        with unchanged_statistics(self.student):
            student = self.student(self.view(images))
        return self.gl_projector(_resize(student.features[self.stage], self.tap.size))

    def _released_terms(
        self, student: Outputs, teacher: Outputs, student_projections: Projections
    ) -> dict[str, Tensor]:
        ours, theirs = attention_logits(student_projections), attention_logits(teacher.attention)
        values = teacher.attention.values
        # The released code scales the student's side only.
        student_gram, teacher_gram = gram(student_projections.values).mean(dim=1), (values @ values.mT).mean(dim=1)
        adversarial = self._against_critic(theirs.unsqueeze(1), ours.unsqueeze(1))
        pooled = F.mse_loss(self.pooled_projector(student.pooled), teacher.pooled)
        return {
            "attention": self.attention_weight * F.mse_loss(ours, theirs),
            "gram": self.gram_weight * F.mse_loss(student_gram, teacher_gram),
            "pooled": self.logit_weight * pooled,
            "adversarial": self.adversarial_weight * adversarial,
        }

    def _against_critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Equation (9) for the student; the critic's step, equation (8), is the loop's."""
        assert isinstance(self.critic, Discriminator)
        self.critic_batch = real.detach(), fake.detach()
        return adversarial_loss(self.critic, fake)

    def replaced(self, projections: Projections) -> Projections:
        """New masks of g: an independent draw for each element of Q, K and V; false outside of training."""
        probability = self.replacement_probability if self.training else 0.0
        return Projections(*(torch.rand(p.shape, device=p.device) < probability for p in projections))

    def view(self, images: Tensor) -> Tensor:
        """Equation (7): what the student sees of the images."""
        if not self.training or not self.view_probability:
            return images
        return random_view(images, self.tap.size, self.view_probability, self.view_strength, self.view_masked)

    def ramp(self) -> Tensor:
        """w(e) of the released code; 1 for the paper's."""
        if self.variant == "paper":
            return torch.ones_like(self.progress)
        return ((self.progress * _EPOCHS - _RAMP_START) / _RAMP_LENGTH).clamp(0.0, _RAMP_TOP)


def _student_stage(student: StagedModel, size: tuple[int, int], chosen: int | None) -> int:
    """Where h_S is taken: the deepest stage that loses no position, else the deepest of the finest ones."""
    sizes = [stage.size for stage in student.stages]
    if chosen is not None:
        if not 1 <= chosen <= len(sizes):
            raise UserError(f"cakd: student_stage={chosen}, but {student.name} has stages 1 to {len(sizes)}")
        return chosen - 1
    fine = _fine_stages(sizes, size)
    stage = fine[-1] if fine else max(range(len(sizes)), key=lambda k: (math.prod(sizes[k]), k))
    stride, later = _gentler_stem(student, size, stage)
    if later > stage:
        warnings.warn(
            f"CAKD reads {student.stages[stage].path} of {student.name}, stage {stage + 1} of {len(sizes)}; with "
            f"--stem_stride {stride} {student.stages[later].path} has the teacher's {size[0]}x{size[1]} positions, and "
            "more of the student learns from the teacher",
            UserCaution,
            stacklevel=3,
        )
    elif 2 * (stage + 1) < len(sizes):
        warnings.warn(
            f"CAKD reads {student.stages[stage].path} of {student.name}, stage {stage + 1} of {len(sizes)}, since no "
            f"later one has the teacher's {size[0]}x{size[1]} positions; what lies behind it learns from the labels: "
            "lower --stem_stride, enlarge the images, or choose a deeper stage with --method.kwargs.student_stage",
            UserCaution,
            stacklevel=3,
        )
    return stage


def _fine_stages(sizes: list[tuple[int, int]], size: tuple[int, int]) -> list[int]:
    """The stages that lose no position of the teacher's grid."""
    return [k for k, (height, width) in enumerate(sizes) if height >= size[0] and width >= size[1]]


def _gentler_stem(student: StagedModel, size: tuple[int, int], stage: int) -> tuple[int, int]:
    """The stem stride with which the deepest stage but the last has the teacher's positions, and that stage.

    Gives `stage` itself where no stride does better, and for students that are no CNNs, which have no such stem.
    """
    sizes = [stage.size for stage in student.stages]
    own = student.image_size[0] // sizes[0][0]
    best = (own, stage)
    if student.stages[0].layout != "NCHW":
        return best
    factor = 2
    while own % factor == 0:
        fine = _fine_stages([(height * factor, width * factor) for height, width in sizes[:-1]], size)
        if fine and fine[-1] > best[1]:
            best = (own // factor, fine[-1])
        factor *= 2
    return best


def _resize(feature: Tensor, size: tuple[int, int]) -> Tensor:
    if feature.shape[2:] == size:
        return feature
    # PyTorch has this resampling in single precision only on the CPU.
    resized = F.interpolate(feature.float(), size, mode="bilinear", antialias=True, align_corners=False)
    return resized.to(feature.dtype)
