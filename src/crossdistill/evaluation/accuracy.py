"""Accuracy of a model on a data set."""

import time
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from crossdistill.data import Batch
from crossdistill.staged import StagedModel
from crossdistill.staged.modes import eval_mode

# With fewer classes than this, being among the five best says little.
_CLASSES_FOR_TOP5 = 10


@torch.no_grad()
def evaluate(
    model: StagedModel,
    batches: Iterable[Batch],
    *,
    teacher_answers: Tensor | None = None,
    further: Callable[[Tensor, Tensor], dict[str, Tensor]] | None = None,
) -> dict[str, float]:
    """Accuracy in percent. The model is put in eval mode and left in the mode it was in.

    In several processes each gives its share of the images, and all get the result over all of them.

    Args:
        model: on the device of the batches.
        batches: every image once.
        teacher_answers: (N,) the teacher's class per position in the data set, to measure agreement.
        further: a method's `validation_metrics`: (B,) values per image, averaged over the set, as fractions.

    Returns:
        `top1`; `top5` from 10 classes on; `agreement` with `teacher_answers`; the means of `further`; `images` and
        `seconds`.
    """
    device = next(model.parameters()).device
    classes = model.num_classes
    # Checking every batch would make the host wait for the device.
    accuracy = partial(MulticlassAccuracy, classes, average="micro", validate_args=False)
    metrics: dict[str, MulticlassAccuracy | MeanMetric] = {"top1": accuracy().to(device)}
    if classes >= _CLASSES_FOR_TOP5:
        metrics["top5"] = accuracy(top_k=5).to(device)
    means: dict[str, MeanMetric] = {}
    images = torch.zeros((), dtype=torch.long, device=device)
    started = time.perf_counter()
    with eval_mode(model):
        for batch in batches:
            logits = model(batch.images).logits
            images += len(logits)
            for metric in metrics.values():
                metric.update(logits, batch.labels)
            values = further(batch.images, batch.labels) if further is not None else {}
            if teacher_answers is not None:
                values["agreement"] = logits.argmax(dim=1) == teacher_answers[batch.indices]
            for name, value in values.items():
                means.setdefault(name, _mean(device)).update(value.float())
    result = {name: 100 * metric.compute().item() for name, metric in (metrics | means).items()}
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(images)
    return result | {"images": int(images), "seconds": time.perf_counter() - started}


@torch.no_grad()
def answers(model: StagedModel, batches: Iterable[Batch], size: int) -> tuple[Tensor, float]:
    """The class that a model gives each image of a set, and its accuracy in percent.

    Args:
        model: in eval mode.
        batches: this process's share of the images.
        size: N, images in the whole set.

    Returns:
        (N,) classes, -1 where another process has the image; top-1 accuracy over all processes.
    """
    device = next(model.parameters()).device
    given = torch.full((size,), -1, dtype=torch.long, device=device)
    right = _mean(device)
    for batch in batches:
        given[batch.indices] = model(batch.images).logits.argmax(dim=1)
        right.update((given[batch.indices] == batch.labels).float())
    return given, 100 * right.compute().item()


def _mean(device: torch.device) -> MeanMetric:
    return MeanMetric(nan_strategy="disable").to(device)
