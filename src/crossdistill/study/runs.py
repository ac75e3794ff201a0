"""The runs of a study: their options with every word of a study resolved, and what is there of them already."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from crossdistill.data import ImageData, fingerprint
from crossdistill.errors import UserError
from crossdistill.models import read_weights, weights_fingerprint
from crossdistill.options import ModelOptions, TrainingOptions
from crossdistill.study.files import asset
from crossdistill.study.layers import first_difference
from crossdistill.study.search_space import with_values
from crossdistill.study.study import Row, Study
from crossdistill.training.ingredients import build_teacher, open_run_data
from crossdistill.training.run_folder import RunFolder, load_recipe

_RANDOM = "random"
_OF_ROW = "row:"


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        pair: name of its pair.
        row: its row.
        seed: its seed.
        options: with its folder.
        teacher_row: the row whose student of the same seed is its teacher; "" for none.
        random_teacher: whether its teacher has random weights, drawn by its seed.
    """

    pair: str
    row: Row
    seed: int
    options: TrainingOptions
    teacher_row: str = ""
    random_teacher: bool = False

    @property
    def name(self) -> str:
        return f"{self.pair}/{self.row.name}/{self.seed}"

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.options.output)


class Found(Protocol):
    """What was chosen or measured for a study's runs; a `Record` has it.

    Attributes:
        same_time: of each pair whose length is known, the steps of its control of that name.
        tuned: of each `PAIR/ROW` whose hyper-parameters were chosen, the `values`; controls and other budgets of a row
            have its own.
        memory_orders: of each student that was measured, by `student_of`, what "auto" stands for.
    """

    same_time: dict[str, dict[str, Any]]
    tuned: dict[str, dict[str, Any]]
    memory_orders: dict[str, str]


def student_of(pair: str, options: TrainingOptions) -> str:
    """The name of a pair's student, for what is measured once for all its runs."""
    return f"{pair}/{options.student.name or options.student_weights}"


def plan(study: Study, output: Path, found: Found | None = None) -> list[Run]:
    """All runs of a study: the first seed of everything first.

    Args:
        study: the study.
        output: its folder.
        found: what was chosen or measured for it.

    Raises:
        UserError: options or a teacher that no run can have, or two runs in one folder.
    """
    runs, folders = [], set()
    for seed in study.seeds:
        for pair in study.pairs:
            for row in study.rows_of(pair):
                folder = output / study.folder(pair, row.name, seed)
                if folder in folders:
                    raise UserError(f"folders: {study.folders} gives two runs the same folder, {folder}")
                folders.add(folder)
                run = single_run(study, pair, row, seed, output)
                options = run.options if found is None else _with_found(run, found)
                runs.append(replace(run, options=options))
    return runs


def _with_found(run: Run, found: Found) -> TrainingOptions:
    options, row = run.options, run.row
    order = found.memory_orders.get(student_of(run.pair, options))
    if options.channels_last == "auto" and order is not None:
        options = replace(options, channels_last="true" if order == "true" else "false")
    if chosen := found.tuned.get(f"{run.pair}/{row.base or row.name}"):
        options = with_values(options, chosen["values"])
    if row.control == "same-time" and run.pair in found.same_time:
        length = found.same_time[run.pair]
        options = with_length(options, length["epochs"], length["max_steps"])
    return options


def single_run(study: Study, pair: str, row: Row, seed: int, output: Path) -> Run:
    """One run as the study says it, before anything is chosen or measured.

    Raises:
        UserError: options or a teacher that no run can have.
    """
    options = study.options(pair, row, seed)
    options.output = str(output / study.folder(pair, row.name, seed))
    return _resolved(study, Run(pair, row, seed, options), output)


def with_length(options: TrainingOptions, epochs: int, max_steps: int | None) -> TrainingOptions:
    """The same run for another number of epochs, still judged at the end."""
    at_end = options.evaluate_every == options.epochs
    evaluate_every = epochs if at_end else options.evaluate_every
    return replace(options, epochs=epochs, max_steps=max_steps, evaluate_every=evaluate_every)


def _resolved(study: Study, run: Run, output: Path) -> Run:
    """A run whose teacher is a file, timm's or none: what a study says of it in words of its own is written out."""
    options = run.options
    weights = options.teacher_weights
    if weights.startswith(_OF_ROW):
        row = weights.removeprefix(_OF_ROW)
        if row not in {one.name for one in study.rows_of(run.pair)} - {run.row.name}:
            raise UserError(f"{run.name}: teacher_weights: {run.pair} has no other row '{row}'")
        # The file says what model it is; what was said of the pair's own teacher is not true of it.
        options = replace(
            options,
            teacher=ModelOptions(),
            teacher_weights=str(output / study.folder(run.pair, row, run.seed) / "student.safetensors"),
            teacher_stages=None,
            teacher_image_size=None,
            teacher_classes=None,
        )
        return replace(run, options=options, teacher_row=row)
    if weights == _RANDOM:
        return replace(run, options=_random_teacher(study, run), random_teacher=True)
    return replace(run, options=replace(options, teacher_weights=asset(weights)))


def _random_teacher(study: Study, run: Run) -> TrainingOptions:
    """The pair's teacher without its weights."""
    options = replace(run.options, teacher_weights="none")
    if options.teacher.name:
        return options
    pair = study.recipe | study.pairs[run.pair].changes
    file = asset(str(pair.get("teacher_weights", "none")))
    if not Path(file).expanduser().is_file():
        raise UserError(f"{run.name}: a random teacher needs --teacher, or --teacher_weights with a file that names it")
    _, card = read_weights(file)
    if card is None or card.needs_module:
        raise UserError(f"{run.name}: '{file}' does not say which model it holds: name it with --teacher")
    if card.stem_stride is not None:
        raise UserError(f"{run.name}: the stem of '{file}' was lowered, which a teacher without a file cannot be")
    size = options.teacher_image_size or list(card.image_size)
    return replace(options, teacher=ModelOptions(card.name, dict(card.kwargs)), teacher_image_size=size)


class Inputs:
    """What runs are made from, by content: the images and the teacher. Each is read once."""

    def __init__(self) -> None:
        self._data: dict[str, tuple[ImageData, str]] = {}
        self._teachers: dict[str, str | None] = {}

    def of(self, run: Run) -> dict[str, str | None]:
        """`data` and `teacher` as `summary.json` has them; None for a teacher that a run draws or is not there yet.

        Raises:
            UserError: the data or the teacher cannot be read.
        """
        options = run.options
        images, data, name = self._images(options)
        if run.random_teacher or (run.teacher_row and not Path(options.teacher_weights).exists()):
            return {"data": name, "teacher": None}
        said = (options.teacher, options.teacher_weights, options.teacher_classes, options.teacher_image_size)
        key = str((*said, options.teacher_stages, images))
        if key not in self._teachers:
            teacher = build_teacher(options, data)
            self._teachers[key] = weights_fingerprint(teacher) if teacher is not None else None
        return {"data": name, "teacher": self._teachers[key]}

    def data(self, options: TrainingOptions) -> ImageData:
        """The images of a run.

        Raises:
            UserError: they cannot be read.
        """
        return self._images(options)[1]

    def _images(self, options: TrainingOptions) -> tuple[str, ImageData, str]:
        """What says which images they are, the images, and their fingerprints."""
        images = str((options.data, options.images_per_class, options.held_out, options.on_bad_image))
        if images not in self._data:
            data = open_run_data(options.data, options)
            self._data[images] = data, f"{fingerprint(data.train)}/{fingerprint(data.validation)}"
        return images, *self._data[images]


def is_finished(run: Run, inputs: Inputs) -> bool:
    """Whether a run that is not damaged is there; False where it has to begin or to go on.

    Raises:
        UserError: another run is in its folder (names what differs).
    """
    folder = run.folder
    if not folder.recipe.exists():
        return False
    recorded = load_recipe(folder.recipe)
    finished = folder.finished
    # Where files lie does not matter once their content is known.
    moved = {"teacher_weights", "data"} if finished else {"teacher_weights"}
    name, wanted, there = first_difference(run.options, recorded, moved)
    if name:
        raise UserError(
            f"{folder.path} was run with --{name} {there}, and the study wants {wanted}: choose another --output, or "
            "another name for the row"
        )
    if not finished:
        return False
    summary = folder.read_summary()
    for kind, now in inputs.of(run).items():
        then = summary.get(f"{kind}_fingerprint")
        if then != now and not (kind == "teacher" and now is None):
            what = "other images" if kind == "data" else "another teacher (other weights)"
            raise UserError(f"{folder.path} was run with {what} than the study names now: choose another --output")
    return True


def is_damaged(run: Run) -> str:
    """What is broken in a run's folder: why it cannot be read; "" for nothing."""
    folder = run.folder
    try:
        if folder.recipe.exists():
            load_recipe(folder.recipe)
        if folder.finished:
            folder.read_summary()
            folder.read_predictions()
            if not folder.student.exists():
                return f"{folder.student} is missing"
    except UserError as error:
        return str(error)
    return ""


def remove(run: Run) -> None:
    """Remove what is there of a run."""
    shutil.rmtree(run.folder.path)
