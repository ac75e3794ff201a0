"""From files to rows of a card: what each form says of real images, and what it costs to run."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from crossdistill.analysis.images import choose_images
from crossdistill.analysis.inspection import summarise_model
from crossdistill.data import EvalLoader, ImageData
from crossdistill.evaluation import empty_logits, predict
from crossdistill.export.card import CardRow, sha256, weights_files
from crossdistill.export.forms import Form
from crossdistill.export.judge import BATCH, Judgement, Reference, check_drop, judge
from crossdistill.export.measure import PYTORCH, measure
from crossdistill.export.source import Source
from crossdistill.models import save_model
from crossdistill.staged import StagedModel


@dataclass
class Judged:
    """A form, or the teacher or the student before export, with what it says of the images.

    Attributes:
        name: of the row.
        opener: what opens it: the name of a backend, or `PYTORCH`.
        path: of what is opened.
        judgement: of its answers.
        model: that it is of.
        runtime: name and version of what runs it.
    """

    name: str
    opener: str
    path: Path
    judgement: Judgement
    model: StagedModel
    runtime: str


def judge_forms(
    forms: Sequence[Form], source: Source, scratch: Path, images: int, max_drop: float, console: Console
) -> list[Judged]:
    """Judge the teacher, the student and each form of it.

    Args:
        forms: of the student.
        source: the student, its teacher and the data.
        scratch: where weights files may be written that are needed for the measurement only.
        images: validation images, a fixed random choice.
        max_drop: points of top-1 that a form may lose.
        console: where to report.

    Raises:
        UserError: a form lost more, or fails to run.
    """
    validation = source.data.validation if isinstance(source.data, ImageData) else source.data.images
    chosen = choose_images(validation, images)
    student, teacher, torch_version = source.student, source.teacher, f"torch {torch.__version__}"
    loader = EvalLoader(chosen, image_size=student.image_size, batch_size=BATCH, device="cpu", workers=0)
    of_student = _answers(student, loader)
    of_teacher = None if teacher is None else _answers(teacher, loader)
    reference = Reference(loader.labels, of_student, of_teacher)
    judged = []
    if teacher is not None and of_teacher is not None:
        path = scratch / "teacher.safetensors"
        save_model(teacher, path)
        # Its logits may be of another scale; only its answers can be compared.
        judgement = replace(reference.judge(of_teacher), largest_difference=0.0, relative_difference=0.0)
        judged.append(Judged("teacher", PYTORCH, path, judgement, teacher, torch_version))
    path = source.file or scratch / "student.safetensors"
    if source.file is None:
        save_model(student, path)
    before = reference.judge(of_student)
    judged.append(Judged("student", PYTORCH, path, before, student, torch_version))
    for form in forms:
        console.print(f"judging {form.name} on {len(chosen)} images")
        runtime = form.backend.open(form.path)
        after = judge(form.name, runtime, loader, reference)
        check_drop(form.name, before, after, max_drop)
        judged.append(Judged(form.name, form.backend.name, form.path, after, student, runtime.version))
    return judged


def measure_forms(judged: Sequence[Judged], folder: Path, threads: int, console: Console) -> list[CardRow]:
    """Measure what was judged, one after another, each in a process of its own.

    Args:
        judged: from `judge_forms`.
        folder: that paths are told below.
        threads: CPU threads.
        console: where to report.
    """
    summaries = {id(one.model): summarise_model(one.model) for one in judged}
    rows = []
    for one in judged:
        console.print(f"measuring {one.name}")
        exported = one.opener != PYTORCH
        files = weights_files(one.path) if exported else [one.path]
        rows.append(
            CardRow(
                name=one.name,
                model=one.model.name,
                runtime=one.runtime,
                path=one.path.relative_to(folder).as_posix() if exported else "",
                sha256={file.name: sha256(file) for file in files},
                bytes=sum(file.stat().st_size for file in files),
                parameters=summaries[id(one.model)].parameters,
                macs=summaries[id(one.model)].macs,
                judgement=one.judgement,
                measurement=measure(one.opener, one.path, threads),
            )
        )
    return rows


def machine() -> str:
    """The system and the processor, as far as the system says it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = named[0] if named else platform.processor() or "unknown processor"
    return f"{platform.system()} {platform.machine()}, {processor}"


def _answers(model: StagedModel, loader: EvalLoader) -> Tensor:
    """(N, K) logits of the images of a loader."""
    logits = empty_logits(model, loader.size)
    predict(model, loader, logits)
    return logits
