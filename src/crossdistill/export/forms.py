"""The forms of a student: one for each backend, and where a backend has it, one in int8 beside."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from crossdistill.errors import UserError
from crossdistill.export.backend import Backend, why_not_written
from crossdistill.export.description import Description
from crossdistill.staged import StagedModel


@dataclass(frozen=True)
class Form:
    """A form that was written.

    Attributes:
        name: the backend's, with `int8` behind it where it is that.
        backend: that wrote it.
        path: what `Backend.open` takes.
    """

    name: str
    backend: Backend
    path: Path


def backends_of_int8(backends: Sequence[Backend], student: StagedModel) -> tuple[list[Backend], list[str]]:
    """The backends that have an int8 form of a student, and why each of the others has none.

    Raises:
        UserError: none has, or what it takes is not installed.
    """
    found, refusals = [], []
    for backend in backends:
        if refusal := backend.int8_refusal(student):
            refusals.append(f"no int8 by {backend.name}: {refusal}")
        else:
            backend.check_installed(int8=True)
            found.append(backend)
    if not found:
        raise UserError(f"--int8: {'; '.join(refusals)}: add openvino to --to, or leave --int8 out")
    return found, refusals


def write_forms(
    backends: Sequence[Backend], student: StagedModel, description: Description, folder: Path, console: Console
) -> list[Form]:
    """Write a student with each backend, into a folder of the backend's name.

    Raises:
        UserError: a backend cannot; names the operator, where the backend does.
    """
    forms = []
    for backend in backends:
        console.print(f"writing {backend.name}")
        own = folder / backend.name
        own.mkdir()
        try:
            # On the standard output it would stand in the middle of what `--json` prints.
            with redirect_stdout(sys.stderr):
                forms.append(Form(backend.name, backend, backend.write(student, description, own)))
        except Exception as error:
            # Anything may come out of an exporter; the student is known to run.
            raise why_not_written(error, backend, student.name) from error
    return forms


def quantize_forms(
    forms: Sequence[Form],
    student: StagedModel,
    description: Description,
    images: Sequence[np.ndarray],
    console: Console,
) -> list[Form]:
    """Write int8 forms beside float32 ones.

    Args:
        forms: of backends that have int8 of the student.
        student: as for `write_forms`.
        description: of the int8 forms.
        images: (1, 3, H, W) float32 in [0, 1] each, to calibrate with.
        console: where to report.

    Raises:
        UserError: a backend cannot.
    """
    quantized = []
    for form in forms:
        console.print(f"calibrating {form.name} int8 with {len(images)} training images")
        try:
            with redirect_stdout(sys.stderr):
                path = form.backend.write_int8(form.path, student, images, description)
        except Exception as error:
            raise why_not_written(error, form.backend, f"{student.name} in int8") from error
        quantized.append(Form(f"{form.name} int8", form.backend, path))
    return quantized
