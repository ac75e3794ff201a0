"""What a study will cost here: a few steps of each row, timed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from crossdistill.analysis.timing import seconds_per_step
from crossdistill.data import ImageData, TensorSource
from crossdistill.errors import UserError
from crossdistill.methods import build_distiller
from crossdistill.study.runs import plan
from crossdistill.study.study import Study
from crossdistill.training.ingredients import build_models, chosen_images, open_run_data
from crossdistill.training.optimization import total_steps
from crossdistill.training.run import check_options


@dataclass(frozen=True)
class Estimate:
    """The training time of one run of a row.

    Attributes:
        pair: name of the pair.
        row: name of the row.
        method: its method.
        steps: of a run.
        step_seconds: of one step.
        refusal: why it could not be measured; empty where it was.
    """

    pair: str
    row: str
    method: str
    steps: int = 0
    step_seconds: float = 0.0
    refusal: str = ""

    @property
    def seconds(self) -> float:
        return self.steps * self.step_seconds


def estimate(
    study: Study,
    *,
    data: ImageData | None = None,
    weights: bool = True,
    largest_batch: int | None = None,
    device: torch.device | None = None,
) -> Iterator[Estimate]:
    """The estimates of a study's rows, each measured when it is asked for, on noise of the batches' shape.

    What a row costs that waits for others (a student as teacher, `same-time`) is not measured.

    Args:
        study: the study.
        data: stands for the study's data set, which is not opened then.
        weights: load those of the models; without them a step takes as long.
        largest_batch: images of a timed step at most; the time of a larger batch is in proportion.
        device: where the steps are timed; default: the CPU.

    Raises:
        UserError: a mistake in the options, or the data cannot be read.
    """
    device = device or torch.device("cpu")
    for run in plan(replace(study, seeds=study.seeds[:1] or (0,)), Path()):
        options = run.options
        named = Estimate(run.pair, run.row.name, options.method.name)
        if run.teacher_row or run.row.control == "same-time":
            yield replace(named, refusal="as long as other rows: not measured")
            continue
        check_options(options)
        images = chosen_images(data, options) if data is not None else open_run_data(options.data, options)
        if not weights:
            options = replace(options, teacher_weights="none", student_weights="none", student_new_head=False)
        steps = total_steps(options, max(1, len(images.train) // options.batch_size))
        batch = min(options.batch_size, largest_batch or options.batch_size)
        try:
            student, teacher = build_models(options, images)
            models = student.to(device), teacher and teacher.to(device)
            distiller = build_distiller(options.method, *models, train_size=len(images.train))
        except UserError as error:
            yield replace(named, refusal=str(error))
            continue
        # What a method makes for itself, and a critic, which is no part of it.
        distiller.to(device)
        if distiller.critic is not None:
            distiller.critic.to(device)
        seconds = seconds_per_step(distiller, batch) * options.batch_size / batch
        yield replace(named, steps=steps, step_seconds=seconds)


def nominal_data(images: int, classes: int) -> ImageData:
    """A data set of so many images and classes that nobody looks at: what the length of a run depends on."""
    black = torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(images, -1, -1, -1)
    source = TensorSource(black, torch.arange(images) % classes)
    return ImageData("nominal", [str(k) for k in range(classes)], source, source)
