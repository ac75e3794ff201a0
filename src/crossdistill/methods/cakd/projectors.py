"""The projectors of CAKD: from the student's map into the attention space and the token space of the teacher."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossdistill.staged.attention import Projections

# Side of the blocks of equation (5).
_BLOCK = 4


class ConvolutionProjector(nn.Module):
    """Proj1 of equation (1): a 3x3 convolution each for queries, keys and values, in the teacher's heads.

    Args:
        channels: of the student's map.
        heads: of the teacher's attention.
        head_size: of the teacher's attention.
    """

    def __init__(self, channels: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries, self.keys, self.values = (
            nn.Conv2d(channels, heads * head_size, kernel_size=3, padding=1) for _ in range(3)
        )

    def forward(self, feature: Tensor) -> Projections:
        """(B, C, H, W) -> projections (B, heads, H * W, head_size)."""
        parts = (self.queries(feature), self.keys(feature), self.values(feature))
        return Projections(*(part.flatten(2).unflatten(1, (self.heads, -1)).mT for part in parts))


class LinearProjector(nn.Module):
    """The released projector: queries, keys and values from one linear layer without bias, in heads of the student's.

    Args:
        channels: of the student's map.
        heads: a divisor of `channels`.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear = nn.Linear(channels, 3 * channels, bias=False)

    def forward(self, feature: Tensor) -> Projections:
        """(B, C, H, W) -> projections (B, heads, H * W, C / heads)."""
        parts = self.linear(feature.flatten(2).mT).chunk(3, dim=-1)
        return Projections(*(part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts))


class GroupWiseLinear(nn.Module):
    """Proj2 of equation (5): the positions of a 4x4 block share a linear layer; the last blocks may be cut short.

    Args:
        channels: of the student's map.
        width: of the teacher's tokens.
        size: (H, W) of the grid.
        dropout: rate, on the input.
    """

    def __init__(self, channels: int, width: int, size: tuple[int, int], dropout: float) -> None:
        super().__init__()
        self.size = size
        self.blocks = (math.ceil(size[0] / _BLOCK), math.ceil(size[1] / _BLOCK))
        groups = math.prod(self.blocks)
        self.dropout = nn.Dropout(dropout)
        # As nn.Linear begins.
        bound = channels**-0.5
        self.weight = nn.Parameter(torch.empty(groups, channels, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(groups, 1, width).uniform_(-bound, bound))

    def forward(self, feature: Tensor) -> Tensor:
        """(B, C, H, W) -> tokens (B, H * W, width)."""
        height, width = self.size
        rows, columns = self.blocks
        grid = F.pad(self.dropout(feature), (0, columns * _BLOCK - width, 0, rows * _BLOCK - height))
        blocks = grid.unflatten(3, (columns, _BLOCK)).unflatten(2, (rows, _BLOCK))  # (B, C, rows, 4, columns, 4)
        blocks = blocks.permute(2, 4, 0, 3, 5, 1).flatten(2, 4).flatten(0, 1)  # (groups, B * 16, C)
        blocks = blocks @ self.weight + self.bias
        grid = blocks.unflatten(1, (-1, _BLOCK, _BLOCK)).unflatten(0, self.blocks)  # (rows, columns, B, 4, 4, width)
        grid = grid.permute(2, 0, 3, 1, 4, 5).flatten(3, 4).flatten(1, 2)
        return grid[:, :height, :width].flatten(1, 2)
