"""Tiny detectors of two classes."""

import torch

from crossdistill.detection import StagedDetector, build_detector
from crossdistill.options import ModelOptions

CLASSES = ["blue", "red"]
VIT = {"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}


def tiny_detector(kind: str, head: str = "fcos", channels: int = 16) -> StagedDetector:
    """A detector of two classes at 64 pixels on a CNN or a ViT, with the same weights in every call."""
    options = ModelOptions("test_resnet") if kind == "cnn" else ModelOptions("vit_tiny_patch16_224", dict(VIT))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_detector(
            options, weights="none", classes=CLASSES, head=head, pyramid_channels=channels, image_size=(64, 64)
        )
