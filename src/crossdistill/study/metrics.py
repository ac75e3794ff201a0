"""What a study judges by, computed from what the models said of each validation image."""

from typing import Protocol

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from crossdistill.errors import UserError, nearest
from crossdistill.training.run_folder import Predictions

# Of equal width, of the expected calibration error.
CALIBRATION_BINS = 15
WITHOUT_LABELS = "give --metric teacher_cosine, or --metric knn_top1 with --probe_data"


class Metric(Protocol):
    """A number of which more is better, recomputed whenever images are drawn anew.

    Attributes:
        name: as a study names it.
        title: as a table does.
    """

    name: str
    title: str

    def evidence(self, predictions: Predictions) -> np.ndarray:
        """(N, ...) all that the metric needs of each image."""
        ...

    def value(self, evidence: np.ndarray) -> np.ndarray:
        """(M,) the metric of M runs from (N, M, ...), their evidence on the same N images."""
        ...


class TopK:
    """Share of images, in percent, whose label is among the k best answers."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.name = f"top{k}"
        self.title = f"top-{k} %"

    def evidence(self, predictions: Predictions) -> np.ndarray:
        if not predictions.labelled:
            raise UserError(f"metric {self.name}: the images have no labels: {WITHOUT_LABELS}")
        if self.k > len(predictions.classes):
            raise UserError(f"metric {self.name}: the data has {len(predictions.classes)} classes")
        best = predictions.student.topk(self.k, dim=1).indices
        return (best == predictions.labels[:, None]).any(dim=1).numpy()

    def value(self, evidence: np.ndarray) -> np.ndarray:
        return 100 * evidence.mean(axis=0)


class MeanOfValues:
    """Mean, in percent, of a value that the runs have of each image: what labels are not needed for.

    Args:
        name: of the value in `Predictions.values`.
        title: as a table has it.
        missing: what to do where a run has none.
    """

    def __init__(self, name: str, title: str, missing: str) -> None:
        self.name = name
        self.title = title
        self._missing = missing

    def evidence(self, predictions: Predictions) -> np.ndarray:
        if self.name not in predictions.values:
            raise UserError(f"metric {self.name}: a run has none: {self._missing}")
        return predictions.values[self.name].double().numpy()

    def value(self, evidence: np.ndarray) -> np.ndarray:
        return 100 * evidence.mean(axis=0)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        TopK(1),
        TopK(5),
        MeanOfValues("teacher_cosine", "cosine to the teacher %", "foundation measures it, other methods do not"),
        MeanOfValues("knn_top1", "top-1 of nearest neighbours %", "give the runs --probe_data"),
    )
}


def find_metric(name: str) -> Metric:
    """The metric of a name.

    Raises:
        UserError: there is none.
    """
    if name not in METRICS:
        raise UserError(f"unknown metric '{name}'{nearest(name, METRICS)}; there are {', '.join(METRICS)}")
    return METRICS[name]


def calibration_error(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Expected calibration error in percent: 15 bins of equal width, mean absolute gap."""
    error = multiclass_calibration_error(
        logits.softmax(dim=1), labels, logits.shape[1], n_bins=CALIBRATION_BINS, norm="l1"
    )
    return 100 * error.item()


def agreement(predictions: Predictions) -> tuple[float, float | None, float | None] | None:
    """Share of images in percent on which student and teacher answer alike: of all, where the teacher is right, wrong.

    None without a teacher's answers, or where the student has no head; a part is None where the teacher is never right,
    or never wrong, or nobody knows.
    """
    if predictions.teacher is None or predictions.teacher.shape != predictions.student.shape:
        return None
    teacher = predictions.teacher.argmax(dim=1)
    alike = (predictions.student.argmax(dim=1) == teacher).float()
    if not predictions.labelled:
        return _percent(alike) or 0.0, None, None
    right = teacher == predictions.labels
    return _percent(alike) or 0.0, _percent(alike[right]), _percent(alike[~right])


def accuracy_of_classes(predictions: Predictions) -> np.ndarray:
    """(K,) top-1 in percent of each class; NaN for a class without an image."""
    right = (predictions.student.argmax(dim=1) == predictions.labels).double()
    classes = len(predictions.classes)
    sums = torch.zeros(classes, dtype=torch.double).index_add_(0, predictions.labels, right)
    return (100 * sums / predictions.labels.bincount(minlength=classes)).numpy()


def _percent(values: torch.Tensor) -> float | None:
    return 100 * values.mean().item() if len(values) else None
