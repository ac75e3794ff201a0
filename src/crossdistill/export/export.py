"""A student, written for other runtimes, judged there and measured: what `crossdistill export` does."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

import crossdistill
from crossdistill.analysis.inspection import summarise_model
from crossdistill.data import ImageData
from crossdistill.errors import UserError, check_range
from crossdistill.export.assess import judge_forms, machine, measure_forms
from crossdistill.export.backend import Backend, load_backend
from crossdistill.export.calibration import calibration_images
from crossdistill.export.card import ExportCard
from crossdistill.export.description import Description, input_in_words, output_in_words
from crossdistill.export.forms import backends_of_int8, quantize_forms, write_forms
from crossdistill.export.hub import check_hub, push_folder
from crossdistill.export.source import Source, open_source, recipe_to_publish
from crossdistill.files import folder_written_whole
from crossdistill.staged import StagedModel


def export_student(
    model: str | Path,
    output: str | Path,
    *,
    to: Sequence[str] = ("onnx",),
    data: str | None = None,
    int8: bool = False,
    max_drop: float = 0.5,
    images: int = 1000,
    calibration: int = 300,
    seed: int = 0,
    threads: int = 1,
    licence: str = "",
    data_licence: str = "",
    push: str = "",
    console: Console | None = None,
) -> ExportCard:
    """Write the student of a run for other runtimes, and make sure there that it says what it said.

    Everything appears at the end, or nothing does.

    Args:
        model: a run folder, also of a run that was stopped, or a weights file of crossdistill.
        output: the folder to make; a folder for each backend, and `card.json`.
        to: backends: timm, onnx, openvino, executorch, torch.
        data: what to judge on, as `--data` takes it; default: what the run was trained on.
        int8: write int8 forms too, where a backend has them for this student.
        max_drop: points of top-1 that a form may lose.
        images: validation images to judge on, a fixed random choice.
        calibration: training images that int8 forms are calibrated with.
        seed: of their choice.
        threads: CPU threads when latencies are measured.
        licence: of the weights, for the card of the timm folder.
        data_licence: of the training images, for the same.
        push: repository of the Hugging Face Hub that the timm folder is uploaded to.
        console: where to report; default: the standard error.

    Returns:
        The card, as in `card.json`.

    Raises:
        UserError: a backend that is not installed, a student that a format cannot hold, an operator that it lacks, a
            form that lost more than `max_drop`, or anything wrong with the model, the data or the output.
    """
    console = console or Console(stderr=True)
    check_range(at_least=0, max_drop=max_drop)
    check_range(at_least=1, images=images, calibration_images=calibration, threads=threads)
    output = Path(output).expanduser()
    _check_output(output)
    backends = [load_backend(name) for name in dict.fromkeys(to)]
    for backend in backends:
        backend.check_installed()
    if push:
        check_hub(push, to)
    source = open_source(model, data, with_training_images=int8)
    description = _describe(source)
    for backend in backends:
        backend.check(source.student, description)
    quantizing: list[Backend] = []
    if int8:
        quantizing, refusals = backends_of_int8(backends, source.student)
        source.notes += refusals
    with folder_written_whole(output) as folder, tempfile.TemporaryDirectory() as scratch:
        forms = write_forms(backends, source.student, description, folder, console)
        if quantizing:
            assert isinstance(source.data, ImageData)
            calibrating = calibration_images(source.data.train, source.student.image_size, calibration, seed)
            about = replace(description, precision="int8")
            chosen = [form for form in forms if form.backend in quantizing]
            forms += quantize_forms(chosen, source.student, about, calibrating, console)
        judged = judge_forms(forms, source, Path(scratch), images, max_drop, console)
        rows = measure_forms(judged, folder, threads, console)
        card = ExportCard(
            student=source.student.name,
            data=source.data.name,
            classes=description.classes,
            image_size=source.student.image_size,
            input=description.input,
            output=description.output,
            notes=source.notes,
            calibration=f"{len(calibrating)} training images, seed {seed}" if quantizing else "",
            max_drop=max_drop,
            machine=machine(),
            rows=rows,
            recipe=recipe_to_publish(source.recipe) if source.recipe is not None else None,
        )
        (folder / "card.json").write_text(json.dumps(card.to_dict(), indent=2) + "\n")
        if (folder / "timm").is_dir():
            readme = card.to_markdown(licence, data_licence, _teacher_licence(source.teacher))
            (folder / "timm" / "README.md").write_text(readme, encoding="utf-8")
    if push:
        console.print(f"uploaded: {push_folder(output / 'timm', push)}")
    return card


def _check_output(output: Path) -> None:
    if not output.name:
        raise UserError("--output is missing: name the folder that the files are written to")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"--output {output} is there already: choose another folder, or remove it")


def _describe(source: Source) -> Description:
    card = source.student.card
    classes = card.classes or []
    return Description(
        model=source.student.name,
        image_size=source.student.image_size,
        classes=classes,
        note="; ".join(source.notes[:1]) if source.unfinished else "",
        input=input_in_words(source.student.image_size, card.mean, card.std),
        output=output_in_words(len(classes)),
        crossdistill=crossdistill.__version__,
    )


def _teacher_licence(teacher: StagedModel | None) -> str:
    return summarise_model(teacher).licence if teacher is not None else ""
