"""What the tests of the commands share: a data set of a few coloured squares, a teacher and a student of it."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from crossdistill.cli import main

COLORS = {"blue": (30, 40, 200), "green": (20, 180, 60), "grey": (120, 120, 120), "red": (200, 30, 40)}
STUDENT = ["--student", "test_resnet"]


def write_split(folder: Path, images_per_class: int, names: list[str] | None = None) -> None:
    generator = torch.Generator().manual_seed(images_per_class)
    for name in names or COLORS:
        (folder / name).mkdir(parents=True)
        for index in range(images_per_class):
            noise = torch.randint(-20, 20, (3,), generator=generator).tolist()
            color = tuple(c + n for c, n in zip(COLORS.get(name, (0, 0, 0)), noise, strict=True))
            Image.new("RGB", (32, 32), color).save(folder / name / f"{index}.png")


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    write_split(folder / "train", 8)
    write_split(folder / "val", 4)
    return folder


def training(data: Path, output: Path, *further: str) -> list[str]:
    recipe = ["--epochs", "6", "--batch_size", "8", "--learning_rate", "3e-3", "--workers", "0", "--crop", "none"]
    return ["--data", str(data), "--output", str(output), *recipe, "--accelerator", "cpu", *further]


@pytest.fixture(scope="session")
def teacher(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a ViT that tells the squares apart."""
    output = tmp_path_factory.mktemp("runs") / "teacher"
    assert main(["train", "--student", "test_vit", "--student.kwargs.img_size=32", *training(squares, output)]) == 0
    assert json.loads((output / "summary.json").read_text())["top1"] > 90
    return output


@pytest.fixture(scope="session")
def student(squares: Path, teacher: Path) -> Path:
    """The run folder of a CNN that learnt from it, whose weights file alone says what the teacher is."""
    output = teacher.parent / "student"
    arguments = [
        "--teacher_weights",
        str(teacher / "student.safetensors"),
        "--student",
        "test_resnet",
        "--method",
        "kd",
    ]
    assert main(["distill", *arguments, *training(squares, output)]) == 0
    return output


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a command that is refused."""
    code = main(list(arguments))
    err = capsys.readouterr().err
    assert code == 2, err
    assert err.startswith("crossdistill: ")
    assert err.count("\n") == 1
    return err.removeprefix("crossdistill: ").strip()
