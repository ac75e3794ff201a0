"""What a study will cost here: a few steps of each row, timed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from crossdistill.analysis.timing import seconds_per_step
from crossdistill.errors import UserError
from crossdistill.methods import build_distiller
from crossdistill.study.runs import plan
from crossdistill.study.study import Study
from crossdistill.training.run import check_options
from crossdistill.training.task import find_task


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


def estimate(study: Study) -> Iterator[Estimate]:
    """The estimates of a study's rows, each measured when it is asked for, on noise of the batches' shape.

    What a row costs that waits for others (a student as teacher, `same-time`) is not measured.

    Raises:
        UserError: a mistake in the options, or the data cannot be read.
    """
    for run in plan(replace(study, seeds=study.seeds[:1] or (0,)), Path()):
        options = run.options
        named = Estimate(run.pair, run.row.name, options.method.name)
        if run.teacher_row or run.row.control == "same-time":
            yield replace(named, refusal="as long as other rows: not measured")
            continue
        check_options(options)
        task = find_task(options)
        data = task.open_data(options)
        steps = options.epochs * max(1, len(data.train) // options.batch_size)
        steps = min(steps, options.max_steps) if options.max_steps else steps
        try:
            student, teacher = task.build_models(options, data)
            distiller = build_distiller(options.method, student, teacher, train_size=len(data.train))
        except UserError as error:
            yield replace(named, refusal=str(error))
            continue
        yield replace(named, steps=steps, step_seconds=seconds_per_step(distiller, options.batch_size))
