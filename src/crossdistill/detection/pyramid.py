"""Feature pyramids over the stages of any backbone.

A backbone whose stages get coarser has the feature pyramid network of Lin et al. (CVPR 2017, arXiv 1612.03144). One of
a single resolution, as a ViT is, has the simple pyramid of Li et al.: Exploring Plain Vision Transformer Backbones for
Object Detection (ViTDet, ECCV 2022, arXiv 2203.16527), section 3: its last map alone, brought to four times, twice,
once and half its resolution. Class and register tokens have no place in a pyramid and are left out.
"""

from collections import OrderedDict

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from crossdistill.staged import Outputs, StagedModel
from crossdistill.staged.modes import eval_mode

# Of the simple pyramid, relative to the map that it is made of.
_SCALES = (4.0, 2.0, 1.0, 0.5)


class Pyramid(nn.Module):
    """A backbone and a pyramid on it: what torchvision's detectors take as their backbone.

    What a backbone computes behind its stages (a last norm, a classifier) has no part in a pyramid; such parameters are
    frozen, so that no optimiser moves them.

    Args:
        backbone: any model; the detector's images have its size.
        out_channels: C of all levels.
        first_stage: the first stage that is taken, counted from 0; a simple pyramid leaves out as many fine levels.
        extra: makes levels that are coarser than the last stage.

    Attributes:
        mixing: what mixes positions in the backbone.
        strides: pixels per position of each level, along the height.
        sizes: (H, W) of each level.
        names: of the levels, `p2` the first stage's, as in a ResNet.
    """

    def __init__(
        self, backbone: StagedModel, out_channels: int, *, first_stage: int = 0, extra: ExtraFPNBlock | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.out_channels = out_channels
        stages = backbone.stages
        self.first_stage = min(first_stage, len(stages) - 1)
        isotropic = len({stage.size for stage in stages}) == 1
        if isotropic:
            self.first_stage = len(stages) - 1
            self.neck: nn.Module = SimplePyramid(stages[-1].channels, out_channels, _SCALES[first_stage:], extra)
        else:
            channels = [stage.channels for stage in stages[self.first_stage :]]
            self.neck = FeaturePyramidNetwork(channels, out_channels, extra)
        self.mixing = tuple(sorted({kind for stage in stages for kind in stage.mixing} | {"convolution"}))
        _freeze_unused(backbone)
        with torch.no_grad(), eval_mode(self):
            levels = self(backbone.grey_image())
        self.sizes = [(level.shape[2], level.shape[3]) for level in levels.values()]
        self.names = list(levels)
        self.strides = [backbone.image_size[0] / height for height, _ in self.sizes]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) in [0, 1] -> (B, out_channels, H_k, W_k) by name, finest first."""
        return self._levels(self.backbone(images))

    def run(self, images: Tensor) -> Outputs:
        """The same as outputs: the levels as features; what is pooled, and the pooled vector, are the backbone's."""
        outputs = self.backbone(images)
        levels = list(self._levels(outputs).values())
        return Outputs(features=levels, prefix=[None] * len(levels), final=outputs.final, pooled=outputs.pooled)

    def _levels(self, outputs: Outputs) -> dict[str, Tensor]:
        features = outputs.features[self.first_stage :]
        return self.neck(OrderedDict((f"p{2 + self.first_stage + k}", feature) for k, feature in enumerate(features)))


class SimplePyramid(nn.Module):
    """Maps of several resolutions from one, as in ViTDet.

    Args:
        channels: C of the map.
        out_channels: C of the levels.
        scales: resolution of each level, relative to the map's: 4, 2, 1 or 0.5.
        extra: makes further, coarser levels.
    """

    def __init__(
        self, channels: int, out_channels: int, scales: tuple[float, ...], extra: ExtraFPNBlock | None = None
    ) -> None:
        super().__init__()
        self.names = [f"p{2 + _SCALES.index(scale)}" for scale in scales]
        self.levels = nn.ModuleList(_level(channels, out_channels, scale) for scale in scales)
        self.extra = extra

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The last of the given maps -> the levels by name."""
        feature = list(features.values())[-1]
        levels = [level(feature) for level in self.levels]
        names = list(self.names)
        if self.extra is not None:
            levels, names = self.extra(levels, [feature], names)
        return OrderedDict(zip(names, levels, strict=True))


def _level(channels: int, out_channels: int, scale: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    if scale == 4:
        # Widths below 4 would vanish; no backbone of use has them.
        layers += [nn.ConvTranspose2d(channels, channels // 2, 2, 2), LayerNorm2d(channels // 2), nn.GELU()]
        channels //= 2
    if scale >= 2:
        layers.append(nn.ConvTranspose2d(channels, channels // 2, 2, 2))
        channels //= 2
    if scale == 0.5:
        layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
    return nn.Sequential(
        *layers,
        nn.Conv2d(channels, out_channels, 1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    )


def _freeze_unused(backbone: StagedModel) -> None:
    """Freeze the parameters that no stage's end depends on."""
    with eval_mode(backbone), torch.enable_grad():
        ends = backbone(backbone.grey_image()).features
        parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(sum(end.sum() for end in ends), parameters, allow_unused=True)  # type: ignore[arg-type]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            parameter.requires_grad_(False)
