"""What the tests of pages share: a study of tiny runs whose names would break a page that did not escape them."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image
from rich.console import Console

from crossdistill.options import ModelOptions, TrainingOptions
from crossdistill.study.metrics import agreement
from crossdistill.testing.tiny_models import SIDE
from crossdistill.training import distill
from crossdistill.training.run_folder import RunFolder
from study.conftest import RECIPE, quiet

CLASSES = ["<script>alert(1)<x>", '"><img src=x onerror=alert(1)>', "plain & simple"]
QUESTION = "Does <b>it</b> help & 'why'?"


@pytest.fixture(scope="session")
def hostile_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of 3 classes with 8 training and 4 validation images of each."""
    root = tmp_path_factory.mktemp("hostile")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 8), ("val", 4)):
        for channel, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(0, 160, (SIDE, SIDE, 3), generator=generator, dtype=torch.uint8)
                pixels[..., channel] += 90
                Image.fromarray(pixels.numpy()).save(folder / f"'><b>{i}.png")
    return root


@pytest.fixture(scope="session")
def fields(hostile_images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The fields of a study of scratch and KD with two seeds."""
    teacher = tmp_path_factory.mktemp("teacher") / "run"
    values = RECIPE | {"student": ModelOptions("test_vit"), "data": str(hostile_images), "output": str(teacher)}
    options = TrainingOptions(**values)
    options.method.name = "scratch"
    distill(options, Console(quiet=True))
    recipe = RECIPE | {
        "data": str(hostile_images),
        "teacher_weights": str(teacher / "student.safetensors"),
        "epochs": 3,
        "evaluate_every": 1,
        "log_every": 1,
    }
    rows = {"scratch": None, "kd": {"method.kwargs.temperature": 2}}
    return {"question": QUESTION, "seeds": 2, "recipe": recipe, "rows": rows}


@pytest.fixture(scope="session")
def study(fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the study. Tests that change it take a copy."""
    output = tmp_path_factory.mktemp("studies") / "hostile"
    assert not quiet(fields, output).failed
    for number, summary in enumerate(sorted(output.rglob("summary.json"))):
        answer_differently(RunFolder(summary.parent), number, margin=3.0 if "kd" in summary.parts else 1.0)
    return output


def answer_differently(folder: RunFolder, number: int, margin: float) -> None:
    """Let a run have answered by chance: after three epochs all of them say the same of every image."""
    said = folder.read_predictions()
    drawn = torch.randn(said.student.shape, generator=torch.Generator().manual_seed(number))
    said.student = drawn + margin * torch.nn.functional.one_hot(said.labels, len(said.classes))
    names = json.dumps({"images": said.images, "classes": said.classes})
    tensors = {"student": said.student, "teacher": said.teacher, "labels": said.labels}
    there = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    safetensors.torch.save_file(there, folder.predictions, {"crossdistill": names})
    alike = agreement(said)
    top1 = 100 * (said.student.argmax(dim=1) == said.labels).float().mean().item()
    folder.write_summary(folder.read_summary() | {"top1": top1, "teacher_agreement": alike[0] if alike else None})


@pytest.fixture(scope="session")
def run(study: Path) -> Path:
    """The folder of one of its runs."""
    return study / "pair" / "kd" / "0"
