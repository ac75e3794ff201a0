"""What all tests share: tiny models of every kind, and a tiny folder of real image files."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

CLASSES = ["blue", "green", "red"]
SIDE = 32


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder that can be learnt: 3 classes of tinted noise, 20 training and 8 validation images of each."""
    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 20), ("val", 8)):
        for channel, name in enumerate(reversed(CLASSES)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(0, 160, (SIDE, SIDE, 3), generator=generator, dtype=torch.uint8)
                pixels[..., channel] += 90
                Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    return root


def tiny_cnn(num_classes: int = 3, **kwargs: object) -> nn.Module:
    import timm

    return timm.create_model("test_resnet", num_classes=num_classes, **kwargs)


def tiny_vit(num_classes: int = 3, **kwargs: object) -> nn.Module:
    import timm

    shape = {"img_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": 6, "num_heads": 2} | kwargs
    return timm.create_model("vit_tiny_patch16_224", num_classes=num_classes, **shape)


def tiny_distilled_vit(num_classes: int = 3, **kwargs: object) -> nn.Module:
    import timm

    shape = {"img_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": 6, "num_heads": 2} | kwargs
    return timm.create_model("deit_tiny_distilled_patch16_224", num_classes=num_classes, **shape)


def tiny_mlp(num_classes: int = 3, **kwargs: object) -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    shape = {"img_size": SIDE, "patch_size": 8, "embed_dim": 32, "num_blocks": 6, "nlhb": False} | kwargs
    model = MlpMixer(num_classes=num_classes, **shape)
    # Mixers start with a head of zeros, whose gradient says nothing about the rest.
    nn.init.normal_(model.head.weight, std=0.1)
    return model


def tiny_swin(num_classes: int = 3, **kwargs: object) -> nn.Module:
    import timm

    shape = {
        "img_size": SIDE,
        "patch_size": 2,
        "window_size": 4,
        "embed_dim": 16,
        "depths": (1, 1, 2, 1),
        "num_heads": (1, 1, 2, 2),
    } | kwargs
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=num_classes, **shape)


# One of each kind of architecture that methods must handle.
TINY: dict[str, Callable[..., nn.Module]] = {
    "cnn": tiny_cnn,
    "vit": tiny_vit,
    "distilled": tiny_distilled_vit,
    "mlp": tiny_mlp,
    "swin": tiny_swin,
}
