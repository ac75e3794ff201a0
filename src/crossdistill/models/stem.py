"""A gentler stem: lower the early stride of a CNN, for images of 32 to 64 pixels."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossdistill.errors import UserError
from crossdistill.staged.card import STEM_STRIDE
from crossdistill.staged.probe import STAGE_PROPORTION, probe

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
    setattr(model, STEM_STRIDE, stride)
    # timm's own record of pixels per position, which tells where tokens lie.
    for level in getattr(model, "feature_info", None) or []:
        level["reduction"] = max(1, level["reduction"] * stride // own)


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


def _refuse_patches(module: Any, name: str) -> None:
    kernel = module.kernel_size
    size = kernel if isinstance(kernel, int) else max(kernel)
    if isinstance(module, nn.Conv2d) and 1 < size <= _stride(module):
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
