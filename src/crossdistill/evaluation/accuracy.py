"""Accuracy of a model on a data set."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from crossdistill.data import Batch, ImageData, ValidationData
from crossdistill.errors import UserError
from crossdistill.staged import Outputs, StagedModel
from crossdistill.staged.modes import eval_mode

# With fewer classes than this, being among the five best says little.
_CLASSES_FOR_TOP5 = 10
# What a run is judged by: the first of these that was measured. Without labels there is no accuracy.
HEADLINES = ("top1", "teacher_cosine", "agreement", "knn_top1")


def headline(evaluated: Mapping[str, float]) -> str | None:
    """The name of what judges a run, among the values of an evaluation; None where nothing does."""
    return next((name for name in HEADLINES if name in evaluated), None)


@torch.no_grad()
def evaluate(
    model: StagedModel,
    batches: Iterable[Batch],
    *,
    teacher_answers: Tensor | None = None,
    further: Callable[[Batch, StagedModel, Outputs], dict[str, Tensor]] | None = None,
    logits: Tensor | None = None,
    values: dict[str, Tensor] | None = None,
    labelled: bool = True,
) -> dict[str, float]:
    """Accuracy in percent. The model is put in eval mode and left in the mode it was in.

    In several processes each gives its share of the images, and all get the result over all of them.

    Args:
        model: on the device of the batches.
        batches: every image once.
        teacher_answers: (N,) the teacher's class per position in the data set, to measure agreement.
        further: a method's `validation_metrics`: (B,) values per image, averaged over the set, as fractions.
        logits: (N, K) float32, filled in at the positions of this process's images.
        values: is given what `further` says, (N,) float32 by name, filled in as `logits`, whose N it needs.
        labelled: whether the images have labels; without, there is no accuracy.

    Returns:
        `top1`, of labelled images; `top5` from 10 classes on; `agreement` with `teacher_answers`; the means of
        `further`; `images` and `seconds`.
    """
    device = next(model.parameters()).device
    classes = model.num_classes if labelled else 0
    # Checking every batch would make the host wait for the device.
    accuracy = partial(MulticlassAccuracy, classes, average="micro", validate_args=False)
    metrics: dict[str, MulticlassAccuracy | MeanMetric] = {"top1": accuracy().to(device)} if classes else {}
    if classes >= _CLASSES_FOR_TOP5:
        metrics["top5"] = accuracy(top_k=5).to(device)
    means: dict[str, MeanMetric] = {}
    images = torch.zeros((), dtype=torch.long, device=device)
    started = time.perf_counter()
    with eval_mode(model):
        for batch in batches:
            outputs = model(batch.images)
            said = outputs.logits
            if logits is not None and said is not None:
                logits[batch.indices] = said.float()
            images += len(batch.images)
            for metric in metrics.values():
                metric.update(said, batch.labels)
            found = further(batch, model, outputs) if further is not None else {}
            if values is not None and logits is not None:
                for name, value in found.items():
                    values.setdefault(name, logits.new_zeros(len(logits)))[batch.indices] = value.float()
            if teacher_answers is not None:
                found["agreement"] = said.argmax(dim=1) == teacher_answers[batch.indices]
            for name, value in found.items():
                means.setdefault(name, _mean(device)).update(value.float())
    result = {name: 100 * metric.compute().item() for name, metric in (metrics | means).items()}
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(images)
    return result | {"images": int(images), "seconds": time.perf_counter() - started}


@torch.no_grad()
def predict(model: StagedModel, batches: Iterable[Batch], logits: Tensor) -> None:
    """Write what a model says of images to their rows of a table.

    Args:
        model: in eval mode.
        batches: of this process.
        logits: (N, K) float32 of the whole set, filled in at the images' positions; K may be 0, of a model without a
            head.
    """
    for batch in batches:
        said = model(batch.images).logits
        if said is not None:
            logits[batch.indices] = said.float()


def check_classes(file: str, model: StagedModel, data: ImageData | ValidationData) -> None:
    """An accuracy means something only where output k and label k are the same class.

    Args:
        file: where the model is from, for messages.
        model: whose outputs they are.
        data: whose labels they are.

    Raises:
        UserError: their number differs, or a name where the model knows names.
    """
    if model.num_classes != len(data.classes):
        raise UserError(
            f"'{file}' tells {model.num_classes} classes apart, {data.name} has {len(data.classes)}: "
            "give --data with the classes that it was trained on"
        )
    known = model.card.classes or data.classes
    for index, (ours, theirs) in enumerate(zip(known, data.classes, strict=True)):
        if ours != theirs:
            raise UserError(
                f"class {index} is '{ours}' in '{file}' and '{theirs}' in {data.name}: "
                "give --data with the classes that it was trained on"
            )


def empty_logits(model: StagedModel, size: int) -> Tensor:
    """(size, K) float32 zeros on the model's device, for `predict` and `evaluate` to fill in."""
    return torch.zeros(size, model.num_classes, device=next(model.parameters()).device)


def _mean(device: torch.device) -> MeanMetric:
    return MeanMetric(nan_strategy="disable").to(device)
