"""What the answers to the validation images say beyond their mean: confusions, calibration, images that changed."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from crossdistill.study.metrics import CALIBRATION_BINS


@dataclass(frozen=True)
class Bin:
    """Images whose confidence lies in one bin.

    Attributes:
        confidence: their mean confidence, in percent.
        accuracy: share of right answers among them, in percent.
        images: how many they are.
    """

    confidence: float
    accuracy: float
    images: int


def confusion(answers: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(K, K) number of images by class (rows) and answer (columns), from (N,) answers and (N,) labels."""
    return multiclass_confusion_matrix(answers, labels, num_classes=classes)


def reliability(confidence: Tensor, right: Tensor) -> list[Bin]:
    """The bins of the expected calibration error that are not empty.

    Args:
        confidence: (N,) probability of the answer.
        right: (N,) whether it is right.
    """
    edges = torch.linspace(0, 1, CALIBRATION_BINS + 1)
    number = torch.bucketize(confidence, edges[1:-1], right=True)
    bins = []
    for k in range(CALIBRATION_BINS):
        inside = number == k
        if images := int(inside.sum()):
            mean, accuracy = confidence[inside].mean().item(), right[inside].float().mean().item()
            bins.append(Bin(100 * mean, 100 * accuracy, images))
    return bins


def most_confused(matrix: Tensor, count: int) -> list[tuple[int, int, int]]:
    """The most frequent mistakes in a (K, K) confusion matrix: (class, answer, images)."""
    mistakes = matrix.clone().fill_diagonal_(0)
    values, places = mistakes.flatten().topk(min(count, mistakes.numel()))
    classes = len(matrix)
    pairs = zip(values.tolist(), places.tolist(), strict=True)
    return [(place // classes, place % classes, value) for value, place in pairs if value]


def first_of_each_class(chosen: Tensor, order: Tensor, labels: Tensor, count: int) -> list[int]:
    """Positions of up to `count` images of (N,) `chosen`: each class's first, then each class's second, and so on.

    Args:
        chosen: (N,) whether an image may be taken.
        order: (N,) the greatest of a class is its first.
        labels: (N,) classes.
        count: of images.
    """
    positions = chosen.nonzero().flatten()
    positions = positions[order[positions].argsort(descending=True, stable=True)]
    seen: Counter[int] = Counter()
    ranks = []
    for label in labels[positions].tolist():
        ranks.append(seen[label])
        seen[label] += 1
    return positions[torch.tensor(ranks, dtype=torch.long).argsort(stable=True)][:count].tolist()
