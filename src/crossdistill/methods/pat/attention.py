"""Attention over the regions of all stages of a model."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossdistill.methods.pat.projectors import RegionProjector
from crossdistill.modules.initialization import initialise
from crossdistill.staged import Stage


def sinusoidal_code(length: int, width: int, like: Tensor) -> Tensor:
    """(length, width): sines at even and cosines at odd channels, wavelengths from 2 pi to 20000 pi."""
    # In float32 even where `like` is not: half precision cannot tell large positions apart.
    position = torch.arange(length, device=like.device, dtype=torch.float32).unsqueeze(1)
    exponent = torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width
    angles = position * torch.exp(-math.log(10000.0) * exponent)
    return torch.stack([torch.sin(angles), torch.cos(angles)], dim=2).flatten(1).to(like.dtype)


class RegionAttention(nn.Module):
    """Every stage as tokens of the same regions, and attention over the tokens of all stages together.

    Stages of different depth and resolution become comparable: side * side regions each, of one width. The attention
    has no output projection and no residual, so that a token is a mixture of what all stages saw.

    Args:
        stages: the stages, in the order of the features.
        side: regions along each axis of a stage's map.
        width: D of the tokens.
        heads: attention heads.
        attend: False leaves the tokens as projected (no attention parameters then).
        code: what the positional code counts: the tokens of all stages, or (as PAT was released) the images of the
            batch, which says nothing of positions and makes the answer for an image depend on its place in the batch.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        side: int,
        width: int,
        heads: int,
        *,
        attend: bool = True,
        code: Literal["tokens", "images"] = "tokens",
    ) -> None:
        super().__init__()
        self.heads = heads
        self.attend = attend
        self.code = code
        self.projectors = nn.ModuleList(RegionProjector(s.channels, s.size, side, width) for s in stages)
        self.projectors.apply(initialise)
        if attend:
            self.norm = nn.LayerNorm(width)
            self.to_query = nn.Linear(width, width)
            self.to_key_value = nn.Linear(width, 2 * width)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Per stage (B, C, H, W) -> per stage (B, side * side, D)."""
        regions = [project(feature) for project, feature in zip(self.projectors, features, strict=True)]
        if not self.attend:
            return regions
        tokens = self.norm(torch.cat(regions, dim=1))  # (B, stages * side * side, D)
        query = self.to_query(tokens)
        key, value = self.to_key_value(tokens).chunk(2, dim=2)
        code = self._code(query)
        query, key, value = (self._split_heads(x) for x in (query + code, key + code, value))
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return list(mixed.chunk(len(regions), dim=1))

    def _code(self, tokens: Tensor) -> Tensor:
        images, length, width = tokens.shape
        if self.code == "images":
            return sinusoidal_code(images, width, tokens).unsqueeze(1)
        return sinusoidal_code(length, width, tokens)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, D / heads)
