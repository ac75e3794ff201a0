"""Tiny models of every kind of architecture that methods must handle."""

from collections.abc import Callable

from torch import nn

SIDE = 32


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


def tiny_hybrid(num_classes: int = 3, **kwargs: object) -> nn.Module:
    """Convolutions in every stage, attention in all but the first."""
    import timm

    return timm.create_model("mobilevit_xxs", num_classes=num_classes, **kwargs)


# One of each kind of architecture that methods must handle.
TINY: dict[str, Callable[..., nn.Module]] = {
    "cnn": tiny_cnn,
    "vit": tiny_vit,
    "distilled": tiny_distilled_vit,
    "mlp": tiny_mlp,
    "swin": tiny_swin,
    "hybrid": tiny_hybrid,
}
