"""What a study found, as data: what `results.json` holds. All of it is computed from the run folders."""

import dataclasses
import json
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from crossdistill.errors import UserError
from crossdistill.files import written_whole

FILE = "results.json"


@dataclass
class Agreement:
    """Share of validation images, in percent, on which student and teacher answer alike; means over seeds.

    Attributes:
        all: of all images.
        teacher_right: of those that the teacher answers right; None where there are none.
        teacher_wrong: of the others.
    """

    all: float
    teacher_right: float | None
    teacher_wrong: float | None


@dataclass
class Difference:
    """A row beside a baseline, in points of the metric, over the seeds that both have.

    Attributes:
        baseline: name of the row that it is compared with.
        seeds: which both have.
        values: the difference of each.
        mean: of the differences.
        sd: their standard deviation; None with one seed.
        interval: 95 % interval of the mean, by Student's t over seeds; None with one seed.
        bootstrap: 95 % percentile interval over seeds and images together; with one seed over images alone.
        p: of the paired t test; None with one seed.
        p_holm: the same, by Holm's correction for all rows of the pair that are compared with this baseline.
        verdict: `gain`, `loss`, `level` (the interval covers 0), either with `, not after Holm`, or `one seed`.
        seeds_to_settle: seeds with which a difference of this mean and spread would be found with a power of 80 %;
            None with one seed, or where more than 1000 are needed.
        detectable: the least mean difference that these seeds find with a power of 80 %; None with one seed.
    """

    baseline: str
    seeds: list[int]
    values: list[float]
    mean: float
    sd: float | None
    interval: tuple[float, float] | None
    bootstrap: tuple[float, float]
    p: float | None
    p_holm: float | None
    verdict: str
    seeds_to_settle: int | None
    detectable: float | None


@dataclass
class Cost:
    """What a row costs; means over seeds.

    Attributes:
        seconds: of training, evaluations left out.
        step_seconds: of one optimiser step.
        step_to_kd: that as a multiple of KD's; None without a row of KD.
        extra_parameters: that are trained beside the student's own.
        peak_memory_bytes: of the device, or of the process on a CPU.
    """

    seconds: float
    step_seconds: float
    step_to_kd: float | None
    extra_parameters: int
    peak_memory_bytes: int


@dataclass
class RunResult:
    """One finished run.

    Attributes:
        seed: of the run.
        folder: within the study's.
        value: the metric.
        summary: what its `summary.json` holds.
    """

    seed: int
    folder: str
    value: float
    summary: dict[str, Any]


@dataclass
class RowResult:
    """One row of a pair.

    Attributes:
        name: of the row.
        method: its method.
        base: name of the row that it is a control or another budget of; its own for others.
        control: which control it is; "" for none.
        budget: factor on the steps.
        epochs: of its runs.
        runs: the finished ones, by seed.
        missing: seeds without a finished run.
        mean: of the metric over seeds; None without runs.
        sd: standard deviation over seeds; None with fewer than two.
        differences: to each baseline of the same budget.
        agreement: with the teacher; None without a teacher's answers.
        calibration_error: expected, in percent, mean over seeds; None without runs.
        class_changes: by class, points of top-1 over the scratch row, mean over seeds; empty for scratch itself.
        cost: None without runs.
        published: the metric as a publication has it, in percent; None where it says nothing.
        note: what one must know of it.
    """

    name: str
    method: str
    base: str
    control: str
    budget: float
    epochs: int
    runs: list[RunResult] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    mean: float | None = None
    sd: float | None = None
    differences: list[Difference] = field(default_factory=list)
    agreement: Agreement | None = None
    calibration_error: float | None = None
    class_changes: dict[str, float] = field(default_factory=dict)
    cost: Cost | None = None
    published: float | None = None
    note: str = ""

    def difference(self, baseline: str) -> Difference | None:
        """The difference to a baseline, of the row's own budget; None where there is none."""
        name = baseline if self.budget == 1 else f"{baseline}-x{self.budget:g}"
        return next((one for one in self.differences if one.baseline == name), None)


@dataclass
class PairResult:
    """One pair.

    Attributes:
        name: of the pair.
        teacher: the teacher's name; None without one.
        teacher_top1: in percent; None without a teacher's answers.
        student: the student's name.
        student_parameters: how many it has.
        data: what was trained on.
        train_images: how many.
        validation_images: how many were judged on.
        rows: in the order of the study.
        curves: of each row with several budgets, (factor on the steps, mean of the metric), by name.
    """

    name: str
    teacher: str | None
    teacher_top1: float | None
    student: str
    student_parameters: int
    data: str
    train_images: int
    validation_images: int
    rows: list[RowResult] = field(default_factory=list)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


@dataclass
class Results:
    """What a study found.

    Attributes:
        question: the study's.
        metric: by which it judges.
        metric_title: the metric as tables name it.
        seeds: the study's.
        pairs: those with finished runs.
        missing: names of the runs that are not finished.
        notes: what one must know of all of it.
    """

    question: str
    metric: str
    metric_title: str
    seeds: list[int]
    pairs: list[PairResult] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def save_results(results: Results, folder: Path) -> None:
    """Write `results.json` into a study's folder."""
    text = json.dumps(dataclasses.asdict(results), indent=2, allow_nan=False)
    with written_whole(folder / FILE) as beside:
        beside.write_text(text + "\n")


def load_results(folder: str | Path) -> Results:
    """What `results.json` of a study's folder holds.

    Raises:
        UserError: there is none, or it was changed.
    """
    file = Path(folder).expanduser() / FILE
    try:
        return _read(Results, json.loads(file.read_text()))
    except OSError as error:
        raise UserError(f"{folder} holds no results of a study: there is no {FILE} in it") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file} is damaged: compare again, which makes it anew from the runs") from error


def _read(annotation: Any, value: Any) -> Any:
    """A value of plain JSON as its type: dataclasses, and lists, tuples and dictionaries of them."""
    if dataclasses.is_dataclass(annotation):
        types_of = get_type_hints(annotation)
        return annotation(**{name: _read(types_of[name], one) for name, one in value.items()})  # type: ignore[operator]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return None if value is None else _read(next(one for one in inner if one is not type(None)), value)
    if origin is list:
        return [_read(inner[0], one) for one in value]
    if origin is dict:
        return {key: _read(inner[1], one) for key, one in value.items()}
    if origin is tuple:
        of_each = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(_read(one, item) for one, item in zip(of_each, value, strict=True))
    return value
