"""PAT on tiny models."""

import torch
from torch import Tensor

from crossdistill.methods.pat.pat import PAT
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import SIDE, TINY


def make(teacher: str = "vit", student: str = "cnn", **hyperparameters: object) -> PAT:
    models = [StagedModel(TINY[kind](), name=kind, image_size=SIDE) for kind in (student, teacher)]
    return PAT(*models, **({"width": 32} | hyperparameters))  # type: ignore[arg-type]


def batch(size: int = 4) -> tuple[Tensor, Tensor]:
    return torch.rand(size, 3, SIDE, SIDE), torch.randint(3, (size,))


def awaken(method: PAT, scale: float = 0.5) -> None:
    """Prompts that do something, and batch norms that have seen something."""
    with torch.no_grad():
        for prompt in method.prompts.values():
            prompt.scale.fill_(scale)
