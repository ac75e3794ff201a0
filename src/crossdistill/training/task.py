"""What a run is about: the one place where classification and detection part.

The loop and the run are given a task's data, models, batches and judge, and know no more of it.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from lightning.fabric import Fabric
from rich.console import Console
from torch import Tensor

from crossdistill.data import Batch
from crossdistill.distiller import Distiller
from crossdistill.options import TrainingOptions
from crossdistill.staged import Outputs, StagedModel
from crossdistill.training.run_folder import RunFolder


class TrainBatches(Protocol):
    """Training batches of this process.

    Attributes:
        steps_per_epoch: optimiser steps of an epoch.
    """

    steps_per_epoch: int

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The micro-batches of one epoch, in order, from an optimiser step on."""
        ...


class Judge(Protocol):
    """Judges models on the validation images of this process, and remembers what they say of them.

    Attributes:
        metric: name of the value that tells how good a teacher is, and with labels a student; more is better.
        teacher_value: that value of the teacher; None where there is no teacher that could be judged.
        teacher_logits: (N, K) what the teacher says of the images; None where it says no logits.
    """

    metric: str
    teacher_value: float | None
    teacher_logits: Tensor | None

    def ask_teacher(
        self, distiller: Distiller, options: TrainingOptions, console: Console, *, known: Tensor | None, check: bool
    ) -> None:
        """Ask the teacher about the images; with `check`, refuse one that cannot teach.

        Args:
            distiller: on its device, with a teacher.
            options: of the run.
            console: where warnings are printed.
            known: the teacher's logits, where they are known.
            check: False for a run that goes on, which has checked it before.
        """
        ...

    def evaluate(
        self,
        model: StagedModel,
        further: Callable[[Batch, StagedModel, Outputs], dict[str, Tensor]] | None = None,
        *,
        keep: bool = False,
    ) -> dict[str, float]:
        """The metric and further values; `keep` remembers what the model says, for `write_predictions`."""
        ...

    def complete(
        self, model: StagedModel, further: Callable[[Batch, StagedModel, Outputs], dict[str, Tensor]] | None = None
    ) -> None:
        """See to it that what the model says is known and, of all processes, together. All of them call it."""
        ...

    def write_predictions(self, folder: RunFolder, classes: list[str]) -> None:
        """Record what student and teacher say of each image; the first process does."""
        ...


class Task(Protocol):
    """A task: how its options become data, models, batches and a judge."""

    def check(self, options: TrainingOptions) -> None:
        """Refuse what no run of the task can have, before anything is loaded."""
        ...

    def open_data(self, options: TrainingOptions) -> Any:
        """The data set: an object with `name`, `classes`, `train`, `validation` and `skipped`."""
        ...

    def choose(self, data: Any, options: TrainingOptions) -> Any:
        """The part of a data set that a run trains on, and what it validates on."""
        ...

    def fingerprint(self, data: Any) -> str:
        """The content of a data set's images in one word."""
        ...

    def build_models(self, options: TrainingOptions, data: Any) -> tuple[StagedModel, StagedModel | None]:
        """The student, whose size is that of the batches, and the teacher where one is given."""
        ...

    def build_teacher(self, options: TrainingOptions, data: Any) -> StagedModel | None:
        """The teacher, where one is given."""
        ...

    def advise(self, options: TrainingOptions, data: Any, student: StagedModel, console: Console) -> None:
        """Say what a user should know of the data and the student before they are trained."""
        ...

    def make_loaders(self, options: TrainingOptions, data: Any, student: StagedModel, fabric: Fabric) -> Any:
        """Training and validation batches of this process, at the student's size."""
        ...

    def make_judge(
        self, options: TrainingOptions, data: Any, student: StagedModel, validation: Any, fabric: Fabric
    ) -> Judge:
        """Who judges the models of a run on its validation batches."""
        ...


def find_task(options: TrainingOptions) -> Task:
    """The task that the options name."""
    if options.task == "detection":
        from crossdistill.detection.task import Detection

        return Detection()
    from crossdistill.training.classification import Classification

    return Classification()
