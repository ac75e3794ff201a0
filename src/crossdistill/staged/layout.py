"""Tensor layouts: (B, C, H, W) to and from what a model computes in."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Layout = Literal["NCHW", "NHWC", "NLC"]

# Glue takes what one module returned, and the shape (without the batch) that the next one is given.
Glue = Callable[[Tensor, tuple[int, ...]], Tensor]

# Class and register tokens together are no more than this in any published network.
MOST_PREFIX_TOKENS = 16


@dataclass(frozen=True)
class Grid:
    """How one tensor of a model holds a feature map.

    Args:
        layout: NCHW, NHWC, or NLC (tokens).
        channels: C.
        size: (H, W) of the map.
        prefix_tokens: class and register tokens in front of the patch tokens; 0 for maps.
    """

    layout: Layout
    channels: int
    size: tuple[int, int]
    prefix_tokens: int = 0


def to_map(tensor: Tensor, grid: Grid) -> tuple[Tensor, Tensor | None]:
    """Split a tensor in its native layout into the map (B, C, H, W) and the prefix tokens (B, P, C) or None."""
    if grid.layout == "NCHW":
        return tensor, None
    if grid.layout == "NHWC":
        return tensor.permute(0, 3, 1, 2), None
    height, width = grid.size
    prefix, patches = tensor[:, : grid.prefix_tokens], tensor[:, grid.prefix_tokens :]
    if patches.shape[1] != height * width:
        raise ValueError(f"{patches.shape[1]} tokens do not fill the grid of {height}x{width} that this model has here")
    return patches.transpose(1, 2).unflatten(2, (height, width)), prefix if grid.prefix_tokens else None


def from_map(feature: Tensor, prefix: Tensor | None, grid: Grid) -> Tensor:
    """Inverse of `to_map`.

    Raises:
        ValueError: the prefix tokens are missing, or there are some where the model has none.
    """
    given = 0 if prefix is None else prefix.shape[1]
    if given != grid.prefix_tokens:
        raise ValueError(f"{given} prefix tokens given where the model has {grid.prefix_tokens}")
    if grid.layout == "NCHW":
        return feature
    if grid.layout == "NHWC":
        return feature.permute(0, 2, 3, 1)
    patches = feature.flatten(2).transpose(1, 2)
    return patches if prefix is None else torch.cat([prefix.to(patches.dtype), patches], dim=1)


def possible_grids(
    shape: tuple[int, ...], image_size: tuple[int, int], channels: int | None = None, reduction: float | None = None
) -> list[Grid]:
    """The ways to read a tensor of this shape as the feature map of an image.

    More than one only where the numbers agree by chance, such as 64 channels on a 64x64 grid; none where the tensor is
    no feature map.

    Args:
        shape: of the tensor, with the batch.
        image_size: (H, W) of the image that it was computed from.
        channels: C, where it is known.
        reduction: pixels for one position of the grid, where that is known.
    """
    image_height, image_width = image_size

    def has_aspect_of_image(height: int, width: int) -> bool:
        # Each side may be off by less than one position, from rounding.
        return abs(height * image_width - width * image_height) < max(image_height, image_width)

    grids: list[Grid] = []
    if len(shape) == 4:
        _, a, b, c = shape
        readings = (Grid("NCHW", a, (b, c)), Grid("NHWC", c, (a, b)))
        grids = [g for g in readings if g.channels == (channels or g.channels) and has_aspect_of_image(*g.size)]
    elif len(shape) == 3 and shape[2] == (channels or shape[2]):
        fits = []
        for height, width in _likely_sizes(shape[1], image_size, reduction):
            prefix = shape[1] - height * width
            if 0 <= prefix <= MOST_PREFIX_TOKENS:
                fits.append(Grid("NLC", shape[2], (height, width), prefix))
        grids += sorted(fits, key=lambda grid: grid.prefix_tokens)[:1]
    return grids


def _likely_sizes(tokens: int, image_size: tuple[int, int], reduction: float | None) -> list[tuple[int, int]]:
    height, width = image_size
    if reduction is not None:
        # Patch embeddings drop what is left over at the border, strided convolutions count it.
        return [(rounding(height / reduction), rounding(width / reduction)) for rounding in (math.floor, math.ceil)]
    # The largest grid of the image's proportions that the tokens can fill.
    scale = math.sqrt(tokens / (height * width))
    return [(max(1, int(height * scale + 1e-6)), max(1, int(width * scale + 1e-6)))]


def _reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x.reshape(len(x), *shape)


def _first_axis_last(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x.movedim(1, -1).reshape(len(x), *shape)


def _last_axis_first(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x.movedim(-1, 1).reshape(len(x), *shape)


def _mean_of_map(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x.flatten(2).mean(2)


def _mean_of_tokens(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x.flatten(1, -2).mean(1)


def _first_token(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x[:, 0]


def find_glue(before: Tensor, after: Tensor) -> Glue | None:
    """What a forward did between two modules, if it is no more than another view of the tensor or a plain pooling.

    Returns:
        The function that turns `before` into `after`, or None where nothing simple does.
    """
    shape = tuple(after.shape[1:])
    candidates: list[Glue] = []
    if before.numel() == after.numel():
        candidates = [_reshape, _first_axis_last, _last_axis_first]
    elif after.ndim == 2 and before.ndim > 2:
        candidates = [_mean_of_map, _mean_of_tokens, _first_token]
    for glue in candidates:
        result = glue(before, shape)
        # Means are summed in another order by another forward.
        if result.shape == after.shape and torch.allclose(result, after, rtol=1e-10, atol=1e-12):
            return glue
    return None
