"""A gentler stem: lower the early stride of a CNN, for images of 32 to 64 pixels."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossdistill.errors import UserError
from crossdistill.staged.probe import stage_levels

_STRIDED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)

# Large enough that every level of a pyramid of stride 32 has a grid of its own.
_PROBE_SIZE = 256


@dataclass
class _Reduction:
    """A strided layer that was called, with the heights of the grids before and behind it."""

    path: str
    before: int
    after: int


def lower_stem_stride(
    model: nn.Module, stride: int, *, name: str = "", stage_ends: Sequence[str] | None = None
) -> None:
    """Lower the stride at the end of a CNN's first stage, in place; all later grids grow by the same factor.

    The first strided layers are set to stride 1, in the order of the forward, as many as it takes: a convolution keeps
    its kernel, a pooling is removed. Layers that halve the same grid side by side (a residual block and its shortcut)
    go together. The grids that result are checked by a run. A ResNet has stride 4 there: 2 keeps the max pooling, 1
    is the usual form for CIFAR but for the size of the first kernel.

    Call it on the module itself, before it becomes a `StagedModel`. Weights keep their shapes.

    Args:
        model: a timm model, or any other module with `stage_ends`.
        stride: pixels per position at the end of the first stage.
        name: for messages; default: the name of the class.
        stage_ends: module paths of the stage ends, for a model that does not name its own.

    Raises:
        UserError: the stem cannot have this stride: it is higher than the model's own, the stem cuts patches that do
            not overlap, or the strided layers do not give it.
    """
    name = name or type(model).__name__
    levels = [level["module"] for level in stage_levels(model, name, stage_ends, (1, 1, 3, 1)) if level["module"]]
    # With five levels the first is the one before stage 0.
    ends = levels[-4:] if stage_ends is None else levels
    before, reductions = _run(model, name, ends)
    own = _PROBE_SIZE // before[0]
    if stride == own:
        return
    if not 0 < stride < own:
        raise UserError(f"--stem_stride {stride}: the first stage of {name} has stride {own}, which can only be lowered")
    lowered = copy.deepcopy(model)
    remaining = own
    for reduction in reductions:
        if remaining <= stride:
            break
        together = [r for r in reductions if r.before == reduction.before]
        for layer in together:
            _remove_stride(lowered, layer.path, name)
        remaining = remaining * reduction.after // reduction.before
    after, _ = _run(lowered, name, ends)
    if after != [grid * own // stride for grid in before]:
        raise UserError(
            f"--stem_stride {stride}: the strided layers of {name} do not give it (its stages have grids of "
            f"{', '.join(map(str, after))} for {_PROBE_SIZE} pixels then); leave it out, or enlarge --image_size"
        )
    for reduction in reductions:
        pass
