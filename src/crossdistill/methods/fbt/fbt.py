"""FBT: fuse before transfer, knowledge distillation through a network made of the student and the teacher.

Li et al.: Fuse Before Transfer: Knowledge Fusion for Heterogeneous Distillation (ICCV 2025, arXiv 2410.12342), first
published as TAS (teacher, assistant, student). An assistant whose first stages are one model's and whose last stage and
head are the other's stands between the two: its features carry both inductive biases. It is trained at the same time.

With S^i the stages, c for the network of convolutions and m for that of attention or MLPs, the assistant is

    p_f(x) = fc_m . S_m^4 . L2G . S_c^3 . S_c^2 . S_c^1 (x),    L2G = Swin block . patch embedding              (1)

whichever of the two is the teacher. A homogeneous pair, and one of attention with MLPs, takes the student's first
stages and the teacher's last. The stages are the models' own; only L2G is new. The teacher's part is frozen, but the
assistant's gradient flows through a frozen tail into L2G and on into the student's first stages.

What is transferred is the vector f that the head reads, so that spatial distributions play no role, and the logits p.
The paper's f is the mean of the last feature map, which is the same for models that average; a class token's head does
not read the patches, and their mean says less of the class (`feature`). For a source i, a learner j, a projector g from
the student's to the teacher's width (only where they differ), cosine similarity <.,.> and a learnable temperature tau
per pair,

    InfoNCE(f_i, f_j) = -mean_b log( exp(<g f_j^b, f_i^b> / tau) / sum_k exp(<g f_j^b, f_i^k> / tau) )          (2)
    L(i, j) = InfoNCE(f_i, f_j) + OFA(p_i, p_j)                                                                 (3)
    L = CE(p_s, y) + L(t, s) + L(t, f) + L(f, s)                                                                (4)

with `ofa_loss` of methods/ofa.py. The negatives k are the other images of one forward pass, of all devices: with
`--accumulate`, of a micro-batch.

No released code could be read, so there is one variant. The texts do not say, and this file chooses: sources are
detached, for otherwise the assistant drags its own target; the assistant sees no labels; (2) is one-way, the learner
being the anchor; the projector serves every pair that needs one, as there are but two feature spaces, the assistant's
features being in the space of the tail's owner.
"""

import math
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import UserError, check_range
from crossdistill.methods.fbt.assistant import LocalToGlobal, teacher_is_front
from crossdistill.methods.ofa import ofa_loss
from crossdistill.modules.gather import gather_batches
from crossdistill.modules.precision import in_float32
from crossdistill.ranges import Range
from crossdistill.staged import Outputs, StagedModel
from crossdistill.staged.modes import eval_mode, unchanged_statistics

PAIRS = ("teacher_to_student", "teacher_to_assistant", "assistant_to_student")
# Beyond this, cosines that are off by rounding would decide.
_HIGHEST_INVERSE_TEMPERATURE = 100.0


@in_float32
def info_nce_loss(student_pooled: Tensor, teacher_pooled: Tensor, temperature: float | Tensor) -> Tensor:
    """Equation (2), mean over images: to find the teacher's vector of the same image among those of all images.

    Computed in float32 at least: a small temperature magnifies the rounding of half precision.

    Args:
        student_pooled: (B, D), or (..., B, D) for several independent problems.
        teacher_pooled: (N, D) or (..., N, D) with N >= B; the first B belong to the same images, the others are only
            negatives.
        temperature: tau, above 0.
    """
    anchors, keys = F.normalize(student_pooled, dim=-1), F.normalize(teacher_pooled, dim=-1)
    similarities = anchors @ keys.transpose(-1, -2) / temperature
    return -similarities.log_softmax(dim=-1).diagonal(dim1=-2, dim2=-1).mean()


class FBT(Distiller):
    """Fuse before transfer: teacher, student and an assistant made of both teach each other by equation (4).

    The assistant is made of convolutional first stages and an attention or MLP tail where the pair has such, else of
    the student's first stages and the teacher's tail. It owns nothing but the block between them.

    Args:
        student: the model that is trained, of any architecture.
        teacher: the model that is learnt from, of any architecture.
        label_weight: weight of the student's cross-entropy with the labels.
        teacher_student_weight: weight of L(t, s); 0 is one of the paper's ablations D and E.
        teacher_assistant_weight: weight of L(t, f); 0 is the paper's ablation C.
        assistant_student_weight: weight of L(f, s); 0 is one of the paper's ablations D and E.
        feature_weight: weight of the feature terms in every pair; 0 is the paper's ablation F.
        logit_weight: weight of the OFA terms in every pair; 0 is the paper's ablation G.
        assistant_label_weight: weight of the assistant's own cross-entropy with the labels; the paper has none.
        gamma: exponent of the OFA terms; 1 for CIFAR, 1 to 1.5 for ImageNet.
        temperature: T of the OFA terms, which are multiplied by T^2, so that their gradient keeps its size.
        feature_loss: "info_nce", or "mse", the mean squared error of the features as they are.
        feature_temperature: tau of equation (2) at the start.
        feature: what f is: "head", the vector that the classifier reads, or "map", the mean of the last feature map
            over positions; the same for a model that averages.
        smoothing: "pooled" compares f, "per_position" the maps at every position of the smaller of the two grids.
        prefix: the class and register tokens that a tail needs: "mean", the mean of its owner's over the training
            images (measured by `prepare`), or "learned", which starts there; "own", the owner's tokens for the very
            image, with which the assistant can answer without its front. A student's tail moves, so there "mean"
            becomes "learned". Without meaning for other tails, and for a tail of no stage: there each is the mean of
            the block's map.
        front: whose first stages the assistant has; "auto" decides by what mixes positions in the stages.
        tail_stages: how many of the last stages are the tail; 0 is the head alone, the paper's ablation B.
        attention_blocks: Swin blocks behind the patch embedding; 0, with `tail_stages` 0, is the paper's ablation A.
        detach_source: no gradient from a pair to its source, such as from L(f, s) to the assistant.
    """

    needs = Needs(teacher={"logits"}, student={"logits"}, labels=True)
    # The paper's gammas are 1 to 1.5. The temperature of the features is trained, so only its start is open: from where
    # nearest neighbours decide to where all images count.
    ranges: ClassVar = {
        "gamma": Range(1, 1.5),
        "temperature": Range(1, 4, log=True),
        "feature_weight": Range(0.1, 10, log=True),
        "logit_weight": Range(0.1, 10, log=True),
        "feature_temperature": Range(0.03, 0.3, log=True),
    }
    feature_scales: nn.Parameter | None
    prefix_tokens: Tensor | None

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        label_weight: float = 1.0,
        teacher_student_weight: float = 1.0,
        teacher_assistant_weight: float = 1.0,
        assistant_student_weight: float = 1.0,
        feature_weight: float = 1.0,
        logit_weight: float = 1.0,
        assistant_label_weight: float = 0.0,
        gamma: float = 1.0,
        temperature: float = 1.0,
        feature_loss: Literal["info_nce", "mse"] = "info_nce",
        feature_temperature: float = 0.07,
        feature: Literal["head", "map"] = "head",
        smoothing: Literal["pooled", "per_position"] = "pooled",
        prefix: Literal["mean", "learned", "own"] = "mean",
        front: Literal["auto", "student", "teacher"] = "auto",
        tail_stages: int = 1,
        attention_blocks: int = 1,
        detach_source: bool = True,
    ) -> None:
        super().__init__(student, teacher, label_weight)
        check_range("fbt", above=1 / _HIGHEST_INVERSE_TEMPERATURE, feature_temperature=feature_temperature)
        check_range("fbt", above=0, temperature=temperature, gamma=gamma)
        check_range("fbt", at_least=0, attention_blocks=attention_blocks)
        self.pair_weights = dict(
            zip(PAIRS, (teacher_student_weight, teacher_assistant_weight, assistant_student_weight), strict=True)
        )
        self.feature_weight = feature_weight
        self.logit_weight = logit_weight
        self.assistant_label_weight = assistant_label_weight
        self.gamma = gamma
        self.temperature = temperature
        # Single positions are nothing that a head reads.
        self.feature = "map" if smoothing == "per_position" else feature
        self.smoothing = smoothing
        self.detach_source = detach_source

        # Without a tail the front still ends where the last stage would begin.
        behind_front = max(1, tail_stages)
        for model in (student, teacher):
            if tail_stages < 0 or behind_front >= len(model.stages):
                raise UserError(
                    f"fbt: tail_stages={tail_stages}, but {model.name} has {len(model.stages)} stages, and front and "
                    f"tail need one each: choose 0 to {len(model.stages) - 1}, or a model with more stages"
                )
        self.teacher_front = (
            teacher_is_front(student.stages, teacher.stages, behind_front) if front == "auto" else front == "teacher"
        )
        self.tail.require_segments("the tail of FBT's assistant")
        # The front ends here, and the tail is entered by what its owner has here.
        self.front_boundary = len(self.front.stages) - behind_front - 1
        self.tail_boundary = len(self.tail.stages) - tail_stages - 1
        of_front, of_tail = {f"features.{self.front_boundary + 1}"}, {"segments"}
        if prefix == "own":
            of_tail.add(f"prefix.{self.tail_boundary + 1}")
        read = {"pooled" if self.feature == "head" else "final"}
        of_front, of_tail = of_front | read, of_tail | read
        if self.teacher_front:
            self.declare(teacher=of_front, student=of_tail)
        else:
            self.declare(teacher=of_tail, student=of_front)
        source, target = self.front.stages[self.front_boundary], self.tail.stages[self.tail_boundary]
        self.local_to_global = LocalToGlobal(
            source.channels, source.size, target.channels, target.size, blocks=attention_blocks
        )

        student_view, teacher_view = _outputs_of_a_grey_image(student), _outputs_of_a_grey_image(teacher)
        self._init_prefix(prefix, teacher_view if self.tail is teacher else student_view)
        widths = self._feature(student_view).shape[1], self._feature(teacher_view).shape[1]
        self.projector = nn.Linear(*widths) if widths[0] != widths[1] else nn.Identity()
        # Logarithms of 1 / tau: a step changes them by a factor, and tau cannot become negative.
        starts = torch.full((len(PAIRS),), 1 / feature_temperature).log()
        self.feature_scales = nn.Parameter(starts) if feature_loss == "info_nce" else None

    # Properties, for the models are not the assistant's own: a second name would be a second entry in the state dict.
    @property
    def front(self) -> StagedModel:
        """The model whose first stages the assistant has."""
        return self._teacher if self.teacher_front else self.student

    @property
    def tail(self) -> StagedModel:
        """The model whose last stages and head the assistant has."""
        return self.student if self.teacher_front else self._teacher

    @property
    def _teacher(self) -> StagedModel:
        assert self.teacher is not None
        return self.teacher

    def _init_prefix(self, prefix: str, tail: Outputs) -> None:
        """Decide where the tail's prefix tokens come from; what is stored starts at those of a grey image."""
        tokens = tail.prefix[self.tail_boundary]
        if tokens is None:
            self.prefix = "none"
            self.register_buffer("prefix_tokens", None)
            return
        if self.tail_boundary == len(self.tail.stages) - 1 and not self.tail.pools_mean:
            # No stage is left in which a class token could read the patches.
            self.prefix = "pooled"
            self.register_buffer("prefix_tokens", None)
            return
        self.prefix = "learned" if prefix == "mean" and self.teacher_front else prefix
        if self.prefix == "learned":
            self.prefix_tokens = nn.Parameter(tokens[0].clone())
        else:
            self.register_buffer("prefix_tokens", tokens[0].clone() if self.prefix == "mean" else None)

    @torch.no_grad()
    def prepare(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """Measure the mean of the tail owner's prefix tokens, where the assistant's are to be or to start there."""
        if self.prefix_tokens is None:
            return {}
        count, mean = 0, torch.zeros_like(self.prefix_tokens)
        with eval_mode(self.tail):
            for images in batches:
                tokens = self.tail(images).prefix[self.tail_boundary]
                assert tokens is not None
                count += len(tokens)
                mean += (tokens - mean).sum(dim=0) / count
        if count:
            self.prefix_tokens.copy_(mean)
        return {}

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        front, tail = (teacher, student) if self.teacher_front else (student, teacher)
        assistant = self.assist(front.features[self.front_boundary], tail)
        if self.feature_scales is not None:
            with torch.no_grad():
                # In place: a clamp inside the graph would have no gradient that leads back from beyond the bound.
                self.feature_scales.copy_(self.feature_scales.clamp(max=math.log(_HIGHEST_INVERSE_TEMPERATURE)))

        outputs = {"teacher": teacher, "assistant": assistant, "student": student}
        # The assistant's features are in the space of the tail's owner.
        space = {
            "teacher": "teacher",
            "student": "student",
            "assistant": "student" if self.teacher_front else "teacher",
        }
        terms = {}
        if self.assistant_label_weight:
            loss = F.cross_entropy(assistant.logits, batch.labels)
            terms["assistant_labels"] = self.assistant_label_weight * loss
        for number, pair in enumerate(PAIRS):
            source, learner = pair.split("_to_")
            weight = self.pair_weights[pair]
            projected = space[source] != space[learner]
            features = self._feature_loss(
                number, self._feature(outputs[learner]), self._feature(outputs[source]), projected
            )
            logits = self._logit_loss(outputs[learner].logits, outputs[source].logits, batch.labels)
            terms[f"{pair}_features"] = weight * self.feature_weight * features
            terms[f"{pair}_logits"] = weight * self.logit_weight * logits
        return terms

    def _feature(self, outputs: Outputs) -> Tensor:
        """f of a model, (B, D), or its last map, (B, D, H, W)."""
        return outputs.pooled if self.feature == "head" else outputs.final

    def assist(self, feature: Tensor, tail: Outputs | None = None) -> Outputs:
        """Equation (1), from the end of the front on.

        Args:
            feature: (B, C, H, W), the front owner's map of stage `front_boundary`.
            tail: the tail owner's outputs for the images; only needed for `prefix="own"`.
        """
        entry = self.local_to_global(feature)
        prefix = None
        if self.prefix == "own":
            assert tail is not None
            prefix = tail.prefix[self.tail_boundary]
        elif self.prefix == "pooled":
            prefix = entry.mean(dim=(2, 3))[:, None].expand(-1, self.tail.stages[-1].prefix_tokens, -1)
        elif self.prefix_tokens is not None:
            prefix = self.prefix_tokens.expand(len(entry), -1, -1)
        # The student's own pass has updated the statistics already; a frozen tail is in eval mode and updates none.
        with unchanged_statistics(self.tail):
            return self.tail.run_from(self.tail_boundary + 1, entry, prefix)

    def _feature_loss(self, pair: int, learner: Tensor, source: Tensor, projected: bool) -> Tensor:
        """InfoNCE or the mean squared error between the features of two models.

        Args:
            pair: its number in `PAIRS`.
            learner: (B, D), or a map (B, D, H, W).
            source: as `learner`, of its own width and grid.
            projected: whether the learner's features are in the student's space and the source's in the teacher's.
        """
        if learner.ndim == 2:
            anchors, keys = learner[None], source[None]
        else:
            size = (1, 1)
            if self.smoothing == "per_position":
                size = (min(learner.shape[2], source.shape[2]), min(learner.shape[3], source.shape[3]))
            # (positions, B, D); the projector is linear, so it may as well come behind the average.
            anchors, keys = (F.adaptive_avg_pool2d(x, size).flatten(2).permute(2, 0, 1) for x in (learner, source))
        if projected:
            anchors = self.projector(anchors)
        if self.detach_source:
            keys = keys.detach()
        if self.feature_scales is None:
            return F.mse_loss(anchors, keys)
        temperature = (-self.feature_scales[pair]).exp()
        return info_nce_loss(anchors, _everywhere(keys), temperature)

    def _logit_loss(self, learner: Tensor, source: Tensor, labels: Tensor) -> Tensor:
        if self.detach_source:
            source = source.detach()
        return self.temperature**2 * ofa_loss(learner, source, labels, self.gamma, self.temperature)

    @torch.no_grad()
    def validation_metrics(self, batch: Batch, model: StagedModel, outputs: Outputs) -> dict[str, Tensor]:
        """Whether the assistant is right, and whether it still is where its front saw another image, a grey one.

        Once trained, the first should lie near or between the accuracies of the student and the teacher. The second
        should be near chance: an assistant that is right all the same answers from the tokens of `prefix`, not from its
        front.
        """
        with eval_mode(self.student):
            feature = self.front(batch.images).features[self.front_boundary]
            foreign = self.front(self.front.grey_image()).features[self.front_boundary].expand_as(feature)
            tail = self.tail(batch.images) if self.prefix == "own" else None
            own, other = (self.assist(front, tail).logits.argmax(dim=1) == batch.labels for front in (feature, foreign))
        return {"assistant_top1": own, "assistant_top1_foreign_front": other}

    def no_weight_decay(self) -> set[str]:
        names = {name for name, _ in self.local_to_global.named_parameters() if name.endswith("bias_table")}
        return super().no_weight_decay() | {"prefix_tokens"} | {f"local_to_global.{name}" for name in names}


@torch.no_grad()
def _outputs_of_a_grey_image(model: StagedModel) -> Outputs:
    """What sizes and tokens a model's outputs have."""
    with eval_mode(model):
        return model(model.grey_image())


def _everywhere(vectors: Tensor) -> Tensor:
    """(positions, B, D) -> (positions, N, D): those of all processes, this one's first."""
    return gather_batches(vectors.transpose(0, 1)).transpose(0, 1)
