"""A gentler stem: lower the early stride of a CNN, for images of 32 to 64 pixels."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossdistill.errors import UserError
from crossdistill.staged import StagedModel
from crossdistill.staged.card import STEM_STRIDE
from crossdistill.staged.probe import STAGE_PROPORTION, probe

# Positions on the shorter side of the last grid. Fewer leave nothing to be compared with a teacher's map.
_LEAST_GRID = 4
# Where a module whose stem was lowered keeps the stride that it was made with.
_OWN_STRIDE = "crossdistill_own_stem_stride"
# Enough for the grids of a stem to differ, and a power of two, so that strides divide it.
_PROBE_SIZE = 128


@dataclass(frozen=True)
class _Reduction:
    """A strided layer that was called, with the heights of the grids before and behind it."""

    path: str
    before: int
    after: int


def lower_stem_stride(
    model: nn.Module, stride: int, *, name: str = "", stage_ends: Sequence[str] | None = None
) -> None:
    """Lower the stride at the end of a CNN's first stage, in place; all later grids grow by the same factor.

    As many of the first strided layers as it takes are set to stride 1, in the order of the forward: a convolution
    keeps its kernel, a pooling is removed. Layers that reduce the same grid side by side, in a residual block and its
    shortcut, go together. The stage grids that result are checked by a run. A ResNet has stride 4 at the end of its
    first stage; at 2 its max pooling stays, at 1 it is gone, as is usual for CIFAR.

    Weights keep their shapes. Call it before the model becomes a `StagedModel`, whose weights file then says so.

    Args:
        model: a timm model, or any other module with `stage_ends`.
        stride: pixels per position at the end of the first stage.
        name: for messages; default: the name of the class.
        stage_ends: module paths of the stage ends, for a model that does not name its own.

    Raises:
        UserError: the first stage cannot have this stride: it is higher than the model's own, the stem cuts patches
            that do not overlap, or lowering the strided layers does not give it.
    """
    name = name or type(model).__name__
    try:
        _refuse_patches(next(m for m in model.modules() if isinstance(m, nn.Conv2d)), name)
        ends, grids = _stage_grids(model, name, stage_ends)
        own = round(_PROBE_SIZE / grids[0])
        if stride == own:
            return
        if stride < 1 or own % stride:
            raise UserError(f"the first stage of {name} has stride {own}; choose a smaller one that divides it")
        layers = _layers_to_lower(model, ends[0], own // stride, name)
        lowered = copy.deepcopy(model)
        _remove_strides(lowered, layers)
        _, after = _stage_grids(lowered, name, stage_ends)
        if after != [grid * own // stride for grid in grids]:
            raise UserError(
                f"lowering the first strided layers of {name} turns grids of {_listed(grids)} into {_listed(after)} at "
                f"{_PROBE_SIZE} pixels; choose another stride, or enlarge --image_size instead"
            )
    except UserError as error:
        raise UserError(f"--stem_stride {stride}: {error}") from error
    _remove_strides(model, layers)
    setattr(model, _OWN_STRIDE, getattr(model, _OWN_STRIDE, own))
    setattr(model, STEM_STRIDE, stride)
    # timm's own record of pixels per position, which tells where tokens lie.
    for level in getattr(model, "feature_info", None) or []:
        level["reduction"] = max(1, level["reduction"] * stride // own)


def stem_stride(model: StagedModel) -> int:
    """Pixels per position at the end of the first stage."""
    return _pixels_per_position(model)[0]


def suggested_stem_stride(model: StagedModel) -> int | None:
    """The stem stride that suits a CNN's image size.

    It is the largest, up to the one that the model was made with, that leaves a last grid of 4x4 or more; where none
    does, it is 1. A ResNet, made with 4, keeps it from 97 pixels on, and gets 2 from 49 and 1 below.

    Args:
        model: as it is used, its stem lowered already or not.

    Returns:
        The stride, which may be the one in use (`stem_stride`); None for a model whose stem is not lowered: one that
        cuts patches, overlapping or not, or whose stages mix positions by attention or by a linear layer.
    """
    if any(kind in stage.mixing for stage in model.stages for kind in ("attention", "mlp")):
        return None
    first = next((module for module in model.model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or _cuts_patches(first) or _stride(first) > 2:
        return None
    own = getattr(model.model, _OWN_STRIDE, stem_stride(model))
    divisors = [stride for stride in range(own, 0, -1) if own % stride == 0]
    return next((stride for stride in divisors if min(_last_grid(model, stride)) >= _LEAST_GRID), 1)


def stem_advice(model: StagedModel) -> str:
    """One line for a user whose model has another stem stride than the suggested one; "" where there is none to say."""
    suggested, used = suggested_stem_stride(model), stem_stride(model)
    if suggested in (None, used):
        return ""
    height, width = model.stages[-1].size
    new_height, new_width = _last_grid(model, suggested)
    return (
        f"the last grid of {model.name} is {height}x{width} with a stem of stride {used}: "
        f"--stem_stride {suggested} makes it {new_height}x{new_width}"
    )


def _last_grid(model: StagedModel, stride: int) -> tuple[int, int]:
    """Height and width of the last stage's grid with another stem stride."""
    pixels = _pixels_per_position(model)
    height, width = (math.ceil(side * pixels[0] / (pixels[-1] * stride)) for side in model.image_size)
    return height, width


def _pixels_per_position(model: StagedModel) -> list[int]:
    """Of the grid at the end of each stage, along the height."""
    known = {level["module"]: level["reduction"] for level in getattr(model.model, "feature_info", None) or []}
    if all(stage.path in known for stage in model.stages):
        return [known[stage.path] for stage in model.stages]
    pixels, size = 1, model.image_size[0]
    found = []
    for stage in model.stages:
        # Rounded stage by stage, because grids are rounded up.
        pixels, size = pixels * round(size / stage.size[0]), stage.size[0]
        found.append(pixels)
    return found


def _stage_grids(model: nn.Module, name: str, stage_ends: Sequence[str] | None) -> tuple[list[str], list[int]]:
    """Paths of the stage ends and the heights of their grids."""
    stages = probe(model, name, (_PROBE_SIZE, _PROBE_SIZE), stage_ends, STAGE_PROPORTION).stages
    return [stage.path for stage in stages], [stage.size[0] for stage in stages]


def _layers_to_lower(model: nn.Module, end: str, factor: int, name: str) -> list[str]:
    """Paths of the first strided layers whose strides multiply to `factor`, or to the next that can be reached."""
    reductions = _reductions(model, end)
    layers: list[str] = []
    for before in dict.fromkeys(reduction.before for reduction in reductions):
        if factor <= 1:
            break
        together = [reduction for reduction in reductions if reduction.before == before]
        for reduction in together:
            _refuse_patches(model.get_submodule(reduction.path), name)
        layers += [reduction.path for reduction in together]
        factor //= round(before / together[0].after)
    return layers


def _reductions(model: nn.Module, end: str) -> list[_Reduction]:
    """The strided convolutions and poolings that are called before the module at `end` returns, in order."""
    found: list[_Reduction] = []
    ended: list[bool] = []
    probed = copy.deepcopy(model).eval()

    for path, module in probed.named_modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):

            def note(module: nn.Module, args: tuple[Tensor], output: Tensor, path: str = path) -> None:
                before, after = args[0].shape[-2], output.shape[-2]
                if not ended and _stride(module) > 1:
                    found.append(_Reduction(path, before, after))

            module.register_forward_hook(note)
    probed.get_submodule(end).register_forward_hook(lambda module, args, output: ended.append(True))
    parameter = next(probed.parameters())
    with torch.no_grad():
        probed(torch.zeros(1, 3, _PROBE_SIZE, _PROBE_SIZE, dtype=parameter.dtype, device=parameter.device))
    return found


def _stride(module: Any) -> int:
    stride = module.stride
    return stride if isinstance(stride, int) else max(stride)


def _kernel(module: Any) -> int:
    kernel = module.kernel_size
    return kernel if isinstance(kernel, int) else max(kernel)


def _cuts_patches(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and 1 < _kernel(module) <= _stride(module)


def _refuse_patches(module: nn.Module, name: str) -> None:
    if _cuts_patches(module):
        size = _kernel(module)
        raise UserError(
            f"{name} cuts the image into patches of {size}x{size} that do not overlap; give it smaller ones when it "
            f"is built, for example --student.kwargs.patch_size={size // 2}"
        )


def _remove_strides(model: nn.Module, paths: list[str]) -> None:
    for path in paths:
        module = model.get_submodule(path)
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
        else:
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, nn.Identity())


def _listed(grids: list[int]) -> str:
    return ", ".join(map(str, grids))
