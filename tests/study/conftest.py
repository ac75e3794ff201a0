"""What the tests of studies share: a study of runs that take less than a second each, and a teacher for it."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from crossdistill.options import ModelOptions, TrainingOptions
from crossdistill.study import Comparison, Study, compare
from crossdistill.training import distill
from study.helpers import runs

__all__ = ["runs"]

RECIPE: dict[str, Any] = {
    "image_size": 32,
    "epochs": 1,
    "batch_size": 12,
    "learning_rate": 0.003,
    "crop": "none",
    "accelerator": "cpu",
    "workers": 0,
    "preflight_images": 0,
    "student": "test_resnet",
}


@pytest.fixture(scope="session")
def teacher(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights file of a small ViT that was trained for an epoch."""
    output = tmp_path_factory.mktemp("teacher") / "run"
    values = RECIPE | {"student": ModelOptions("test_vit"), "data": str(image_folder), "output": str(output)}
    options = TrainingOptions(**values)
    options.method.name = "scratch"
    distill(options, Console(quiet=True))
    return output / "student.safetensors"


@pytest.fixture(scope="session")
def small(image_folder: Path, teacher: Path) -> dict[str, Any]:
    """The fields of a study of scratch and KD with two seeds."""
    recipe = RECIPE | {"data": str(image_folder), "teacher_weights": str(teacher)}
    return {
        "question": "Does it help?",
        "seeds": 2,
        "recipe": recipe,
        "rows": {"scratch": None, "kd": {"method.kwargs.temperature": 2}},
    }


def quiet(study: dict[str, Any] | Study, output: Path, **arguments: Any) -> Comparison:
    study = study if isinstance(study, Study) else Study.from_dict(study)
    return compare(study, output, console=Console(quiet=True), **arguments)


@pytest.fixture(scope="session")
def finished(small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the study, all of whose runs are there. Tests that change it take a copy."""
    output = tmp_path_factory.mktemp("studies") / "small"
    assert not quiet(small, output).failed
    return output
