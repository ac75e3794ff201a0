"""`crossdistill.train` on models and a method that were built by hand, and what every run writes for statistics."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import metrics, quiet_run, tiny_options
from lightning.fabric import Fabric
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file

import crossdistill
from crossdistill.errors import UserError
from crossdistill.methods.kd import KD
from crossdistill.options import ModelOptions, TrainingOptions
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import SIDE, tiny_cnn, tiny_vit
from crossdistill.training.state import seed_everything

QUIET = Console(quiet=True)


def distiller() -> KD:
    seed_everything(0)
    student = StagedModel(tiny_cnn(), name="test_resnet", image_size=SIDE)
    return KD(student, StagedModel(tiny_vit(), name="vit", image_size=SIDE))


def options(output: Path, **changes: Any) -> TrainingOptions:
    values: dict[str, Any] = {"epochs": 2, "batch_size": 12, "log_every": 2, "crop": "shifted", "workers": 0}
    return TrainingOptions(output=str(output), accelerator="cpu", allow_weak_teacher=True, **(values | changes))


def test_live_objects_are_trained_as_by_the_command(image_folder: Path, tmp_path: Path) -> None:
    method = distiller()
    before = method.student.model.fc.weight.clone()
    summary = crossdistill.train(method, str(image_folder), options(tmp_path / "run"), QUIET)
    assert not torch.equal(method.student.model.fc.weight, before)
    assert (summary["method"], summary["student"], summary["steps"]) == ("kd", "test_resnet", 10)
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    saved = load_file(tmp_path / "run" / "student.safetensors")
    assert torch.equal(saved["fc.weight"], method.student.model.fc.weight)


def test_live_objects_go_on_from_a_checkpoint(image_folder: Path, tmp_path: Path) -> None:
    crossdistill.train(distiller(), str(image_folder), options(tmp_path / "whole"), QUIET)
    crossdistill.train(distiller(), str(image_folder), options(tmp_path / "run"), QUIET)
    # As if it had been killed before its end.
    (tmp_path / "run" / "summary.json").unlink()
    (tmp_path / "run" / "student.safetensors").unlink()
    crossdistill.train(distiller(), str(image_folder), options(tmp_path / "run", resume=True), QUIET)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    for name in ("student", "predictions"):
        one, two = (load_file(tmp_path / run / f"{name}.safetensors") for run in ("whole", "run"))
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_impossible_options_are_refused_here_too(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--epochs: expected a whole number of at least 1, got '0'"):
        crossdistill.train(distiller(), str(image_folder), options(tmp_path / "run", epochs=0), QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_predictions_are_the_logits_behind_the_accuracies(ema: float, image_folder: Path, tmp_path: Path) -> None:
    summary = quiet_run(tiny_options(image_folder, tmp_path / "run", ema_decay=ema))
    path = tmp_path / "run" / "predictions.safetensors"
    said = load_file(path)
    assert said["student"].dtype == said["teacher"].dtype == torch.float32
    assert said["student"].shape == said["teacher"].shape == (24, 3)
    right = said["student"].argmax(dim=1) == said["labels"]
    assert 100 * right.float().mean().item() == pytest.approx(summary["top1"])
    right = said["teacher"].argmax(dim=1) == said["labels"]
    assert 100 * right.float().mean().item() == pytest.approx(summary["teacher_top1"])
    alike = said["teacher"].argmax(dim=1) == said["student"].argmax(dim=1)
    assert 100 * alike.float().mean().item() == pytest.approx(summary["teacher_agreement"])
    with safe_open(path, framework="pt") as opened:
        names = json.loads(opened.metadata()["crossdistill"])
    assert names["classes"] == ["blue", "green", "red"]
    assert len(set(names["images"])) == 24 and names["images"][0] == "val/blue/0.png"


def test_a_run_without_a_teacher_has_no_answers_of_one(image_folder: Path, tmp_path: Path) -> None:
    from crossdistill.options import MethodOptions

    quiet_run(tiny_options(image_folder, tmp_path / "run", teacher=ModelOptions(), method=MethodOptions("scratch")))
    assert load_file(tmp_path / "run" / "predictions.safetensors").keys() == {"student", "labels"}


def test_held_out_images_are_training_images_that_are_not_trained_on(image_folder: Path, tmp_path: Path) -> None:
    summary = quiet_run(tiny_options(image_folder, tmp_path / "run", held_out=0.2, batch_size=8))
    assert (summary["train_images"], summary["validation_images"]) == (48, 12)
    with safe_open(tmp_path / "run" / "predictions.safetensors", framework="pt") as opened:
        names = json.loads(opened.metadata()["crossdistill"])["images"]
    assert all(name.startswith("train/") for name in names)


def test_the_moving_average_starts_from_what_the_set_up_gives(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With several processes Fabric gives all of them the first one's weights, which live objects need not have.
    set_up = Fabric.setup

    def shared(fabric: Fabric, module: torch.nn.Module, *optimizers: Any) -> Any:
        with torch.no_grad():
            for parameter in module.student.parameters():
                parameter.zero_()
        return set_up(fabric, module, *optimizers)

    monkeypatch.setattr(Fabric, "setup", shared)
    # A decay this near to 1 keeps the average where it began.
    crossdistill.train(
        distiller(), str(image_folder), options(tmp_path / "run", ema_decay=1 - 1e-9, max_steps=1), QUIET
    )
    saved = load_file(tmp_path / "run" / "student.safetensors")
    assert saved["fc.weight"].abs().max() < 1e-6
