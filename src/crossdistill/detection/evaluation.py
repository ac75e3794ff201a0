"""Average precision, as COCO defines it, over the validation images."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from crossdistill.data import Batch
from crossdistill.detection.boxes import Detections, to_image
from crossdistill.detection.detector import StagedDetector
from crossdistill.detection.sources import SceneSource
from crossdistill.errors import UserError
from crossdistill.staged import Outputs
from crossdistill.staged.modes import eval_mode

# Names of torchmetrics -> ours: the mean over IoU thresholds 0.5 to 0.95, at 0.5 and 0.75, of objects below 32 x 32
# pixels, below 96 x 96, and larger, and the mean recall of 100 boxes an image.
_VALUES = {
    "map": "ap",
    "map_50": "ap50",
    "map_75": "ap75",
    "map_small": "ap_small",
    "map_medium": "ap_medium",
    "map_large": "ap_large",
    "mar_100": "ar",
}


@torch.no_grad()
def evaluate_boxes(
    model: StagedDetector,
    batches: Iterable[Batch],
    source: SceneSource,
    *,
    further: Callable[[Batch, Any, Outputs], dict[str, Tensor]] | None = None,
    found: dict[int, Detections] | None = None,
) -> dict[str, float]:
    """Average precision in percent. The model is put in eval mode and left in the mode it was in.

    Boxes are compared in the pixels of the images themselves, so that small and large mean what they do in COCO. In
    several processes each gives its share of the images, and all get the result over all of them.

    Args:
        model: on the device of the batches.
        batches: every image once.
        source: the images, for their own sizes and boxes.
        further: a method's `validation_metrics`: (B,) values per image, averaged over the set, as fractions.
        found: filled in with the boxes of each image by its position, in its own pixels, on the CPU.

    Returns:
        `ap`, `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large` where the set has objects of the size, `ar`,
        `ap/<class>` of each class with objects, the means of `further`, `images` and `seconds`.
    """
    metric = average_precision()
    means: dict[str, MeanMetric] = {}
    device = next(model.parameters()).device
    count = torch.zeros((), dtype=torch.long, device=device)
    started = time.perf_counter()
    with eval_mode(model):
        for batch in batches:
            outputs = model(batch.images)
            detected, truth = [], []
            for index, boxes in zip(batch.indices.tolist(), model.detect(outputs), strict=True):
                annotation = source.annotations[index]
                own = {name: part.float().cpu() if name != "labels" else part.cpu() for name, part in boxes.items()}
                own["boxes"] = to_image(own["boxes"], annotation.size, model.image_size)
                detected.append(own)
                truth.append(
                    {"boxes": annotation.boxes, "labels": annotation.labels, "iscrowd": annotation.crowd.long()}
                )
                if found is not None:
                    found[index] = own
            metric.update(detected, truth)
            count += len(detected)
            for name, value in (further(batch, model, outputs) if further is not None else {}).items():
                if name not in means:
                    means[name] = MeanMetric(nan_strategy="disable").to(device)
                means[name].update(value.float())
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
    result = _named(metric.compute(), model.classes) | {
        name: 100 * mean.compute().item() for name, mean in means.items()
    }
    return result | {"images": int(count), "seconds": time.perf_counter() - started}


def average_precision() -> Any:
    """torchmetrics' average precision, by faster-coco-eval.

    Raises:
        UserError: faster-coco-eval is not installed.
    """
    from torchmetrics.detection import MeanAveragePrecision

    try:
        return MeanAveragePrecision(backend="faster_coco_eval", class_metrics=True)
    except ModuleNotFoundError as error:
        raise UserError(
            "average precision is computed by faster-coco-eval, which is not installed: pip install "
            "'crossdistill[detection]'"
        ) from error


def _named(computed: dict[str, Tensor], classes: list[str]) -> dict[str, float]:
    # Of what there are no objects torchmetrics says -1.
    values = {ours: computed[theirs].item() for theirs, ours in _VALUES.items()}
    seen, of_classes = computed["classes"].reshape(-1).tolist(), computed["map_per_class"].reshape(-1).tolist()
    values |= {f"ap/{classes[label]}": value for label, value in zip(seen, of_classes, strict=True)}
    return {name: 100 * max(value, 0.0) for name, value in values.items() if value >= 0 or name == "ap"}
