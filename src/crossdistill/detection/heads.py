"""torchvision's detectors on a feature pyramid: one function for each kind, of one form."""

import math
from collections.abc import Callable
from functools import partial

from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.poolers import initLevelMapper

from crossdistill.detection.pyramid import Pyramid
from crossdistill.staged import StagedModel

# Of a box, in pixels of the stride of its level: 32 at stride 4 and 8, as in torchvision's own detectors.
_ANCHORS_OF_FASTER_RCNN = 8
_ANCHORS_OF_RETINANET = 4
_RATIOS = (0.5, 1.0, 2.0)
# Side of the pooled boxes, and width of the two layers behind them: 1024 for 256 channels.
_POOLED = 7
_WIDTH_OF_BOXES = 4
_CHANNELS_OF_GROUP = 8
# A box of this side is pooled from the level whose stride is two to this power (arXiv 1612.03144, equation 1).
_CANONICAL_SIDE, _CANONICAL_LEVEL = 224, 4


def faster_rcnn(backbone: StagedModel, num_classes: int, channels: int) -> nn.Module:
    """Faster R-CNN on p2 to p6: all four stages, and the last level once more at half its resolution.

    Args:
        backbone: any model.
        num_classes: K, without the background.
        channels: of the pyramid.
    """
    pyramid = Pyramid(backbone, channels, extra=LastLevelMaxPool())
    pooled = pyramid.names[:-1]
    align = MultiScaleRoIAlign(pooled, output_size=_POOLED, sampling_ratio=2)
    # torchvision takes every stride for the nearest power of two, which that of a patch of 14 is not.
    align.scales = [1 / stride for stride in pyramid.strides[: len(pooled)]]
    finest = round(math.log2(pyramid.strides[0]))
    align.map_levels = initLevelMapper(finest, finest + len(pooled) - 1, _CANONICAL_SIDE, _CANONICAL_LEVEL)
    width = _WIDTH_OF_BOXES * channels
    return FasterRCNN(
        pyramid,
        rpn_anchor_generator=_anchors(pyramid, [_ANCHORS_OF_FASTER_RCNN], _RATIOS),
        box_roi_pool=align,
        box_head=TwoMLPHead(channels * _POOLED**2, width),
        # The background is a class of its own, the first.
        box_predictor=FastRCNNPredictor(width, 1 + num_classes),
    )


def retinanet(backbone: StagedModel, num_classes: int, channels: int) -> nn.Module:
    """RetinaNet on p3 to p7; arguments as of `faster_rcnn`."""
    pyramid = _from_third(backbone, channels)
    sizes = [_ANCHORS_OF_RETINANET * 2 ** (third / 3) for third in range(3)]
    return RetinaNet(pyramid, num_classes, anchor_generator=_anchors(pyramid, sizes, _RATIOS))


def fcos(backbone: StagedModel, num_classes: int, channels: int) -> nn.Module:
    """FCOS on p3 to p7; arguments as of `faster_rcnn`."""
    pyramid = _from_third(backbone, channels)
    head = FCOSHead(channels, 1, num_classes, num_convs=0)
    # torchvision's 32 groups are made for 256 channels; of few channels each would be normalised by itself, and a level
    # of one position would say nothing.
    norm = partial(nn.GroupNorm, channels // _CHANNELS_OF_GROUP if channels % _CHANNELS_OF_GROUP == 0 else 1)
    head.classification_head = FCOSClassificationHead(channels, 1, num_classes, norm_layer=norm)
    head.regression_head = FCOSRegressionHead(channels, 1, norm_layer=norm)
    return FCOS(pyramid, num_classes, anchor_generator=_anchors(pyramid, [1], (1.0,)), head=head)


# By the name that `--detector` takes.
HEADS: dict[str, Callable[[StagedModel, int, int], nn.Module]] = {
    "faster_rcnn": faster_rcnn,
    "retinanet": retinanet,
    "fcos": fcos,
}


def _from_third(backbone: StagedModel, channels: int) -> Pyramid:
    return Pyramid(backbone, channels, first_stage=1, extra=LastLevelP6P7(channels, channels))


def _anchors(pyramid: Pyramid, sizes: list[float], ratios: tuple[float, ...]) -> AnchorGenerator:
    """Anchors of each level in proportion to its stride."""
    of_levels = tuple(tuple(round(size * stride) for size in sizes) for stride in pyramid.strides)
    return AnchorGenerator(of_levels, (ratios,) * len(of_levels))
