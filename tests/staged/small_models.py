"""Small models of every kind of layout, head and mixing."""

from collections.abc import Callable
from functools import cache

import timm
import torch
from torch import Tensor, nn

from crossdistill.staged import StagedModel

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 6, "num_heads": 2}
PYRAMID = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (1, 1, 2, 1)}


def _mixer() -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(num_classes=5, img_size=32, patch_size=8, num_blocks=6, embed_dim=32)


def _levit() -> nn.Module:
    from timm.models.levit import LevitDistilled

    return LevitDistilled(
        img_size=64, num_classes=5, embed_dim=(32, 48, 64), key_dim=8, depth=(1, 1, 1), num_heads=(2, 2, 2)
    )


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: timm.create_model("test_resnet", num_classes=5),
    "convnext": lambda: timm.create_model("test_convnext", num_classes=5),
    "efficientnet": lambda: timm.create_model("test_efficientnet", num_classes=5),
    "mobilenetv3": lambda: timm.create_model("mobilenetv3_small_050", num_classes=5),
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", num_classes=5, **VIT),
    "vit_registers": lambda: timm.create_model("vit_tiny_patch16_224", num_classes=5, reg_tokens=4, **VIT),
    "vit_average": lambda: timm.create_model("vit_tiny_patch16_224", num_classes=5, global_pool="avg", **VIT),
    "deit_distilled": lambda: timm.create_model("deit_tiny_distilled_patch16_224", num_classes=5, **VIT),
    "swin": lambda: timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, num_heads=(1, 2, 2, 4), **PYRAMID),
    "eva": lambda: timm.create_model("eva02_tiny_patch14_224", num_classes=5, **(VIT | {"depth": 4})),
    "dinov3": lambda: timm.create_model("vit_small_patch16_dinov3", num_classes=5, **(VIT | {"depth": 4})),
    "mixer": _mixer,
    "levit": _levit,
}
CNNS = ("resnet", "convnext", "efficientnet", "mobilenetv3")
KINDS = tuple(BUILDERS)


def shake(model: nn.Module) -> nn.Module:
    """Perturb every parameter and running statistic: what starts at zero or one hides mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.rand(tensor.shape, generator=generator).to(tensor))
    return model


@cache
def built(kind: str) -> StagedModel:
    """A model of this kind in eval mode, with every weight perturbed; a test that changes it takes a deep copy."""
    torch.manual_seed(0)
    side = 64 if kind in CNNS or kind == "levit" else 32
    return StagedModel(shake(BUILDERS[kind]()), image_size=side).eval()


def images_for(model: StagedModel, count: int = 2) -> Tensor:
    return torch.rand(count, 3, *model.image_size, generator=torch.Generator().manual_seed(2))


def relative_error(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).detach().abs().max() / expected.detach().abs().max())
