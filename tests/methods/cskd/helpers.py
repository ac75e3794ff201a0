"""CSKD on tiny models whose last maps have several positions."""

import torch
from torch import nn

from crossdistill.methods.cskd import CSKD
from crossdistill.models import lower_stem_stride
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import SIDE, TINY, tiny_cnn


def gentle_cnn(num_classes: int = 3) -> nn.Module:
    """A CNN whose last map still has 4x4 positions at 32 pixels."""
    model = tiny_cnn(num_classes)
    lower_stem_stride(model, 1)
    return model


def staged(kind: str, num_classes: int = 3, **kwargs: object) -> StagedModel:
    model = gentle_cnn(num_classes) if kind == "cnn" else TINY[kind](num_classes, **kwargs)
    return StagedModel(model, name=kind, image_size=kwargs.get("img_size", SIDE))


def pair(teacher: str = "cnn", student: str = "distilled", **hyperparameters: object) -> CSKD:
    torch.manual_seed(0)
    return CSKD(staged(student), staged(teacher), **hyperparameters)
