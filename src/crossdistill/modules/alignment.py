"""The rule by which features of two architectures are compared; every method that matches features goes by it.

1. Stages are paired from the last backwards: stages of equal distance from the answer stand for each other, and the
   first ones of the deeper model have no partner.
2. Each pair meets on the coarser of its two grids, side by side, by averaging. What the finer grid knows beyond that
   the other model has no place for; to enlarge the coarser one would make up positions. AT, NST, FT and VID are
   compared so in the benchmark of contrastive representation distillation (arXiv 1910.10699).
3. Positions are those of patches. Class and register tokens have no place on the other model's grid and stay out.
4. The student's channels become the teacher's by a 1x1 convolution, never the other way round: a layer that shrinks the
   teacher could be trained to make it easy.
5. Where a loss is an unnormalised distance, the teacher's features are standardised per channel first. Residual
   streams of ConvNeXt or ViT vary by orders of magnitude between stages and channels; raw, the largest channel would be
   all that is learnt, and no weight would hold for two teachers.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from crossdistill.errors import UserError
from crossdistill.modules.standardizer import Standardizer
from crossdistill.staged import Outputs, Stage, StagedModel

# Images that tell the first statistics of the teacher's features.
_IMAGES_MEASURED = 1000


def match_stages(student: Sequence[Stage], teacher: Sequence[Stage]) -> list[tuple[int, int]]:
    """Rule 1: (student's, teacher's) indices of the paired stages, first to last."""
    depth = min(len(student), len(teacher))
    return [(len(student) - depth + k, len(teacher) - depth + k) for k in range(depth)]


def match_grids(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Rule 2: both maps, (B, C, H, W) with C and grids of their own, averaged to the coarser grid, side by side."""
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    return shrink(one, size), shrink(other, size)


def shrink(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Average over positions on each axis of (B, C, H, W) that is longer than in `size`."""
    height, width = feature.shape[2:]
    size = (min(height, size[0]), min(width, size[1]))
    if size == (height, width):
        return feature
    if height % size[0] or width % size[1]:
        return F.adaptive_avg_pool2d(feature, size)
    # The same numbers as above, but its gradient on GPUs is deterministic.
    return F.avg_pool2d(feature, (height // size[0], width // size[1]))


def to_channels(channels: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    """Rule 4: a 1x1 convolution that begins small.

    A student's residual stream may be as large as it likes; with the usual fan-out initialisation its projection would
    be far larger than a standardised target at first, and the match would drown the labels.
    """
    layer = nn.Conv2d(channels, outputs, kernel_size=1, bias=bias)
    trunc_normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def batch_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """A batch norm that takes a single vector too: one value per channel has no deviation, the running ones serve."""
    if x.numel() > x.shape[1]:
        return norm(x)
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


class StageAlignment(nn.Module):
    """Pairs the stages of two models and brings each pair to one grid; standardises the teacher's on request.

    Args:
        student: the model that is trained.
        teacher: the model that is learnt from.
        stages: stages of the student to take, counted from 1; default: all that have a partner.
        standardize: rule 5, by running statistics over images and positions.
        owner: the method, for messages.

    Attributes:
        numbers: the student's stages, counted from 1.
        pairs: the stages themselves: (student's, teacher's).
        sizes: the common grid of each pair.

    Raises:
        UserError: a stage that is asked for does not exist or has no partner.
    """

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel,
        stages: Sequence[int] | None = None,
        *,
        standardize: bool = False,
        owner: str,
    ) -> None:
        super().__init__()
        partners = {ours + 1: theirs for ours, theirs in match_stages(student.stages, teacher.stages)}
        self.numbers = sorted(set(partners if stages is None else stages))
        if not self.numbers or not set(self.numbers) <= set(partners):
            raise UserError(
                f"{owner}: stages={stages}, but {student.name} has stages {min(partners)} to {max(partners)} to be "
                f"matched with {teacher.name}"
            )
        self._theirs = [partners[number] for number in self.numbers]
        self.pairs = [(student.stages[number - 1], teacher.stages[partners[number]]) for number in self.numbers]
        self.sizes = [(min(s.size[0], t.size[0]), min(s.size[1], t.size[1])) for s, t in self.pairs]
        self.standardizers = nn.ModuleList(
            Standardizer(theirs.channels, enabled=standardize) for _, theirs in self.pairs
        )

    def forward(self, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
        """Of each pair the student's and the teacher's map, (B, C, H, W) each with its own C, on one grid."""
        if self.training:
            self.measure(teacher)
        ours = [shrink(student.features[n - 1], size) for n, size in zip(self.numbers, self.sizes, strict=True)]
        theirs = [standardize(x) for standardize, x in zip(self.standardizers, self.teacher_maps(teacher), strict=True)]
        return list(zip(ours, theirs, strict=True))

    def teacher_maps(self, teacher: Outputs) -> list[Tensor]:
        """The teacher's map of each pair on the common grid, as it is."""
        return [shrink(teacher.features[k], size) for k, size in zip(self._theirs, self.sizes, strict=True)]

    def measure(self, teacher: Outputs) -> None:
        """Take a batch of the teacher's into the statistics."""
        for standardizer, feature in zip(self.standardizers, self.teacher_maps(teacher), strict=True):
            assert isinstance(standardizer, Standardizer)
            standardizer.measure(feature)

    def statistics(self, name: str) -> tuple[str, ...]:
        """Names of the buffers that differ between processes, as a method with this part under `name` calls them."""
        return tuple(f"{name}.{buffer}" for buffer, _ in self.named_buffers())

    def projectors(self, bias: bool = True) -> nn.ModuleList:
        """Rule 4, for each pair."""
        return nn.ModuleList(to_channels(ours.channels, theirs.channels, bias) for ours, theirs in self.pairs)


def first_images(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """As many batches of images as tell the statistics of features."""
    seen = 0
    for images in batches:
        yield images
        seen += len(images)
        if seen >= _IMAGES_MEASURED:
            return
