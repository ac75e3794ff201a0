"""FBT on tiny models."""

from typing import Any

import torch
from torch import Tensor

from crossdistill.methods.fbt.fbt import FBT
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import SIDE, TINY


def staged(kind: str, side: int | tuple[int, int] = SIDE, **kwargs: object) -> StagedModel:
    return StagedModel(TINY[kind](3, **kwargs), name=kind, image_size=side)


def make(teacher: str, student: str, training: bool = True, **hyperparameters: Any) -> FBT:
    torch.manual_seed(0)
    method = FBT(staged(student), staged(teacher), **hyperparameters)
    method.train(training)
    return method


def batch(size: int = 4, side: tuple[int, int] = (SIDE, SIDE)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(size, 3, *side, generator=generator), torch.arange(size) % 3
