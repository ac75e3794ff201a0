"""What is exported: the student of a run, finished or not, or of a weights file, and the teacher that it had."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from crossdistill.data import ImageData, ValidationData, open_data, open_validation
from crossdistill.errors import UserError
from crossdistill.evaluation import check_classes
from crossdistill.models import load_student, weights_file
from crossdistill.options import PairOptions, TrainingOptions
from crossdistill.staged import StagedModel
from crossdistill.training.checkpoint import latest_checkpoint
from crossdistill.training.ingredients import build_teacher
from crossdistill.training.run_folder import RunFolder, load_recipe
from crossdistill.training.unfinished import load_unfinished


@dataclass
class Source:
    """What is exported.

    Attributes:
        student: on the CPU, in eval mode, with the names of its classes.
        file: the weights file that it was read from; None of a run that was stopped.
        teacher: of the run; None where there was none, or it cannot be loaded.
        data: what it is judged on; with training images where they were asked for.
        notes: what must be known of it, in sentences without an end.
        recipe: of the run; None of a weights file.
        unfinished: where the run was stopped, in words; empty of a finished one.
    """

    student: StagedModel
    file: Path | None
    teacher: StagedModel | None
    data: ImageData | ValidationData
    notes: list[str]
    recipe: TrainingOptions | None
    unfinished: str


def open_source(path: str | Path, data: str | None, *, with_training_images: bool) -> Source:
    """Open a run folder or a weights file.

    Args:
        path: of it.
        data: what to judge on, as `--data` takes it; None: what the run was trained on.
        with_training_images: whether int8 forms will need them.

    Raises:
        UserError: nothing that can be read, a model without a classifier, data of other classes, or none named.
    """
    run, recipe, notes, unfinished, file = Path(path).expanduser(), None, [], "", None
    if (run / "recipe.yaml").is_file():
        recipe = load_recipe(RunFolder(run).recipe)
        if recipe.task == "detection":
            raise UserError(f"'{path}' is a run of detection, and export takes classifiers")
    stopped = recipe is not None and not RunFolder(run).student.is_file()
    if not stopped:
        # Before the data are opened, which takes longer.
        file = weights_file(path)
        student = load_student(file)
        _check_classifier(student, str(path))
    elif latest_checkpoint(RunFolder(run).checkpoints) is None:
        raise UserError(f"the run in {path} was stopped before its first checkpoint: go on with --resume true")
    name = data or (recipe.data if recipe is not None else "")
    if not name:
        raise UserError(f"--data is missing: '{path}' does not say what data it was trained on, to judge the export by")
    opened: ImageData | ValidationData
    if not stopped:
        opened = open_data(name) if with_training_images else open_validation(name)
    else:
        assert recipe is not None
        opened = open_data(name)
        student, unfinished = load_unfinished(RunFolder(run), recipe, opened)
        notes.append(f"its run was stopped: the weights are those {unfinished}")
        _check_classifier(student, str(path))
    check_classes(str(path), student, opened)
    student.card = replace(student.card, classes=student.card.classes or opened.classes)
    _check_names(student.card.classes or [])
    teacher = None
    if recipe is not None:
        try:
            teacher = build_teacher(recipe.part(PairOptions), opened)
        except UserError as error:
            notes.append(f"its teacher is left out, as it cannot be loaded ({error})")
    if teacher is not None and not teacher.num_classes:
        notes.append(f"its teacher {teacher.name} is left out, as it has no classifier")
        teacher = None
    return Source(student.eval(), file, teacher and teacher.eval(), opened, notes, recipe, unfinished)


def recipe_to_publish(options: TrainingOptions) -> dict[str, Any]:
    """What of a recipe others need: the method, what differs from the defaults, and of paths here the names alone."""
    left_out = {"output", "resume", "workers", "accelerator", "devices", "nodes", "teacher_cache"}
    default, given = asdict(TrainingOptions()), asdict(options)
    always = {"student", "method", "epochs", "seed"}
    kept = {
        key: value for key, value in given.items() if key in always or (key not in left_out and value != default[key])
    }
    paths = ("data", "student_weights", "teacher_weights", "teacher_classes")
    return {key: Path(value).name if key in paths and "/" in str(value) else value for key, value in kept.items()}


def _check_classifier(student: StagedModel, path: str) -> None:
    if not student.num_classes:
        raise UserError(f"'{path}' holds a model without a classifier: give one that was trained on classes")


def _check_names(classes: list[str]) -> None:
    """Names are text in every format; a folder's name may be bytes that are none."""
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"the class {name!a} is no text that a file could hold (UTF-8): rename its folder"
            ) from error
