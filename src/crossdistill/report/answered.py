"""The answers of the runs of a row, kept small: of many classes, the logits of a study would not fit into memory."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from crossdistill.report.judged import Bin, confusion, reliability
from crossdistill.training.run_folder import Predictions


@dataclass
class Answers:
    """What the students of a row said, by seed.

    Attributes:
        answers: (N,) class that was answered.
        confidences: (N,) its probability.
        confusion: (K, K) number of images by class and answer, all seeds together.
    """

    answers: dict[int, Tensor] = field(default_factory=dict)
    confidences: dict[int, Tensor] = field(default_factory=dict)
    confusion: Tensor | None = None

    def add(self, seed: int, predictions: Predictions) -> None:
        """Take what one run said."""
        confidence, answer = predictions.student.softmax(dim=1).max(dim=1)
        self.answers[seed], self.confidences[seed] = answer, confidence
        counts = confusion(answer, predictions.labels, len(predictions.classes))
        self.confusion = counts if self.confusion is None else self.confusion + counts

    def reliability(self, labels: Tensor) -> list[Bin]:
        """The bins of all seeds together."""
        right = torch.cat([answer == labels for answer in self.answers.values()])
        return reliability(torch.cat(list(self.confidences.values())), right)


@dataclass
class Judged:
    """The validation images, and what the teacher said of them.

    Attributes:
        labels: (N,) true classes.
        teacher: (N,) class that the teacher answered; None without one.
        images: N names.
        classes: K names.
    """

    labels: Tensor
    teacher: Tensor | None
    images: list[str]
    classes: list[str]

    @classmethod
    def of(cls, predictions: Predictions, known: "Judged | None" = None) -> "Judged":
        """From a run's predictions; what another run of the pair said already is kept, and completed."""
        teacher = predictions.teacher.argmax(dim=1) if predictions.teacher is not None else None
        if known is None:
            return cls(predictions.labels, teacher, predictions.images, predictions.classes)
        return known if known.teacher is not None else replace(known, teacher=teacher)

    def label(self, k: int) -> str:
        """Name of an image's class."""
        return self.classes[int(self.labels[k])]

    def teacher_line(self, k: int) -> list[str]:
        """What the teacher said of an image; nothing without one."""
        return [] if self.teacher is None else [f"teacher: {self.classes[int(self.teacher[k])]}"]


def mended(first: Answers, second: Answers, labels: Tensor, seeds: Iterable[int]) -> Tensor:
    """(N,) of how many seeds `first` answers an image wrong and `second` right."""
    return torch.stack([(first.answers[seed] != labels) & (second.answers[seed] == labels) for seed in seeds]).sum(
        dim=0
    )
