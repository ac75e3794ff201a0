"""How far the attention layers of a model look.

Attention distance (Dosovitskiy et al., ICLR 2021, figure 7): the mean distance between a patch and the patches that it
attends to, weighted by the attention, per head; here as a share of the image's side. Class and register tokens have no
place; what a patch attends to beside patches is left out, and the rest counts as the whole.

A layer is measured where its attention is over all positions of a stage's grid and `staged.attention` explains it (a
check in float64, as for methods that read attention). Windows are too small to look far from, whatever they learn.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossdistill.staged import Outputs, StagedModel
from crossdistill.staged.attention import is_attention, is_explained, position_bias, project
from crossdistill.staged.modes import eval_mode

# Numbers of an attention map, heads and images together, that are in memory at a time.
_ELEMENTS = 1 << 26


def grid_distances(size: tuple[int, int]) -> Tensor:
    """(H * W, H * W) from every position of a grid to every other, as shares of the image's side."""
    rows, columns = torch.meshgrid(torch.arange(size[0]) / size[0], torch.arange(size[1]) / size[1], indexing="ij")
    places = torch.stack([rows, columns], dim=-1).flatten(0, 1)
    return torch.cdist(places, places)


def attention_distance(
    attention: nn.Module, tokens: Tensor, size: tuple[int, int], rope: Tensor | None = None
) -> Tensor:
    """(B, heads) mean distance from a patch to what it attends to, as a share of the image's side.

    Args:
        attention: a module that `is_explained`.
        tokens: (B, N, C) what it is given, prefix tokens first.
        size: (H, W) of the grid of patches.
        rope: rotary embeddings, as it is given them.
    """
    queries, keys, _ = project(attention, tokens, rope)
    logits = queries @ keys.mT / queries.shape[-1] ** 0.5
    bias = position_bias(attention)
    if bias is not None:
        logits = logits + bias
    patches = math.prod(size)
    weights = logits[..., -patches:, -patches:].softmax(dim=-1)
    return (weights * grid_distances(size).to(weights)).sum(dim=-1).mean(dim=-1)


class AttentionDistances:
    """Runs a model and measures its attention layers.

    Args:
        model: on its device.

    Attributes:
        layers: path of each layer that is measured -> (H, W) of its grid, in the order in which they run.
        left_out: number of attention layers that are not measured.
    """

    def __init__(self, model: StagedModel) -> None:
        self._model = model
        calls = _attention_calls(model)
        grids = {call.path: _grid(model, call) for call in calls}
        self.layers = {path: size for path, size in grids.items() if size is not None}
        self.left_out = len(grids) - len(self.layers)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Outputs, dict[str, Tensor]]:
        """Run the model in its mode.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            The outputs, and by the layer's path (B, heads), as shares of the image's side.
        """
        distances: dict[str, Tensor] = {}

        def measure(path: str, size: tuple[int, int]) -> Any:
            def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
                tokens, rope = args[0], _rope(kwargs)
                step = max(1, _ELEMENTS // (getattr(module, "num_heads", 1) * tokens.shape[1] ** 2))
                parts = [attention_distance(module, part, size, rope) for part in tokens.split(step)]
                distances[path] = torch.cat(parts)

            return hook

        handles = [
            self._model.model.get_submodule(path).register_forward_pre_hook(measure(path, size), with_kwargs=True)
            for path, size in self.layers.items()
        ]
        try:
            return self._model(images), distances
        finally:
            for handle in handles:
                handle.remove()


@dataclass(frozen=True)
class _Call:
    """An attention module at work: where it is, in which stage, and what it is given."""

    path: str
    stage: int
    args: tuple
    kwargs: dict[str, Any]


@torch.no_grad()
def _attention_calls(model: StagedModel) -> list[_Call]:
    """The attention modules that run, in their order, on one random image."""
    calls: list[_Call] = []
    ended: list[str] = []

    def note(path: str) -> Any:
        return lambda module, args, kwargs: calls.append(_Call(path, len(ended), args, kwargs))

    def end(path: str) -> Any:
        return lambda module, args, output: ended.append(path)

    modules = dict(model.model.named_modules())
    handles = [modules[stage.path].register_forward_hook(end(stage.path)) for stage in model.stages]
    for path, module in modules.items():
        if is_attention(module):
            handles.append(module.register_forward_pre_hook(note(path), with_kwargs=True))
    like = model.grey_image()
    # Not the grey one: where all patches are alike, all attention gives the same.
    image = torch.rand(like.shape, generator=torch.Generator().manual_seed(0)).to(like)
    try:
        with eval_mode(model):
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _grid(model: StagedModel, call: _Call) -> tuple[int, int] | None:
    """The grid that a layer attends over; None where it is not that of its stage, or the layer is not explained."""
    if call.stage == len(model.stages) or not call.args or not isinstance(call.args[0], Tensor):
        return None
    stage, tokens = model.stages[call.stage], call.args[0]
    if tokens.ndim != 3 or tokens.shape[:2] != (1, stage.prefix_tokens + math.prod(stage.size)):
        return None
    module = model.model.get_submodule(call.path)
    if isinstance(module, nn.MultiheadAttention) and any(other is not tokens for other in call.args[1:3]):
        return None
    return stage.size if is_explained(module, tokens, _rope(call.kwargs)) else None


def _rope(kwargs: dict[str, Any]) -> Tensor | None:
    rope = kwargs.get("rope")
    return rope if isinstance(rope, Tensor) else None
