"""What the tests of exports share: one tiny student, exported once, on a folder of a few real images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from crossdistill.export import measure
from crossdistill.export.backend import Backend, load_backend
from crossdistill.export.card import ExportCard
from crossdistill.export.description import Description, input_in_words, output_in_words
from crossdistill.export.export import export_student
from crossdistill.export.measure import PYTORCH, Measurement, measured
from crossdistill.export.pytorch import open_weights
from crossdistill.models import build_model, load_student, save_model
from crossdistill.options import ModelOptions
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import SIDE

# Of the images of `image_folder`.
CLASSES = ["blue", "green", "red"]


def description_of(student: StagedModel) -> Description:
    card = student.card
    words = input_in_words(card.image_size, card.mean, card.std), output_in_words(len(CLASSES))
    return Description(student.name, student.image_size, CLASSES, input=words[0], output=words[1])


def random_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, SIDE, SIDE), dtype=np.float32)


def logits(student: StagedModel, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return student(torch.from_numpy(images)).logits.numpy()


def written(backend: Backend, student: StagedModel, folder: Path) -> Path:
    own = folder / backend.name
    own.mkdir()
    return backend.write(student, description_of(student), own)


def measured_here(backend: str, path: Path, threads: int) -> Measurement:
    """What `measure` gives, without a process and with few repetitions."""
    opened = open_weights(path, threads) if backend == PYTORCH else load_backend(backend).open(path, threads)
    return measured(opened, threads)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)


def make_quick(patch: pytest.MonkeyPatch) -> None:
    """Measure in this process, and hardly."""
    patch.setattr("crossdistill.export.assess.measure", measured_here)
    for name, value in (("_SECONDS", 0.0), ("_FEWEST", 2), ("_WARM_UP", 0)):
        patch.setattr(measure, name, value)


@pytest.fixture(scope="session")
def student_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CNN that knows nothing, and has statistics of its own to normalise by."""
    torch.manual_seed(0)
    student = build_model(ModelOptions("test_resnet"), num_classes=len(CLASSES), image_size=(SIDE, SIDE))
    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    save_model(student, path, classes=CLASSES)
    return path


@pytest.fixture(scope="session")
def vit() -> StagedModel:
    torch.manual_seed(0)
    shape = {"patch_size": 8, "embed_dim": 32, "depth": 6, "num_heads": 2}
    return build_model(
        ModelOptions("vit_tiny_patch16_224", shape), num_classes=len(CLASSES), image_size=(SIDE, SIDE)
    ).eval()


@pytest.fixture
def student(student_file: Path) -> StagedModel:
    return load_student(student_file)


@pytest.fixture(scope="session")
def exported(
    student_file: Path, image_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ExportCard, Path]]:
    """The card and the folder of the student in the formats that the tests' own dependencies can write."""
    pytest.importorskip("onnxruntime")
    output = tmp_path_factory.mktemp("exports") / "made" / "here"
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        card = export_student(
            student_file,
            output,
            to=["timm", "onnx", "torch"],
            data=str(image_folder),
            int8=True,
            max_drop=20,
            calibration=10,
            licence="apache-2.0",
            data_licence="of my own",
        )
    yield card, output
