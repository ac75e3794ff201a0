"""A detector seen as the methods see every model: the levels of its pyramid are its stages."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from crossdistill.detection.boxes import Detections, Targets
from crossdistill.detection.pyramid import Pyramid
from crossdistill.errors import UserError
from crossdistill.staged import Outputs, Stage, StagedModel
from crossdistill.staged.card import ModelCard
from crossdistill.staged.layout import Grid
from crossdistill.staged.modes import eval_mode
from crossdistill.staged.plan import Plan

# The words of `Needs` that a detector gives.
_GIVEN = ("features", "prefix", "final", "pooled", "views")
_WORDS = {
    "logits": "the logits of an image",
    "head_logits": "the logits of an image",
    "segments": "a model in segments",
}


class StagedDetector(StagedModel):
    """A detector of torchvision, seen through the seam of `StagedModel`.

    `features` are the levels of its pyramid, finest first; `final` and `pooled` are its backbone's, or the last level
    and its mean where the backbone is torchvision's own. It has no logits of an image, and is not run in segments.

    The whole batch has one size, `image_size`; what an image does not fill of it is padding at the right and below.

    Args:
        model: one of torchvision's detectors, with a pyramid as its `backbone`.
        name: for messages.
        image_size: (height, width) of a batch.
        mean: of the images in [0, 1], per channel; default: the backbone normalises for itself.
        std: as `mean`.
        first_label: the label that the model has for the first class: 1 where the background is 0.
        classes: names of the classes, in the order of the labels.
        mixing: what mixes positions in the backbone.

    Attributes:
        classes: as given.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        image_size: tuple[int, int],
        classes: Sequence[str],
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        first_label: int = 0,
        mixing: tuple[str, ...] = ("convolution",),
    ) -> None:
        # Not that of `StagedModel`, which looks for the stages of a classifier.
        nn.Module.__init__(self)
        self.model: Any = model
        self.name = name
        self.image_size = image_size
        self.classes = list(classes)
        self.first_label = first_label
        self.num_classes = len(self.classes)
        self._further: dict[str, Any] = {}
        # The batch is resized and normalised here or in the backbone, once for all levels.
        model.transform = _AsItIs()
        for key, values in (("mean", mean), ("std", std)):
            self.register_buffer(key, torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)
        with torch.no_grad(), eval_mode(self.model):
            pyramid: Any = model.backbone
            levels = pyramid(self.prepare_images(self.grey_image()))
        reason = "it is a detector, whose levels are computed together"
        self._plan = Plan(stages=_stages(levels, mixing), refusal=reason, dense_refusal=reason)
        last = self._plan.stages[-1]
        self._plan.pooled_size, self._plan.final = last.channels, Grid("NCHW", last.channels, last.size)
        if self.backbone is not None:
            self._plan.pooled_size, self._plan.final = self.backbone.pooled_size, self.backbone._plan.final
        self.card = ModelCard(name, classes=self.classes, image_size=image_size, needs_module=True)

    @property
    def backbone(self) -> StagedModel | None:
        """The model that the pyramid stands on; None where it is one of torchvision's own."""
        pyramid = self.model.backbone
        return pyramid.backbone if isinstance(pyramid, Pyramid) else None

    @property
    def last_stage(self) -> Stage:
        if self.backbone is None:
            return self.stages[-1]
        stage = self.backbone.last_stage
        return replace(stage, path=f"backbone.backbone.model.{stage.path}")

    def attach_hooks(self) -> None:
        if self.backbone is not None:
            self.backbone.attach_hooks()

    def no_weight_decay(self) -> set[str]:
        if self.backbone is None:
            return set()
        return {f"model.backbone.backbone.{name}" for name in self.backbone.no_weight_decay()}

    def require(self, need: str, what: str) -> None:
        """Refuse what a detector does not give: logits of an image, segments, what its backbone does not give."""
        if need == "attention" and self.backbone is not None:
            self.backbone.require(need, what)
        elif need not in _GIVEN:
            raise UserError(
                f"{what} reads {_WORDS.get(need, need)}, and {self.name} is a detector, which gives the levels of its "
                "pyramid only: choose a method of features (pkd, fitnet, at, reviewkd), or pat with "
                "--method.kwargs.prompt_stages=[] --method.kwargs.logit_weight=0"
            )

    def forward(self, images: Tensor) -> Outputs:
        """Run the backbone and the pyramid: (B, 3, H, W) in [0, 1] of any size."""
        images = self.prepare_images(images)
        if isinstance(self.model.backbone, Pyramid):
            return self.model.backbone.run(images)
        levels = list(self.model.backbone(images).values())
        final = levels[-1]
        return Outputs(features=levels, prefix=[None] * len(levels), final=final, pooled=final.mean((2, 3)))

    def label_terms(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:  # type: ignore[override]
        """torchvision's own loss terms, under torchvision's names.

        Args:
            outputs: of this model.
            targets: of each image, `boxes` (N, 4) as x1, y1, x2, y2 in pixels of `image_size` and `labels` (N,) from 0.
        """
        shifted = [{"boxes": t["boxes"], "labels": t["labels"] + self.first_label} for t in targets]
        return self._run_heads(outputs, shifted)

    def example_targets(self, count: int) -> Targets:
        """One box in the middle of each image."""
        height, width = self.image_size
        box = torch.tensor([[width / 4, height / 4, 3 * width / 4, 3 * height / 4]], device=self.mean.device)
        return [
            {"boxes": box, "labels": torch.tensor([k % len(self.classes)], device=box.device)} for k in range(count)
        ]

    def detect(self, outputs: Outputs) -> list[Detections]:
        """Boxes found, in pixels of `image_size`, best first; the model is in eval mode."""
        found: list[Detections] = []
        for one in self._run_heads(outputs, None):
            labels = one["labels"] - self.first_label
            # torchvision's COCO weights have labels that are no class.
            known = (labels >= 0) & (labels < len(self.classes))
            found.append({"boxes": one["boxes"][known], "scores": one["scores"][known], "labels": labels[known]})
        return found

    def _run_heads(self, outputs: Outputs, targets: Targets | None) -> Any:
        """The detector's own forward, behind a backbone that has run already."""
        levels = dict(zip((stage.path for stage in self.stages), outputs.features, strict=True))
        # Only their sizes are read.
        image = outputs.features[0].new_zeros(()).expand(3, *self.image_size)
        with _known_features(self.model.backbone, levels):
            return self.model([image] * len(outputs.features[0]), targets)


class _AsItIs(nn.Module):
    """In the place of torchvision's resizing and normalising."""

    def forward(self, images: list[Tensor], targets: Targets | None) -> tuple[ImageList, Targets | None]:
        height, width = images[0].shape[1:]
        batch = images[0].expand(len(images), 3, height, width)
        return ImageList(batch, [(height, width)] * len(images)), targets

    def postprocess(self, found: list[Detections], *sizes: Any) -> list[Detections]:
        return found


@contextmanager
def _known_features(backbone: nn.Module, levels: dict[str, Tensor]) -> Iterator[None]:
    """Let a backbone return what it returned already."""
    backbone.forward = lambda images: levels  # type: ignore[method-assign]
    try:
        yield
    finally:
        del backbone.forward


def _stages(levels: dict[str, Tensor], mixing: tuple[str, ...]) -> list[Stage]:
    stages: list[Stage] = []
    for name, level in levels.items():
        channels, size = level.shape[1], (level.shape[2], level.shape[3])
        stages.append(Stage(name, channels, size, channels, size, "NCHW", 0, mixing))
    return stages
