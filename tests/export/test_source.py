"""What is exported: a run, finished or stopped, or a weights file."""

import shutil
from pathlib import Path

import pytest
import torch

from crossdistill import TrainingOptions, distill
from crossdistill.errors import UserError
from crossdistill.export.export import export_student
from crossdistill.export.source import open_source, recipe_to_publish
from crossdistill.models import build_model, load_student, save_model
from crossdistill.options import MethodOptions, ModelOptions
from crossdistill.testing.tiny_models import SIDE
from export.conftest import CLASSES


def options(data: Path, output: Path) -> TrainingOptions:
    return TrainingOptions(
        student=ModelOptions("test_resnet"),
        method=MethodOptions("scratch"),
        image_size=SIDE,
        data=str(data),
        output=str(output),
        max_steps=3,
        batch_size=16,
        ema_decay=0.5,
        workers=0,
        accelerator="cpu",
        crop="none",
    )


@pytest.fixture(scope="module")
def run(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "run"
    distill(options(image_folder, output))
    return output


@pytest.fixture
def stopped(run: Path, tmp_path: Path) -> Path:
    """The same run, as if it had been killed after its last checkpoint."""
    folder = tmp_path / "stopped"
    shutil.copytree(run, folder)
    for name in ("student.safetensors", "summary.json", "predictions.safetensors"):
        (folder / name).unlink()
    return folder


def test_a_stopped_run_is_its_checkpoint(run: Path, stopped: Path) -> None:
    finished = open_source(run, None, with_training_images=False)
    source = open_source(stopped, None, with_training_images=False)
    assert finished.unfinished == "" and finished.file == run / "student.safetensors"
    assert source.file is None and source.unfinished == "of step 3 (moving average)"
    assert source.notes == ["its run was stopped: the weights are those of step 3 (moving average)"]
    expected = load_student(run).state_dict()
    state = source.student.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)
    assert source.student.card.classes == CLASSES


@pytest.mark.usefixtures("quick")
def test_an_export_of_a_stopped_run_says_so(stopped: Path, tmp_path: Path) -> None:
    from crossdistill.export.backend import open_exported

    card = export_student(stopped, tmp_path / "out", to=["torch"])
    assert "its run was stopped" in card.notes[0]
    assert open_exported(tmp_path / "out" / card.row("torch").path).description.note == card.notes[0]
    # A file of its own, since the run has none.
    assert list(card.row("student").sha256) == ["student.safetensors"]


def test_a_run_without_a_checkpoint(stopped: Path) -> None:
    shutil.rmtree(stopped / "checkpoints")
    with pytest.raises(UserError, match="stopped before its first checkpoint: go on with --resume true"):
        open_source(stopped, None, with_training_images=False)


def test_what_is_no_run_and_no_model(tmp_path: Path, student_file: Path) -> None:
    with pytest.raises(UserError, match="there is no weights file"):
        open_source(tmp_path / "nowhere", None, with_training_images=False)
    (tmp_path / "x.safetensors").write_bytes(b"no model")
    with pytest.raises(UserError, match="cannot be read as weights"):
        open_source(tmp_path / "x.safetensors", "fashion-mini", with_training_images=False)
    with pytest.raises(UserError, match="--data is missing"):
        open_source(student_file, None, with_training_images=False)
    with pytest.raises(UserError, match="tells 3 classes apart, fashion-mini has 10"):
        open_source(student_file, "fashion-mini", with_training_images=False)


def test_no_classifier(tmp_path: Path) -> None:
    save_model(
        build_model(ModelOptions("test_resnet", {"num_classes": 0}), num_classes=None), tmp_path / "x.safetensors"
    )
    with pytest.raises(UserError, match="a model without a classifier"):
        open_source(tmp_path / "x.safetensors", "fashion-mini", with_training_images=False)


def test_a_teacher_that_is_gone_is_named(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    text = (folder / "recipe.yaml").read_text().replace("teacher_weights: none", "teacher_weights: gone.safetensors")
    (folder / "recipe.yaml").write_text(text)
    source = open_source(folder, None, with_training_images=False)
    assert source.teacher is None
    assert "its teacher is left out, as it cannot be loaded (--teacher_weights 'gone.safetensors'" in source.notes[0]


def test_a_class_that_is_no_text(student_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossdistill.export.source import _check_names

    _check_names(["caf\u00e9", "red"])
    with pytest.raises(UserError, match=r"the class 'caf\\udce9' is no text that a file could hold"):
        _check_names(["caf\udce9"])


def test_a_published_recipe_names_no_folders_of_this_machine(tmp_path: Path) -> None:
    recipe = recipe_to_publish(options(tmp_path / "pets", tmp_path / "out"))
    assert recipe["data"] == "pets" and recipe["max_steps"] == 3
    assert str(tmp_path) not in str(recipe) and "output" not in recipe
