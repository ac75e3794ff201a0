"""CSKD: cumulative spatial knowledge distillation, from a CNN to a vision transformer.

Zhao, Song, Liang: Cumulative Spatial Knowledge Distillation for Vision Transformers (ICCV 2023, arXiv 2307.08500). A
CNN's map and a transformer's patch tokens are not comparable features, but both cover the image. So the teacher's own
head is applied to every position of its last map, and each answer is taught to the patch tokens at the same place:
spatial knowledge without matching a feature. Such local answers help early and hold the transformer back late, because
a position of the teacher sees less than a token does; so the teacher's answer to the whole image takes over.

With f_T the teacher's last map, P_T = head(f_T) at every position (B, K, H, W), P_G its answer to the image, p_S the
student's head at its patch tokens, averaged over those that share a position of the teacher, and x the progress,

    a(x) = 1 - x ("linear")   or   (1 - x)^2 ("quadratic")   or   cos(pi x / 2) ("cosine")             (1)
    P(x) = a(x) P_T + (1 - a(x)) P_G                                                                   (2)
    L_spatial = CE(p_S, argmax P)   or   T^2 KL(softmax(P / T) || softmax(p_S / T)),   per position    (3)
    L = w_label CE(z_class, y) + w_logit CE(z_distillation, argmax P_G) + w_spatial L_spatial          (4)

The second term of (4) is DeiT's (methods/deit.py), hard as written or soft. The patch tokens share
the head of the distillation token. A student without one teaches all three terms to its class head.

The released code fits one teacher and one student: grids of 7x7 and 14x14, a linear head behind the pooling. Its
normalisers of the soft terms are `variant="released"`: the spatial one is summed over positions, so that it weighs as
many times more as the grid has positions, and the logits' one is averaged over classes too. It takes the mean of P_T
for P_G; here P_G is the teacher's own answer, the same wherever the head is linear. It infers with
`logits_with_patches`, a mean of three, where timm averages the two heads.
"""

import warnings
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import UserCaution, UserError, check_range
from crossdistill.methods.deit import Kind, Variant, deit_loss
from crossdistill.methods.kd import kd_loss
from crossdistill.modules.alignment import match_grids, shrink
from crossdistill.ranges import Choice, Range
from crossdistill.staged import Outputs, StagedModel

Schedule = Literal["linear", "quadratic", "cosine"]

# With fewer positions a side there is little that one place could be taught and another not.
_FEW_POSITIONS = 4
# Images that tell how often local classes are other ones, and the percentage below which a pair cannot show the method.
_IMAGES_MEASURED, _LITTLE_TO_TEACH = 1000, 20


def cskd_loss(
    student_dense_logits: Tensor,
    teacher_dense_logits: Tensor,
    progress: Tensor | float,
    kind: Kind,
    schedule: Schedule,
    temperature: float,
    teacher_logits: Tensor | None = None,
) -> Tensor:
    """Equation (3), mean over images and positions.

    Args:
        student_dense_logits: (B, K, H, W), p_S.
        teacher_dense_logits: (B, K, H, W) on the same grid, P_T.
        progress: x, 0 to 1.
        kind: "hard": cross-entropy; "soft": divergence.
        schedule: a(x) of equation (1).
        temperature: T of the soft kind.
        teacher_logits: (B, K), P_G; default: the mean of P_T over positions.
    """
    if teacher_logits is None:
        teacher_logits = teacher_dense_logits.mean(dim=(2, 3))
    target = fuse(teacher_dense_logits, teacher_logits, progress, schedule)
    if kind == "hard":
        return F.cross_entropy(student_dense_logits, target.argmax(dim=1))
    return kd_loss(student_dense_logits, target, temperature) / target[0, 0].numel()


def fuse(dense_logits: Tensor, logits: Tensor, progress: Tensor | float, schedule: Schedule) -> Tensor:
    """Equation (2): the local answers (B, K, H, W) fade into the answer to the image (B, K)."""
    # In half precision a small share of one answer would be rounded away, and classes would tie.
    dtype = torch.promote_types(dense_logits.dtype, torch.float32)
    local_share = _local_share(torch.as_tensor(progress, dtype=dtype, device=dense_logits.device), schedule)
    return torch.lerp(logits[:, :, None, None].to(dtype), dense_logits.to(dtype), local_share)


def _local_share(progress: Tensor, schedule: Schedule) -> Tensor:
    """a(x) of equation (1)."""
    if schedule == "linear":
        return 1 - progress
    if schedule == "quadratic":
        return (1 - progress).square()
    return torch.cos(progress * (torch.pi / 2))


def logits_with_patches(student: StagedModel, outputs: Outputs) -> Tensor:
    """The authors' inference, (B, K): the mean of each head's answer and the patch tokens' mean answer.

    Args:
        student: trained with CSKD; one with a distillation token gives a mean of three.
        outputs: what it says of the images.
    """
    patches = student.dense_logits(outputs.final, _patch_head(student)).mean(dim=(2, 3))
    return torch.stack([*outputs.head_logits.values(), patches]).mean(dim=0)


def _patch_head(student: StagedModel) -> str:
    return student.heads[-1]


class CSKD(Distiller):
    """Cumulative spatial distillation: patch tokens learn the teacher's answer at their place, later to the image.

    Made for a CNN teacher and a student with patch tokens. It takes any teacher that pools its last map (a class token
    says nothing about single positions) and any student whose head can be applied at every position. Adds no parameter.

    For students whose head does not average the patch tokens the evaluations have `top1_with_patches` beside `top1`:
    the accuracy of the authors' inference, the mean over the heads and the patch tokens. `top1` is that of the model as
    timm runs it.

    Args:
        student: the model that is trained.
        teacher: the model that is learnt from, with a map of more than one position.
        kind: of the spatial term: "hard" (the teacher's class at each position, the authors' default) or "soft" (its
            distribution).
        schedule: how the share of the local answers falls from 1 to 0; "linear" is the authors' default.
        fusion: whether it falls at all; False keeps the local answers to the end (the paper's ablation).
        progress_unit: whether it falls once an epoch, as in the authors' code, or with every iteration.
        logit_kind: of DeiT's term: "hard" (the teacher's class) or "soft" (its distribution).
        temperature: T of the soft kinds; 1 leaves the teacher's distribution as it is.
        label_weight: w_label of equation (4); the paper's 1 - alpha.
        logit_weight: w_logit of equation (4); the paper's alpha.
        spatial_weight: w_spatial of equation (4); 0 leaves DeiT's distillation.
        variant: normalisers of the soft kinds: "paper" averages over positions and images, "released" sums over
            positions and averages DeiT's term over classes.
    """

    needs = Needs(teacher={"logits", "final"}, student={"head_logits", "final"})
    # label_weight stays: the two others are measured against it. The temperature is read by the soft kinds alone.
    ranges: ClassVar = {
        "kind": Choice(("hard", "soft")),
        "logit_kind": Choice(("hard", "soft")),
        "temperature": Range(1, 4, log=True),
        "logit_weight": Range(0.05, 5, log=True),
        "spatial_weight": Range(0.1, 10, log=True),
    }

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        kind: Kind = "hard",
        schedule: Schedule = "linear",
        fusion: bool = True,
        progress_unit: Literal["iteration", "epoch"] = "epoch",
        logit_kind: Kind = "hard",
        temperature: float = 1.0,
        label_weight: float = 0.5,
        logit_weight: float = 0.5,
        spatial_weight: float = 1.0,
        variant: Variant = "paper",
    ) -> None:
        super().__init__(student, teacher, label_weight)
        check_range("cskd", above=0, temperature=temperature)
        _check_pair(student, teacher)
        self.kind: Kind = kind
        self.schedule: Schedule = schedule
        self.fusion = fusion
        self.progress_unit = progress_unit
        self.logit_kind: Kind = logit_kind
        self.temperature = temperature
        self.logit_weight = logit_weight
        self.spatial_weight = spatial_weight
        self.variant: Variant = variant

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {
            "logits": self.logit_weight * self.logit_loss(student, teacher),
            "spatial": self.spatial_weight * self.spatial_loss(student, teacher),
        }

    def label_terms(self, student: Outputs, labels: Tensor) -> dict[str, Tensor]:
        return {"labels": F.cross_entropy(student.head_logits["class"], labels)}

    def logit_loss(self, student: Outputs, teacher: Outputs) -> Tensor:
        """DeiT's term: the distillation token's head, where there is one, learns the teacher's answer."""
        logits = student.head_logits[_patch_head(self.student)]
        return deit_loss(logits, teacher.logits, self.logit_kind, self.temperature, self.variant)

    def spatial_loss(self, student: Outputs, teacher: Outputs) -> Tensor:
        """Equation (3): the patch tokens learn the fused answers, each at its place."""
        # Logits are averaged, not features, as the head may not be linear.
        ours, theirs = match_grids(
            self.student.dense_logits(student.final, _patch_head(self.student)), self.teacher_dense_logits(teacher)
        )
        progress = self.progress * float(self.fusion)
        loss = cskd_loss(ours, theirs, progress, self.kind, self.schedule, self.temperature, teacher.logits)
        # The released soft kind is a sum over positions.
        return loss * ours[0, 0].numel() if self.kind == "soft" and self.variant == "released" else loss

    @torch.no_grad()
    def teacher_dense_logits(self, teacher: Outputs) -> Tensor:
        """P_T, (B, K, H, W): the teacher's head at every position; the mean of its heads, where it has two."""
        assert self.teacher is not None
        dense = [self.teacher.dense_logits(teacher.final, head) for head in self.teacher.heads]
        return torch.stack(dense).mean(dim=0)

    @torch.no_grad()
    def prepare(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """Measure at how many places the teacher's class is not its class for the image: all that can be taught."""
        differ, places, images_seen = 0, 0, 0
        assert self.teacher is not None
        for images in batches:
            teacher = self.teach(images)
            grid = self.student.stages[-1].size
            dense = shrink(self.teacher_dense_logits(teacher), grid)
            local = dense.argmax(dim=1)
            differ += int((local != teacher.logits.argmax(dim=1)[:, None, None]).sum())
            places += local.numel()
            images_seen += len(images)
            if images_seen >= _IMAGES_MEASURED:
                break
        share = 100 * differ / max(1, places)
        if share < _LITTLE_TO_TEACH:
            warnings.warn(
                f"CSKD: the class that {self.teacher.name} sees at a place is its class for the whole image at all but "
                f"{share:.0f} % of the places, so there is little to teach place by place: KD or --method.kwargs."
                "spatial_weight 0 (DeiT's distillation) would teach nearly the same",
                UserCaution,
                stacklevel=2,
            )
        return {"places where the local class is another, %": share}

    @torch.no_grad()
    def validation_metrics(self, batch: Batch, model: StagedModel, outputs: Outputs) -> dict[str, Tensor]:
        """Whether the authors' inference is right, where it differs from the student's own by more than weights."""
        if self.student.pools_mean or batch.labels is None:
            return {}
        return {"top1_with_patches": logits_with_patches(model, outputs).argmax(dim=1) == batch.labels}


def _check_pair(student: StagedModel, teacher: StagedModel) -> None:
    """Refuse what has no answer per position, and grids of one position; warn of grids of few.

    Raises:
        UserError: with the model's name, the reason, and what would fit.
    """
    for model in (teacher, student):
        model.require_dense_logits("CSKD")
    if teacher.stages[-1].prefix_tokens and not teacher.pools_mean:
        raise UserError(
            f"CSKD asks the teacher's head about single positions and {teacher.name} answers from a class token: "
            "choose a CNN, or another teacher that averages its last map, or a method such as KD or OFA"
        )
    if student.heads == ("class",) and student.stages[-1].prefix_tokens and not student.pools_mean:
        warnings.warn(
            f"CSKD: {student.name} has no distillation token, so the head of its class token learns the patch tokens' "
            "answers too, which can cost accuracy: choose a model such as deit_tiny_distilled_patch16_224, or a lower "
            "--method.kwargs.spatial_weight",
            UserCaution,
            stacklevel=3,
        )
    for model, remedy in (
        (teacher, "give it larger images with --teacher_image_size, or train it with a lower --stem_stride"),
        (student, "choose a larger --image_size or smaller patches"),
    ):
        height, width = model.stages[-1].size
        if height * width == 1:
            raise UserError(
                f"CSKD teaches position by position and the last map of {model.name} has one only: {remedy}, or choose "
                "a method such as KD or OFA"
            )
        if min(height, width) < _FEW_POSITIONS:
            warnings.warn(
                f"CSKD: the last map of {model.name} has only {height}x{width} positions, which leaves little to teach "
                f"position by position: {remedy}",
                UserCaution,
                stacklevel=3,
            )
