"""A student, written for other runtimes, judged there and measured: what `crossdistill export` does."""

import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

import crossdistill
from crossdistill.analysis.images import choose_images
from crossdistill.analysis.inspection import summarise_model
from crossdistill.data import EvalLoader, ImageData
from crossdistill.errors import UserError, check_range
from crossdistill.evaluation import empty_logits, predict
from crossdistill.export.backend import Backend, load_backend, why_not_written
from crossdistill.export.calibration import calibration_images
from crossdistill.export.card import CardRow, ExportCard, sha256, weights_files
from crossdistill.export.description import Description, input_in_words, output_in_words
from crossdistill.export.hub import check_hub, push_folder
from crossdistill.export.judge import BATCH, Judgement, Reference, check_drop, judge
from crossdistill.export.measure import PYTORCH, measure
from crossdistill.export.source import Source, open_source, recipe_to_publish
from crossdistill.files import folder_written_whole
from crossdistill.models import save_model
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
    quantizing = _backends_of_int8(backends, source) if int8 else []
    with folder_written_whole(output) as folder, tempfile.TemporaryDirectory() as scratch:
        forms = _write(backends, source, description, folder, console)
        if quantizing:
            assert isinstance(source.data, ImageData)
            calibrating = calibration_images(source.data.train, source.student.image_size, calibration, seed)
            forms += _quantize(quantizing, forms, source, replace(description, precision="int8"), calibrating, console)
        rows = _judged_and_measured(forms, source, folder, Path(scratch), images, max_drop, threads, console)
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
            machine=f"{platform.system()} {platform.machine()}, {_processor()}",
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


# A form that was written: its name, its backend, and what `Backend.open` takes.
_Form = tuple[str, Backend, Path]


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


def _backends_of_int8(backends: list[Backend], source: Source) -> list[Backend]:
    """The backends that have an int8 form of the student; why the others have none goes into the notes."""
    found, refusals = [], []
    for backend in backends:
        if refusal := backend.int8_refusal(source.student):
            refusals.append(f"no int8 by {backend.name}: {refusal}")
        else:
            backend.check_installed(int8=True)
            found.append(backend)
    if not found:
        raise UserError(f"--int8: {'; '.join(refusals)}: add openvino to --to, or leave --int8 out")
    source.notes += refusals
    return found


def _write(
    backends: list[Backend], source: Source, description: Description, folder: Path, console: Console
) -> list[_Form]:
    forms: list[_Form] = []
    for backend in backends:
        console.print(f"writing {backend.name}")
        own = folder / backend.name
        own.mkdir()
        try:
            # On the standard output it would stand in the middle of what `--json` prints.
            with redirect_stdout(sys.stderr):
                forms.append((backend.name, backend, backend.write(source.student, description, own)))
        except Exception as error:
            # Anything may come out of an exporter; the student is known to run.
            raise why_not_written(error, backend, source.student.name) from error
    return forms


def _quantize(
    backends: list[Backend],
    forms: list[_Form],
    source: Source,
    description: Description,
    images: list,
    console: Console,
) -> list[_Form]:
    quantized: list[_Form] = []
    for name, backend, path in forms:
        if backend not in backends:
            continue
        console.print(f"calibrating {name} int8 with {len(images)} training images")
        try:
            with redirect_stdout(sys.stderr):
                written = backend.write_int8(path, source.student, images, description)
        except Exception as error:
            raise why_not_written(error, backend, f"{source.student.name} in int8") from error
        quantized.append((f"{name} int8", backend, written))
    return quantized


def _judged_and_measured(
    forms: list[_Form],
    source: Source,
    folder: Path,
    scratch: Path,
    images: int,
    max_drop: float,
    threads: int,
    console: Console,
) -> list[CardRow]:
    """The rows of the card. All are judged before the first is measured, which takes longer."""
    chosen = choose_images(
        source.data.images if not isinstance(source.data, ImageData) else source.data.validation, images
    )
    loader = EvalLoader(chosen, image_size=source.student.image_size, batch_size=BATCH, device="cpu", workers=0)
    said = {"student": _answers(source.student, loader)}
    if source.teacher is not None:
        said["teacher"] = _answers(source.teacher, loader)
    reference = Reference(loader.labels, said["student"], said.get("teacher"))
    before = reference.judge(said["student"])
    judged: list[tuple[str, str, Path, Judgement, StagedModel, str]] = []
    if source.teacher is not None:
        written = scratch / "teacher.safetensors"
        save_model(source.teacher, written)
        # Its logits may be of another scale; only its answers can be compared.
        of_teacher = replace(reference.judge(said["teacher"]), largest_difference=0.0, relative_difference=0.0)
        judged.append(("teacher", PYTORCH, written, of_teacher, source.teacher, f"torch {torch.__version__}"))
    written = source.file or scratch / "student.safetensors"
    if source.file is None:
        save_model(source.student, written)
    judged.append(("student", PYTORCH, written, before, source.student, f"torch {torch.__version__}"))
    for name, backend, path in forms:
        console.print(f"judging {name} on {len(chosen)} images")
        runtime = backend.open(path)
        after = judge(name, runtime, loader, reference)
        check_drop(name, before, after, max_drop)
        judged.append((name, backend.name, path, after, source.student, runtime.version))
    summaries = {id(model): summarise_model(model) for _, _, _, _, model, _ in judged}
    rows = []
    for name, opener, path, judgement, model, runs in judged:
        console.print(f"measuring {name}")
        files = weights_files(path) if opener != PYTORCH else [path]
        rows.append(
            CardRow(
                name=name,
                model=model.name,
                runtime=runs,
                path=path.relative_to(folder).as_posix() if opener != PYTORCH else "",
                sha256={file.name: sha256(file) for file in files},
                bytes=sum(file.stat().st_size for file in files),
                parameters=summaries[id(model)].parameters,
                macs=summaries[id(model)].macs,
                judgement=judgement,
                measurement=measure(opener, path, threads),
            )
        )
    return rows


def _answers(model: StagedModel, loader: EvalLoader) -> torch.Tensor:
    """(N, K) logits of the images of a loader."""
    logits = empty_logits(model, loader.size)
    predict(model, loader, logits)
    return logits


def _teacher_licence(teacher: StagedModel | None) -> str:
    return summarise_model(teacher).licence if teacher is not None else ""


def _processor() -> str:
    """The name of the processor, where the system says it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
