"""The head of a model: what it pools, what its classifier reads, and the classifier applied at every position."""

from typing import Any

import torch
from timm.layers import RmsNorm, RmsNorm2d, SelectAdaptivePool2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from crossdistill.staged.layout import Grid, to_map
from crossdistill.staged.plan import Plan, Step
from crossdistill.staged.trace import Call, Trace

_POOLING = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, SelectAdaptivePool2d)


def describe_head(
    plan: Plan, trace: Trace, classifiers: dict[str, str], num_classes: int | None, last_stage: int
) -> None:
    """Fill in the plan's final map, classifiers and head chains from a trace.

    Args:
        plan: with its stages and boundaries.
        trace: the traced run.
        classifiers: name of a head -> path of its classifier layer.
        num_classes: what the model says of itself, 0 for no head; None for a model that does not say.
        last_stage: index of the call that ends the last stage.
    """
    final = _final_call(plan, trace, last_stage)
    plan.final_path = trace.calls[final].path
    found = {name: trace.calls[i] for name, path in classifiers.items() if (i := trace.last_call(path)) is not None}
    widths = {_width(call.output) for call in found.values()}
    answer = trace.output
    plan.num_classes = answer.shape[1] if num_classes or (num_classes is None and widths == {answer.shape[1]}) else 0
    plan.pooled_size = answer.shape[1]
    if not plan.num_classes:
        plan.dense_refusal = "it has no head"
        return
    heads = [call.output.flatten(1) for call in found.values() if call.output is not None]
    if widths != {plan.num_classes} or not torch.allclose(torch.stack(heads).mean(0), answer):
        plan.pooled_size = plan.final.channels
        plan.dense_refusal = "its answer is not that of one linear layer"
        return
    plan.classifiers = {name: call.path for name, call in found.items()}
    plan.pooled_size = _width(found["class"].input)
    behind = trace.calls[final + 1 :]
    chains = {name: _chain_to(call, behind) for name, call in found.items()}
    plan.head_chains = {
        name: [Step(call.path, None, tuple(call.input.shape[1:])) for call in chain if call.input is not None]
        for name, chain in chains.items()
    }
    in_chains = {call.path for chain in chains.values() for call in chain}
    pooling = [call for call in behind if call.path not in in_chains and any(True for _ in call.module.parameters())]
    if pooling:
        plan.dense_refusal = f"it pools with parameters of its own ('{pooling[0].path}')"
        return
    vectors = [chain[0].input.flatten(1) for chain in chains.values() if chain[0].input is not None]
    if any(vector.shape[1] != plan.final.channels for vector in vectors):
        plan.dense_refusal = "its pooling changes the number of channels"
        return
    pooled_map = trace.calls[final].output
    assert pooled_map is not None
    mean = to_map(pooled_map, plan.final)[0].mean((2, 3))
    plan.pools_mean = all(torch.allclose(vector, mean) for vector in vectors)


def _final_call(plan: Plan, trace: Trace, last_stage: int) -> int:
    """Index of the last call whose output is still a map of the last stage's grid: that is what gets pooled."""
    final, plan.final = last_stage, plan.boundaries[-1]
    for index in range(last_stage + 1, len(trace.calls)):
        call = trace.calls[index]
        grid = None if isinstance(call.module, _POOLING) else _same_grid(call.output, plan.boundaries[-1])
        if grid is None:
            break
        final, plan.final = index, grid
    return final


def _same_grid(tensor: Tensor | None, last: Grid) -> Grid | None:
    if tensor is None:
        return None
    if tensor.ndim == 3 and tensor.shape[1] == last.size[0] * last.size[1] + last.prefix_tokens:
        return Grid("NLC", tensor.shape[2], last.size, last.prefix_tokens)
    if tensor.ndim != 4:
        return None
    fits = {"NCHW": tensor.shape[2:] == last.size, "NHWC": tensor.shape[1:3] == last.size}
    layouts = [layout for layout in (last.layout, "NCHW", "NHWC") if fits.get(layout)]
    if not layouts:
        return None
    return Grid(layouts[0], tensor.shape[1 if layouts[0] == "NCHW" else 3], last.size)


def _chain_to(classifier: Call, calls: list[Call]) -> list[Call]:
    """The calls that lead to the classifier from the pooled vector on: each is given what the one before returned."""
    chain = [classifier]
    for call in reversed(calls[: calls.index(classifier)]):
        if call.input is None or call.output is None or call.input.numel() != _width(call.input):
            continue
        if isinstance(call.module, _POOLING):
            break
        after = chain[0].input
        assert after is not None
        if call.output.numel() == after.numel() and torch.equal(call.output.flatten(), after.flatten()):
            chain.insert(0, call)
    return chain


def _width(tensor: Tensor | None) -> int:
    """D of a tensor that holds one vector for the one image of the probe, whatever its axes; 0 for any other."""
    if tensor is None or tensor.ndim < 2:
        return 0
    width = max(tensor.shape[1:])
    return width if width == tensor.numel() else 0


def apply_at_every_position(model: nn.Module, chain: list[Step], final: Tensor) -> Tensor:
    """The units of a head, run on every position of a map (B, D, H, W) as if it alone had been pooled: (B, K, H, W).

    Norms behind the pooling take their statistics from the mean over positions. They are then affine in a position,
    and the mean of a linear head's answers over positions is its answer to the mean. The mean goes along as one more
    position at the end.
    """
    batch, _, height, width = final.shape
    positions = final.flatten(2).transpose(1, 2)
    positions = torch.cat([positions, positions.mean(1, keepdim=True)], dim=1)
    for step in chain:
        module = model.get_submodule(step.path)
        normalised = _normalise_by_last(module, positions)
        if normalised is None:
            positions = module(positions.reshape(-1, *step.shape)).reshape(batch, height * width + 1, -1)
        else:
            positions = normalised
    return positions[:, :-1].transpose(1, 2).unflatten(2, (height, width))


def _normalise_by_last(module: Any, positions: Tensor) -> Tensor | None:
    """Apply a norm to (B, N, D) with the statistics of the last position; None for modules that are no such norm.

    A batch norm in eval mode is affine already. In training mode it takes those of the batch, and its running
    statistics are left to the model's own forward.
    """
    x = positions.to(torch.promote_types(positions.dtype, torch.float32))
    if isinstance(module, nn.LayerNorm) or (isinstance(module, nn.GroupNorm) and module.num_groups == 1):
        variance, mean = torch.var_mean(x[:, -1:], dim=2, keepdim=True, correction=0)
    elif isinstance(module, nn.RMSNorm | RmsNorm | RmsNorm2d):
        variance, mean = x[:, -1:].square().mean(dim=2, keepdim=True), x.new_zeros(())
    elif isinstance(module, _BatchNorm) and module.training:
        variance, mean = torch.var_mean(x[:, -1:], dim=(0, 1), keepdim=True, correction=0)
    else:
        return None
    epsilon = torch.finfo(x.dtype).eps if module.eps is None else module.eps
    x = (x - mean) * torch.rsqrt(variance + epsilon)
    if module.weight is not None:
        x = x * module.weight
    if getattr(module, "bias", None) is not None:
        x = x + module.bias
    # timm's norms may end with an activation.
    return module.act(x) if hasattr(module, "act") else x
