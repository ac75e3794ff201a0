"""Tiny models of every kind of architecture that methods must handle; one trains on a CPU core in milliseconds."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.models.mlp_mixer import MlpMixer
from torch import nn

from crossdistill.staged import ModelCard, StagedModel

SIDE = 32
CLASSES = 3

Size = int | tuple[int, int]


# A CNN takes images of any size; it is told the size all the same, so that all builders are called alike.
def tiny_cnn(num_classes: int = CLASSES, img_size: Size = SIDE, **kwargs: Any) -> nn.Module:
    return timm.create_model("test_resnet", num_classes=num_classes, **kwargs)


def tiny_vit(num_classes: int = CLASSES, img_size: Size = SIDE, **kwargs: Any) -> nn.Module:
    shape: dict[str, Any] = {"patch_size": 8, "embed_dim": 32, "depth": 6, "num_heads": 2} | kwargs
    return timm.create_model("vit_tiny_patch16_224", num_classes=num_classes, img_size=img_size, **shape)


def tiny_distilled_vit(num_classes: int = CLASSES, img_size: Size = SIDE, **kwargs: Any) -> nn.Module:
    shape: dict[str, Any] = {"patch_size": 8, "embed_dim": 32, "depth": 6, "num_heads": 2} | kwargs
    return timm.create_model("deit_tiny_distilled_patch16_224", num_classes=num_classes, img_size=img_size, **shape)


def tiny_mlp(num_classes: int = CLASSES, img_size: Size = SIDE, **kwargs: Any) -> nn.Module:
    shape: dict[str, Any] = {"patch_size": 8, "embed_dim": 32, "num_blocks": 6, "nlhb": False} | kwargs
    model: Any = MlpMixer(num_classes=num_classes, **{"img_size": img_size, **shape})
    # Mixers start with a head of zeros, whose gradient says nothing about the rest.
    nn.init.normal_(model.head.weight, std=0.1)
    return model


def tiny_swin(num_classes: int = CLASSES, img_size: Size = SIDE, **kwargs: Any) -> nn.Module:
    shape: dict[str, Any] = {
        "patch_size": 2,
        "window_size": 4,
        "embed_dim": 16,
        "depths": (1, 1, 2, 1),
        "num_heads": (1, 1, 2, 2),
    } | kwargs
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=num_classes, img_size=img_size, **shape)


def tiny_hybrid(num_classes: int = CLASSES, img_size: Size = SIDE, **kwargs: Any) -> nn.Module:
    """Convolutions in every stage, attention in all but the first."""
    return timm.create_model("mobilevit_xxs", num_classes=num_classes, **kwargs)


Builder = Callable[..., nn.Module]

# One of each kind of architecture that methods must handle.
TINY: dict[str, Builder] = {
    "cnn": tiny_cnn,
    "vit": tiny_vit,
    "distilled": tiny_distilled_vit,
    "mlp": tiny_mlp,
    "swin": tiny_swin,
    "hybrid": tiny_hybrid,
}


def staged(name: str, builder: Builder, img_size: Size = SIDE) -> StagedModel:
    """A model as a `StagedModel`, with the same weights in every call.

    Args:
        name: the model's name in messages.
        builder: called as those of `TINY`, with `img_size`.
        img_size: side in pixels, or (height, width).
    """
    return copy.deepcopy(_built(name, builder, img_size))


# Building takes longer than copying, for the probe of the stages.
@functools.cache
def _built(name: str, builder: Builder, img_size: Size) -> StagedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = StagedModel(builder(img_size=img_size), name=name, image_size=img_size)
    model.card = ModelCard(name, num_classes=model.num_classes, image_size=model.image_size)
    return model
