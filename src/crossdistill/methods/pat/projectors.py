"""Learnt maps from one model's features to the shape of another's."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from crossdistill.modules.alignment import shrink


def grow(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeat positions (nearest neighbour) on each axis of (B, C, H, W) that is shorter than in `size`."""
    height, width = feature.shape[2:]
    target = (max(height, size[0]), max(width, size[1]))
    return feature if target == (height, width) else F.interpolate(feature, target, mode="nearest")


class RegionProjector(nn.Module):
    """A map of any size -> one token per region of a square grid of regions.

    Args:
        channels: C of the map.
        size: (H, W) of the map.
        side: regions along each axis.
        width: D of the tokens.
    """

    def __init__(self, channels: int, size: tuple[int, int], side: int, width: int) -> None:
        super().__init__()
        patch = (math.ceil(size[0] / side), math.ceil(size[1] / side))
        self.size = (side * patch[0], side * patch[1])
        self.regions = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, feature: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, side * side, D)."""
        return self.regions(grow(feature, self.size)).flatten(2).transpose(1, 2)


class TokensToMap(nn.Module):
    """Tokens of a square grid -> a map: resized, normalised, mixed over channels. Every position keeps its place.

    Args:
        channels: D of the tokens.
        outputs: C of the map.
        size: (H, W) of the map.
    """

    def __init__(self, channels: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.to_map = MapToMap(channels, outputs, size)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, side * side, D) -> (B, C, H, W)."""
        side = math.isqrt(tokens.shape[1])
        return self.to_map(tokens.transpose(1, 2).unflatten(2, (side, side)))


class MapToMap(nn.Module):
    """A map -> a map of another size and width, position by position.

    Args:
        channels: C of the map.
        outputs: C of the result.
        size: (H, W) of the result.
    """

    def __init__(self, channels: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.norm = nn.BatchNorm2d(channels)
        self.projection = nn.Conv2d(channels, outputs, kernel_size=1, bias=False)

    def forward(self, feature: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, *size)."""
        # Averaging comes last: no position goes unseen, and one image with a 1x1 result still has batch statistics.
        return shrink(self.projection(self.norm(grow(feature, self.size))), self.size)


class TokensToTokens(nn.Module):
    """Tokens -> another number of tokens of another width, every token from all of them; returned as a map.

    Args:
        tokens: number of tokens.
        channels: D of the tokens.
        outputs: C of the map.
        size: (H, W) of the map.
    """

    def __init__(self, tokens: int, channels: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.token_norm = nn.BatchNorm1d(tokens)
        self.over_channels = nn.Linear(channels, outputs)
        self.channel_norm = nn.BatchNorm1d(outputs)
        self.over_tokens = nn.Linear(tokens, size[0] * size[1])

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, C, H, W)."""
        channels = self.over_channels(self.token_norm(tokens)).transpose(1, 2)  # (B, C, N)
        return self.over_tokens(self.channel_norm(channels)).unflatten(2, self.size)
