"""Maps of any shape that any program can make again: inputs of the values that other implementations gave."""

import math

import torch
from torch import Tensor


def wave(*shape: int, phase: float = 0.0, scale: float = 1.0) -> Tensor:
    """scale * sin(0.7 i + phase) of the element's number i, in float64."""
    return scale * torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 0.7 + phase).reshape(shape)
