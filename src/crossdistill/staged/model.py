"""`StagedModel`: one way to look at every image classifier."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from crossdistill.errors import UserError
from crossdistill.staged.card import (
    STEM_STRIDE,
    ModelCard,
    decimals,
    height_and_width_of,
    own_image_size,
    pretrained_config,
)
from crossdistill.staged.head import apply_at_every_position
from crossdistill.staged.layout import from_map, to_map
from crossdistill.staged.modes import eval_mode
from crossdistill.staged.outputs import Outputs
from crossdistill.staged.plan import Further, Plan, Stage, run_steps
from crossdistill.staged.probe import STAGE_PROPORTION, probe
from crossdistill.staged.taps import Entered, FurtherTap, Gate, InputTap, OutputTap, Recorder


class StagedModel(nn.Module):
    """An image classifier seen as stem -> stages -> head.

    `forward` runs the model's own forward and takes the features from it, as (B, C, H, W) whatever the model's layout.
    `enter`, `run_stage`, `run_head` and `run_from` run the model in segments, so that another model's features can go
    through its last stages, or something can be changed at the entry of a stage. A boundary between stages is a map
    and, for models with class or register tokens, these tokens beside it. Stage k+1 is entered by what stage k ends
    with: in ConvNeXt and Swin, the map before the downsampling.

    Segments are checked when the model is built: in float64, on a random image, in eval mode, against its own forward.
    What blocks are given beside the tensor (rotary embeddings, grid sizes) is taken from the model's own forward; a
    second image shows that it is the same for all of them. A model that fails (class attention behind the stages) still
    gives features; asking it for segments raises the reason. What a forward does between its modules in training mode
    only, such as dropout by a function, is not seen and is left out of a segmented run; timm does so in `forward_head`
    alone, which is run as a whole.

    Stages are the last four levels of timm's `feature_info` (fewer where it has fewer); a network whose levels share
    one resolution is cut in `stage_proportion`. Other modules name their stage ends.

    Args:
        model: a timm model, or any module whose forward takes (B, 3, H, W) and returns (B, K).
        name: for messages; default: timm's name, or the name of the class. The dotted path of a callable that builds
            the module makes its weights file one that can be read alone.
        mean: of the images in [0, 1], per channel; default: the model's `pretrained_cfg`, else no normalisation.
        std: as `mean`.
        image_size: side in pixels, or (height, width), that the model is run at; default: the model's own.
        stage_ends: module paths of the stage ends, for a model without `feature_info` or to cut it elsewhere.
        stage_proportion: how the blocks of an isotropic network are dealt out to stages.

    Attributes:
        model: the module itself, untouched.
        num_classes: K; 0 for a model without a head.
        pooled_size: D of `Outputs.pooled`.
        final_channels: D of `Outputs.final`.
        heads: names of the heads: ("class",) or ("class", "distillation"); () without one.
        stages: the stages, first to last.
        card: what a weights file will say of the model.

    Raises:
        UserError: the stages are not known, the model refuses the image size, or it gives no feature maps.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str = "",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        image_size: tuple[int, int] | int | None = None,
        stage_ends: Sequence[str] | None = None,
        stage_proportion: Sequence[int] = STAGE_PROPORTION,
    ) -> None:
        super().__init__()
        config = pretrained_config(model)
        self.model: Any = model
        self.name = name or config.get("architecture") or type(model).__name__
        self.image_size = height_and_width_of(image_size) if image_size is not None else own_image_size(model, config)
        self._plan: Plan = probe(model, self.name, self.image_size, stage_ends, stage_proportion)
        self.num_classes = self._plan.num_classes
        # Not persistent: a state dict holds the model's own weights and nothing else.
        for key, given in (("mean", mean), ("std", std)):
            values = config.get(key, 0.0 if key == "mean" else 1.0) if given is None else given
            statistics = torch.as_tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1).expand(1, 3, 1, 1)
            self.register_buffer(key, statistics.clone(), persistent=False)
        # The proportion has a say only where all stages have one grid.
        isotropic = len({stage.size for stage in self.stages}) == 1
        as_found = stage_ends is None and (tuple(stage_proportion) == STAGE_PROPORTION or not isotropic)
        self.card = ModelCard(
            name=self.name,
            num_classes=self.num_classes,
            image_size=self.image_size,
            mean=decimals(self.mean),
            std=decimals(self.std),
            stem_stride=getattr(model, STEM_STRIDE, None),
            stage_ends=None if as_found else ",".join(stage.path for stage in self.stages),
            needs_module=True,
            # Whoever brings a module knows what its weights are.
            head_trained=True,
            weights="module",
        )
        self._recorder = Recorder()
        self._further: dict[str, Further] = {}
        self._hooks: list[RemovableHandle] = []
        self.attach_hooks()

    @property
    def stages(self) -> list[Stage]:
        """The stages, first to last."""
        return self._plan.stages

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads: ("class",) or ("class", "distillation"); () without one."""
        return tuple(self._plan.classifiers) or (("class",) if self.num_classes else ())

    @property
    def pooled_size(self) -> int:
        """D of `Outputs.pooled`."""
        return self._plan.pooled_size

    @property
    def final_channels(self) -> int:
        """D of `Outputs.final`."""
        return self._plan.final.channels

    @property
    def pools_mean(self) -> bool:
        """Whether the head reads the mean of `Outputs.final` over positions: no class token, no maximum."""
        return self._plan.pools_mean

    @property
    def exact_segments(self) -> bool:
        """Whether the model can be run in segments."""
        return not self._plan.refusal

    @property
    def segments_refusal(self) -> str:
        """Why the model cannot be run in segments; "" if it can."""
        return self._plan.refusal

    def require(self, need: str, what: str) -> None:
        """Refuse a model that does not give what a method needs.

        Args:
            need: a word of `crossdistill.distiller.Needs`.
            what: what needs it, as the subject of a sentence ("FBT", "the prompt of PAT").

        Raises:
            UserError: with the model's name, the reason and what would fit.
        """
        if need in ("logits", "head_logits") and not self.num_classes:
            raise UserError(
                f"{what} learns from logits and {self.name} has no head: "
                "choose a method that learns from features only, or a model with a classifier"
            )
        if need == "segments":
            self.require_segments(what)
        if need == "attention" and "attention" not in self.stages[-1].mixing:
            raise UserError(
                f"{what} learns from the last attention block of a Transformer, and the last stage of {self.name} has "
                f"no attention ({', '.join(self.stages[-1].mixing) or 'nothing'} mixes its positions): choose a "
                "Transformer in its place, or a method for any pair (fbt, pat, ofa, kd)"
            )

    def label_terms(self, outputs: Outputs, targets: Tensor) -> dict[str, Tensor]:
        """The loss of the student's own task, unweighted.

        Args:
            outputs: of this model.
            targets: (B,) class indices or (B, K) soft labels.

        Returns:
            `labels`: cross-entropy, mean over images.
        """
        return {"labels": F.cross_entropy(outputs.logits, targets)}

    def require_segments(self, what: str) -> None:
        """Refuse a model that cannot be run in segments.

        Args:
            what: what needs it, as the subject of a sentence ("FBT", "the prompt of PAT").

        Raises:
            UserError: with the model's name and the reason.
        """
        if self._plan.refusal:
            raise UserError(
                f"{what} runs a model in segments and {self.name} cannot be run so: {self._plan.refusal}; "
                f"choose another model, or a method that reads features or logits only"
            )

    def attach_hooks(self) -> None:
        """Hook the modules that features are taken from; again after modules of `model` were replaced."""
        plan, recorder = self._plan, self._recorder
        maps = [*((k, stage.path) for k, stage in enumerate(plan.stages)), ("final", plan.final_path)]
        taps: list[tuple[str, Any]] = [(path, OutputTap(recorder, key, plan.picks.get(path))) for key, path in maps]
        for head, path in plan.classifiers.items():
            taps += [(path, OutputTap(recorder, head)), (path, InputTap(recorder, f"{head} input"))]
        taps.append((plan.first_unit, Gate(recorder)))
        taps += [(path, FurtherTap(self._further, path)) for path in plan.further]
        for handle in self._hooks:
            handle.remove()
        self._hooks = [tap.attach(self.model.get_submodule(path)) for path, tap in taps]
        # Not the final map: there, what a later module made of it is what gets pooled.
        recorder.copied = {key for key, path in maps if path in plan.overwritten and key != "final"}

    def bare_module(self) -> nn.Module:
        """A copy of `model` without the hooks, in the mode that it is in: for whoever traces its forward."""
        for handle in self._hooks:
            handle.remove()
        try:
            return copy.deepcopy(self.model)
        finally:
            self.attach_hooks()

    def prepare_images(self, images: Tensor) -> Tensor:
        """Resize images in [0, 1] to the model's size, where they differ, and normalise them for it."""
        if images.shape[2:] != self.image_size:
            images = F.interpolate(images, self.image_size, mode="bilinear", antialias=True, align_corners=False)
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Outputs:
        """Run the model.

        Args:
            images: (B, 3, H, W) in [0, 1], of any size.
        """
        with self._recorder:
            answer = self.model(self.prepare_images(images))
        record = self._recorder.take()
        boundaries = [to_map(record[k], grid) for k, grid in enumerate(self._plan.boundaries[1:])]
        return self._outputs(answer, record, boundaries)

    def enter(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Run the stem: what enters stage 0.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            The map (B, C, H, W) and the class and register tokens (B, P, C), or None where there are none.
        """
        self.require_segments("entering the first stage")
        self._recorder.stop_at_gate = True
        try:
            self.model(self.prepare_images(images))
        except Entered as entered:
            return to_map(entered.tensor, self._plan.boundaries[0])
        finally:
            self._recorder.stop_at_gate = False
        raise AssertionError(f"{self.name} did not call {self._plan.first_unit}")

    def run_stage(self, k: int, feature: Tensor, prefix: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Run one stage.

        Args:
            k: which; negative counts from the last.
            feature: what enters it, (B, entry_channels, *entry_size) of `stages[k]`.
            prefix: the tokens that enter it, (B, P, entry_channels), for a model that has such tokens.

        Returns:
            What enters the next stage or, after the last, the head: as from `enter`.

        Raises:
            UserError: the model cannot be run in segments.
            ValueError: the tensors do not fit the stage.
        """
        self.require_segments("running a stage")
        before, after = self._plan.boundaries[:-1][k], self._plan.boundaries[1:][k]
        x = run_steps(self.model, self._plan.segments[k], from_map(feature, prefix, before), self._arguments())
        return to_map(x, after)

    def run_head(self, feature: Tensor, prefix: Tensor | None = None) -> Outputs:
        """Run what follows the last stage.

        Args:
            feature: what the last stage ends with, (B, channels, *size) of `stages[-1]`.
            prefix: the tokens beside it, (B, P, channels).

        Returns:
            The outputs; `features` and `prefix` are empty, as no stage was run.
        """
        self.require_segments("running the head")
        x, arguments = from_map(feature, prefix, self._plan.boundaries[-1]), self._arguments()
        with self._recorder:
            if self._plan.final_path == self.stages[-1].path:
                self._recorder.put("final", x)
            answer = run_steps(self.model, self._plan.tail, x, arguments)
            if self._plan.own_head:
                answer = self.model.forward_head(answer)
        return self._outputs(answer, self._recorder.take(), [])

    def run_from(self, k: int, feature: Tensor, prefix: Tensor | None = None) -> Outputs:
        """Run the rest of the model from the entry of a stage.

        Args:
            k: the stage that `feature` enters; `len(stages)` is the head.
            feature: as for `run_stage`.
            prefix: as for `run_stage`.

        Returns:
            The outputs; `features` and `prefix` hold the stages that were run.
        """
        ended: list[tuple[Tensor, Tensor | None]] = []
        for stage in range(k, len(self.stages)):
            feature, prefix = self.run_stage(stage, feature, prefix)
            ended.append((feature, prefix))
        outputs = self.run_head(feature, prefix)
        outputs.features = [feature for feature, _ in ended]
        outputs.prefix = [prefix for _, prefix in ended]
        return outputs

    def require_dense_logits(self, what: str) -> None:
        """Refuse a model whose head cannot be applied at every position: `what` as for `require_segments`.

        Raises:
            UserError: with the model's name and the reason.
        """
        if self._plan.dense_refusal:
            reason = self._plan.dense_refusal
            raise UserError(f"{what} needs a head for every position and {self.name} has none: {reason}")

    def dense_logits(self, final: Tensor, head: str = "class") -> Tensor:
        """Apply a head to every position of the final map.

        Where the head is linear behind the pooling, the mean over positions equals its answer to the average-pooled
        map. That holds for a norm behind the pooling too (ConvNeXt): its statistics are those of the mean vector; a
        batch norm in training mode takes them over the batch and does not update its running statistics. Layers behind
        the pooling that are not linear (MobileNetV3's hidden layer) have no such form and are applied per position.

        Args:
            final: (B, D, H, W) as in `Outputs.final`, at any resolution.
            head: one of `heads`.

        Returns:
            (B, K, H, W).

        Raises:
            UserError: the model has no head, or pools by attention or with other parameters of its own.
        """
        self.require_dense_logits("dense logits")
        return apply_at_every_position(self.model, self._plan.head_chains[head], final)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that the model wants no weight decay on, as they are called here."""
        own = getattr(self.model, "no_weight_decay", None)
        # timm names tokens that this very model may not have.
        return {f"model.{name}" for name in own()} & set(dict(self.named_parameters())) if own is not None else set()

    @torch.no_grad()
    def select_classes(self, indices: Sequence[int]) -> None:
        """Keep only these outputs of every head, in this order.

        Args:
            indices: outputs to keep, for example the 200 of ImageNet's 1000 that a data set uses.

        Raises:
            UserError: the model has no linear classifier, or not so many outputs.
        """
        if not self._plan.classifiers:
            raise UserError(f"{self.name} has no linear classifier whose classes could be chosen from")
        wrong = [index for index in indices if not 0 <= index < self.num_classes]
        if wrong:
            raise UserError(f"{self.name} has no output {wrong[0]}: its outputs are 0 to {self.num_classes - 1}")
        for path in self._plan.classifiers.values():
            layer: Any = self.model.get_submodule(path)
            layer.weight = nn.Parameter(layer.weight[list(indices)], layer.weight.requires_grad)
            if layer.bias is not None:
                layer.bias = nn.Parameter(layer.bias[list(indices)], layer.bias.requires_grad)
            setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", len(indices))
        self.num_classes = len(indices)
        classes = self.card.classes and [self.card.classes[index] for index in indices]
        self.card = replace(self.card, num_classes=len(indices), classes=classes)
        if hasattr(self.model, "num_classes"):
            self.model.num_classes = len(indices)

    def _apply(self, fn: Any, recurse: bool = True) -> "StagedModel":
        # What `to`, `cuda` and `double` come down to: what was kept of a forward is elsewhere, or of another type.
        self._further.clear()
        super()._apply(fn, recurse)
        return self

    def _arguments(self) -> dict[str, Further]:
        """What units are given beside the tensor, as the model's own last forward gave it: the same for every image."""
        if self._plan.further - self._further.keys():
            with torch.no_grad(), eval_mode(self.model):
                self.model(self.grey_image())
        return self._further

    def grey_image(self) -> Tensor:
        """An image, (1, 3, *image_size), for those who need the sizes of the outputs and not their values."""
        parameter = next(self.parameters())
        return torch.full((1, 3, *self.image_size), 0.5, dtype=parameter.dtype, device=parameter.device)

    def _outputs(self, answer: Tensor, record: dict[Any, Tensor], ended: list[tuple[Tensor, Tensor | None]]) -> Outputs:
        final = to_map(record["final"], self._plan.final)[0]
        if self._plan.classifiers:
            head_logits = {head: record[head].flatten(1) for head in self._plan.classifiers}
            pooled = record["class input"].flatten(1)
        elif self.num_classes:
            head_logits, pooled = {"class": answer}, final.mean((2, 3))
        else:
            head_logits, pooled = {}, answer
        return Outputs(
            features=[feature for feature, _ in ended],
            logits=answer if self.num_classes else None,  # type: ignore[arg-type]
            head_logits=head_logits,
            prefix=[prefix for _, prefix in ended],
            final=final,
            pooled=pooled,
        )

    def extra_repr(self) -> str:
        stages = ", ".join(f"{s.path} {s.channels}@{s.size[0]}x{s.size[1]}" for s in self.stages)
        return f"name={self.name}, image_size={self.image_size}, stages=[{stages}]"
