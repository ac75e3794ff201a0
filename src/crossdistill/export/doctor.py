"""Which backends work on this machine: found out by a tiny model that goes through each of them."""

import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crossdistill.export import BACKENDS
from crossdistill.export.backend import Backend, load_backend
from crossdistill.export.description import Description
from crossdistill.export.pytorch import open_weights
from crossdistill.models import build_model, save_model
from crossdistill.options import ModelOptions
from crossdistill.staged import StagedModel

# Of float32 logits; int8 differs by more, and only has to be written and run.
_TOLERANCE = 1e-3
_SIDE = 32


@dataclass
class Finding:
    """What was found of one backend.

    Attributes:
        backend: its name.
        state: `works`, `not installed`, or `fails`.
        said: versions, the command that installs it, or the reason.
    """

    backend: str
    state: str
    said: str


def examine() -> list[Finding]:
    """Try every backend; of those that have int8, both forms."""
    student = build_model(ModelOptions("test_resnet"), num_classes=2, image_size=(_SIDE, _SIDE)).eval()
    return [_examine(load_backend(name), student) for name in BACKENDS]


def _examine(backend: Backend, student: StagedModel) -> Finding:
    int8 = not backend.int8_refusal(student)
    if missing := backend.missing():
        return Finding(backend.name, "not installed", f"{missing}: {backend.install}")
    images = np.random.default_rng(0).random((3, 3, _SIDE, _SIDE), dtype=np.float32)
    description = Description(student.name, student.image_size, ["one", "other"])
    try:
        # On the standard output it would stand among the findings.
        with tempfile.TemporaryDirectory() as name, redirect_stdout(sys.stderr):
            folder = Path(name)
            own = folder / backend.name
            own.mkdir()
            save_model(student, folder / "student.safetensors")
            expected = open_weights(folder / "student.safetensors").run(images)
            path = backend.write(student, description, own)
            difference = float(np.abs(backend.open(path).run(images) - expected).max())
            if not difference < _TOLERANCE:
                return Finding(backend.name, "fails", f"its answers differ from PyTorch's by {difference:.1e}")
            said = backend.versions()
            if int8 and (missing := backend.missing(int8=True)):
                said += f"; no int8 without {missing}: {backend.install}"
            elif int8:
                quantized = backend.write_int8(path, student, [image[None] for image in images], description)
                backend.open(quantized).run(images)
                said += "; int8 too"
    except Exception as error:
        # Whatever a backend raises is what there is to be told of it.
        return Finding(backend.name, "fails", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return Finding(backend.name, "works", said)
