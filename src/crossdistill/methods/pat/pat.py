"""PAT: perspective-aware teaching.

Lin et al.: Perspective-Aware Teaching: Adapting Knowledge for Heterogeneous Distillation (ICCV 2025, arXiv 2501.08885).
Two things keep features of different architectures from being matched: the same stage sees regions of another size, and
the teacher's features were not made for a student. Region-aware attention (RAA) blends all stages of the student into
tokens of the same regions; adaptive feedback prompts (AFP) inside the frozen teacher bend its features towards what the
student can follow. Both are dropped after training.

With the student's stage features F_i, the clean teacher's logits t, and R_i a patch embedding to N_q / 4 regions,

    B = softmax((Q + E)(K + E)' / sqrt(d)) V,   Q, K, V = linear maps of LayerNorm([R_1(F_1), ..., R_4(F_4)])    (1)
    A_i = aligner_i(B_i)                              of the shape of the teacher's stage i                     (2)
    X_i <- X_i + beta_i prompt_i(X_i, G_i)            where X_i enters stage i of the teacher                    (3)
    G_i = A_i - F'_i                                  of the previous step; F'_i, t' of the prompted teacher    (4)
    HCL(a, b) = [MSE(a, b) + sum_l w_l MSE(pool_l(a), pool_l(b))] / (1 + sum_l w_l),  l = 4, 2, 1               (5)
    L = w_label CE(s, y) + w_logit KD_T(s, t) + w_feature sum_i HCL(A_i, F'_i) + w_reg KD_1(t', t)               (6)

HCL is the hierarchical context loss of Chen et al. (ReviewKD, CVPR 2021, arXiv 2104.09044): l runs over the grids that
are coarser than the map, w_l = 1/2, 1/4, 1/8 in this order. F'_i is no constant in (6): student, RAA and prompts all
receive the gradient of the third term; the fourth holds the prompted teacher to its task. The teacher's own weights
stay as they are.

What the released code does differently, and `variant="released"` with it: squeeze-and-excitation returns its gates
without applying them, so that a prompt is one number per channel; maps made of tokens go back to tokens without the
permutation undone, and of the class token and the patches the first H W are taken for the grid; E counts the images of
the batch, not the tokens. It prompts Swin behind the downsampling with which a stage begins, here before it.

What this version adds: the features that are matched are standardised per channel with running statistics of the clean
teacher, and w_reg is 10 where the paper has 1. With raw features and 1 the prompts find it easiest to make the teacher
uninformative. Aligners for maps begin small. The gap in (4) belongs to the images of another batch; `feedback` offers
another kind.
"""

import math
from typing import ClassVar, Literal

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import UserError, check_range
from crossdistill.methods.kd import kd_loss
from crossdistill.methods.pat.attention import RegionAttention
from crossdistill.methods.pat.projectors import TokensToMap, TokensToTokens
from crossdistill.methods.pat.prompt import FeedbackMemory, PromptBlock
from crossdistill.methods.reviewkd import hcl_loss
from crossdistill.modules.alignment import match_stages
from crossdistill.modules.initialization import initialise
from crossdistill.modules.standardizer import Standardizer
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, Stage, StagedModel
from crossdistill.staged.modes import eval_mode

# N_q is the number of queries over this many stages, as published, however many a student has.
_STAGES_OF_QUERIES = 4


class PAT(Distiller):
    """Perspective-aware teaching: region-aware attention in front of the matching, feedback prompts inside the teacher.

    Stages are matched from the last backwards where the two models have different numbers of them.

    Args:
        student: the model that is trained, of any architecture.
        teacher: the model that is learnt from; with prompts, one that runs in segments.
        num_queries: N_q, regions over four stages: four times a square. The paper tries 36 to 144 and takes 64.
        width: d of the regions' tokens.
        heads: attention heads of equation (1).
        region_attention: False matches each stage's own regions, without attention.
        prompt_stages: stages of the teacher that have a prompt, counted from 1; default: all. An empty list leaves the
            teacher as it is: no second pass, no feedback, no regularisation.
        feedback: what a prompt is told. "previous": equation (4), the gap of the last batch, as published; zero in the
            first step and after a batch of another size. "current": the gap of the same images between the aligned
            student and the clean teacher, which costs no further pass. "none": nothing (an ablation of the paper).
        label_weight: w_label of equation (6).
        logit_weight: w_logit of equation (6); the paper's ablation finds little lost with 0.
        feature_weight: w_feature of equation (6).
        regularization_weight: w_reg of equation (6); default: 10, and 1 (the paper's) with the released variant.
        temperature: T of equation (6).
        standardize_features: standardise the teacher's features per stage and channel before they are matched; default:
            True, and False with the released variant.
        variant: "paper", or "released" for the formulas of the released code (see the module's text).
    """

    needs = Needs(teacher={"logits", "features", "prefix"}, student={"logits", "features", "prefix"})
    # The regularisation from the paper's 1, with which the prompted teacher may lose its task.
    ranges: ClassVar = {
        "temperature": Range(1, 4, log=True),
        "logit_weight": Range(0.1, 10, log=True),
        "feature_weight": Range(0.1, 10, log=True),
        "regularization_weight": Range(1, 100, log=True),
    }

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        num_queries: int = 64,
        width: int = 512,
        heads: int = 8,
        region_attention: bool = True,
        prompt_stages: list[int] | None = None,
        feedback: Literal["previous", "current", "none"] = "previous",
        label_weight: float = 1.0,
        logit_weight: float = 1.0,
        feature_weight: float = 1.0,
        regularization_weight: float | None = None,
        temperature: float = 1.0,
        standardize_features: bool | None = None,
        variant: Literal["paper", "released"] = "paper",
    ) -> None:
        super().__init__(student, teacher, label_weight)
        released = variant == "released"
        check_range("pat", above=0, temperature=temperature)
        check_range("pat", at_least=1, width=width, heads=heads)
        side = math.isqrt(max(0, num_queries) // _STAGES_OF_QUERIES)
        if side < 2 or side * side * _STAGES_OF_QUERIES != num_queries:
            raise UserError(f"pat: num_queries={num_queries}; give four times a square: 16, 36, 64, 100 or 144")
        if width % 2 or width % heads:
            raise UserError(f"pat: width={width} must be even and divisible by heads={heads}")
        everything = range(1, len(teacher.stages) + 1)
        chosen = list(everything) if prompt_stages is None else sorted(prompt_stages)
        if not set(chosen) <= set(everything):
            raise UserError(f"pat: prompt_stages={prompt_stages}, but {teacher.name} has stages 1 to {everything[-1]}")
        if chosen:
            teacher.require_segments("PAT, with prompts,")
            self.declare(teacher={"segments"})

        self.released = released
        self.feedback = feedback
        self.logit_weight = logit_weight
        self.feature_weight = feature_weight
        default_weight = 1.0 if released else 10.0
        self.regularization_weight = default_weight if regularization_weight is None else regularization_weight
        self.temperature = temperature
        standardize = not released if standardize_features is None else standardize_features

        # Stages of the teacher that are matched, of the student those that are attended over: a shallow teacher leaves
        # the student's first stages unmatched, and they can still be attended to.
        partners = match_stages(student.stages, teacher.stages)
        self.matched = [theirs + 1 for _, theirs in partners]
        first = 1 if region_attention else partners[0][0] + 1
        self.attended = list(range(first, len(student.stages) + 1))
        self.regions = RegionAttention(
            [student.stages[k - 1] for k in self.attended],
            side,
            width,
            heads,
            attend=region_attention,
            code="images" if released else "tokens",
        )
        stages = {k: teacher.stages[k - 1] for k in self.matched}
        self.aligners = nn.ModuleDict(
            {str(k): _aligner(side * side, width, stage, small=not released) for k, stage in stages.items()}
        )
        self.standardizers = nn.ModuleDict(
            {str(k): Standardizer(stage.channels) for k, stage in stages.items() if standardize}
        )
        self.prompts = nn.ModuleDict()
        self.memories = nn.ModuleDict()
        for k in chosen:
            entered = teacher.stages[k - 1]
            shape = (entered.channels, *entered.size) if feedback != "none" and k in stages else None
            self.prompts[str(k)] = PromptBlock(entered.entry_channels, entered.entry_size, shape, gate_only=released)
            if shape is not None and feedback == "previous":
                self.memories[str(k)] = FeedbackMemory(shape)
        # Each process sees its own images: its statistics, and what its prompts are told, are its own.
        parts = {"standardizers": self.standardizers, "memories": self.memories}
        self.rank_local = tuple(  # type: ignore[misc]
            f"{part}.{name}" for part, module in parts.items() for name, _ in module.named_buffers()
        )

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        clean = teacher
        terms = {"logits": self.logit_weight * kd_loss(student.logits, clean.logits, self.temperature)}
        if self.training:
            self._measure(clean)
        aligned = self._align(student)
        features, logits = self._prompted_teacher(batch.images, clean, self._feedback(aligned, clean))
        for k in self.matched:
            terms[f"stage{k}"] = self.feature_weight * hcl_loss(aligned[k], features[k])
        if self.prompts:
            terms["regularization"] = self.regularization_weight * kd_loss(logits, clean.logits, temperature=1.0)
        if self.training:
            for name, memory in self.memories.items():
                assert isinstance(memory, FeedbackMemory)
                memory.store((aligned[int(name)] - features[int(name)]).detach())
        return terms

    @torch.no_grad()
    def validation_metrics(self, batch: Batch, model: StagedModel, outputs: Outputs) -> dict[str, Tensor]:
        """Whether the prompted teacher still answers as the clean one, and whether it is right.

        The prompts are told what they were told in training: with "previous" feedback, the gaps of the last batch.
        """
        if not self.prompts:
            return {}
        # A method that is part of another one does not own the student.
        with eval_mode(self), eval_mode(self.student):
            clean = self.teach(batch.images)
            aligned = self._align(self.student(batch.images)) if self.feedback == "current" else {}
            _, logits = self._prompted_teacher(batch.images, clean, self._feedback(aligned, clean, cycle=True))
        answers = logits.argmax(dim=1)
        metrics = {"prompted_teacher_agreement": answers == clean.logits.argmax(dim=1)}
        if batch.labels is not None:
            metrics["prompted_teacher_top1"] = answers == batch.labels
        return metrics

    def _align(self, student: Outputs) -> dict[int, Tensor]:
        """A_i of equations (1) and (2), by the stage of the teacher that it is matched with."""
        features = [self._as_grid(student, k) for k in self.attended]
        regions = self.regions(features)[-len(self.matched) :]
        return {k: self.aligners[str(k)](tokens) for k, tokens in zip(self.matched, regions, strict=True)}

    def _measure(self, clean: Outputs) -> None:
        for name, standardizer in self.standardizers.items():
            assert isinstance(standardizer, Standardizer)
            standardizer.measure(self._as_grid(clean, int(name)))

    def _target(self, k: int, feature: Tensor, prefix: Tensor | None) -> Tensor:
        """What A_k is compared with, of the teacher's stage k."""
        feature = _leading_tokens(feature, prefix) if self.released else feature
        return self.standardizers[str(k)](feature) if str(k) in self.standardizers else feature

    def _as_grid(self, outputs: Outputs, k: int) -> Tensor:
        feature, prefix = outputs.features[k - 1], outputs.prefix[k - 1]
        return _leading_tokens(feature, prefix) if self.released else feature

    def _feedback(self, aligned: dict[int, Tensor], clean: Outputs, cycle: bool = False) -> dict[int, Tensor]:
        """G_i of equation (4), detached, by stage. `cycle` deals the stored gaps out to a batch of any size."""
        if self.feedback == "current":
            return {
                k: (aligned[k] - self._target(k, clean.features[k - 1], clean.prefix[k - 1])).detach()
                for k in aligned
                if str(k) in self.prompts
            }
        told = {}
        for name, memory in self.memories.items():
            assert isinstance(memory, FeedbackMemory)
            told[int(name)] = memory.recall(len(clean.logits), cycle=cycle)
        return told

    def _prompted_teacher(
        self, images: Tensor, clean: Outputs, feedback: dict[int, Tensor]
    ) -> tuple[dict[int, Tensor], Tensor]:
        """F'_i (as they are matched) and t' of equations (3) and (4), with gradient for the prompts."""
        teacher = self.teacher
        assert teacher is not None
        first = min((int(name) for name in self.prompts), default=len(teacher.stages) + 1)
        # Up to the first prompt there is nothing to run again.
        targets = {k: self._target(k, clean.features[k - 1], clean.prefix[k - 1]) for k in self.matched if k < first}
        if not self.prompts:
            return targets, clean.logits
        if first == 1:
            with torch.no_grad():
                feature, prefix = teacher.enter(images)
        else:
            feature, prefix = clean.features[first - 2], clean.prefix[first - 2]
        for k in range(first, len(teacher.stages) + 1):
            if str(k) in self.prompts:
                layout = teacher.stages[max(k - 2, 0)].layout
                feature, prefix = self._prompt(k, feature, prefix, feedback.get(k), layout)
            feature, prefix = teacher.run_stage(k - 1, feature, prefix)
            if k in self.matched:
                targets[k] = self._target(k, feature, prefix)
        return targets, teacher.run_head(feature, prefix).logits

    def _prompt(
        self, k: int, feature: Tensor, prefix: Tensor | None, feedback: Tensor | None, layout: str
    ) -> tuple[Tensor, Tensor | None]:
        """Equation (3): the map and the prefix tokens that enter stage k."""
        block = self.prompts[str(k)]
        if not self.released or layout == "NCHW":
            return block(feature, feedback), prefix
        prompted = block(_leading_tokens(feature, prefix), feedback)
        # As released: read as tokens, channel by channel, though it was made by moving the channels to the front.
        size, places = feature.shape[2:], feature[0, 0].numel()
        tokens = prompted.reshape(len(prompted), places, -1)
        if prefix is not None:
            left_over = torch.cat([prefix, _tokens(feature)], dim=1)[:, places:]
            tokens = torch.cat([tokens, left_over], dim=1)
            prefix, tokens = tokens[:, : prefix.shape[1]], tokens[:, prefix.shape[1] :]
        return tokens.transpose(1, 2).unflatten(2, size), prefix


def _aligner(regions: int, width: int, stage: Stage, small: bool) -> nn.Module:
    """Regions -> the shape of a stage of the teacher, in the manner of that stage: a map's, or tokens'.

    With `small`, a map's last layer begins as the tokens' does. Its batch-normalised input has unit variance, and
    fan-out initialisation would make 2 width / channels of it, against standardised targets of 1: at first the matching
    would outweigh labels and logits thirty times.
    """
    if stage.layout == "NCHW":
        aligner = TokensToMap(width, stage.channels, stage.size).apply(initialise)
        if small:
            trunc_normal_(aligner.to_map.projection.weight, std=0.02)
        return aligner
    return TokensToTokens(regions, width, stage.channels, stage.size).apply(initialise)


def _tokens(feature: Tensor) -> Tensor:
    return feature.flatten(2).transpose(1, 2)


def _leading_tokens(feature: Tensor, prefix: Tensor | None) -> Tensor:
    """The map of the first H W tokens, class and register tokens counted: what the released code takes for the grid."""
    if prefix is None:
        return feature
    size = feature.shape[2:]
    tokens = torch.cat([prefix, _tokens(feature)], dim=1)[:, : size[0] * size[1]]
    return tokens.transpose(1, 2).unflatten(2, size)
