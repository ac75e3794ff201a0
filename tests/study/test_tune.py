"""`crossdistill tune` with real runs, and what it is told in one line."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from rich.console import Console

from crossdistill.cli import main
from crossdistill.options import MethodOptions, ModelOptions, TrainingOptions
from crossdistill.study.tune import tune
from crossdistill.training.trainer import Trainer
from study.helpers import Killed

optuna = pytest.importorskip("optuna")

TINY_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}
# Two epochs of four steps.
SEARCHED = ["learning_rate", "weight_decay"]
RECIPE = {"epochs": 2, "batch_size": 12, "image_size": 32, "workers": 0, "crop": "shifted", "accelerator": "cpu"}


def options_of(data: Path) -> TrainingOptions:
    models = {"student": ModelOptions("test_resnet"), "teacher": ModelOptions("vit_tiny_patch16_224", TINY_VIT)}
    own = {"data": str(data), "method": MethodOptions("kd"), "allow_weak_teacher": True}
    return TrainingOptions(**(RECIPE | models | own))  # type: ignore[arg-type]


def test_a_killed_search_goes_on_from_the_checkpoint_of_its_trial(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossdistill.study.storage.HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr("crossdistill.study.storage.GRACE_SECONDS", 2)
    quiet = Console(quiet=True)
    whole = tune(options_of(image_folder), trials=2, output=tmp_path / "whole", console=quiet)
    step, taken = Trainer.train_step, []

    def dying(self: Trainer, *given: Any) -> None:
        # In the second epoch of the second trial.
        if len(taken) == 8 + 5:
            raise Killed
        taken.append(self.state.step)
        step(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", dying)
        with pytest.raises(Killed):
            tune(options_of(image_folder), trials=2, output=tmp_path / "killed", console=quiet)
    tuned = tune(options_of(image_folder), trials=2, output=tmp_path / "killed", console=quiet)
    assert [trial.state for trial in tuned.trials] == ["finished", "cut off", "finished"]
    assert tuned.trials[2].values == whole.trials[1].values
    assert tuned.trials[2].top1 == whole.trials[1].top1
    ones = (safetensors.torch.load_file(tmp_path / run / "trials/1/student.safetensors") for run in ("whole", "killed"))
    for one, two in zip(*(tensors.values() for tensors in ones), strict=True):
        assert torch.equal(one, two)


def test_the_command_and_the_recipe_that_it_leaves(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "search"
    recipe = [f"--{name}={value}" for name, value in RECIPE.items()]
    command = ["tune", "--method", "scratch", "--student", "test_resnet", "--data", str(image_folder), *recipe]
    command += ["--output", str(output), "--trials", "2", "--search", ",".join(SEARCHED)]
    assert main(command) == 0
    out = capsys.readouterr().out
    # A fifth of twenty images of each of three classes.
    assert "on 12 held-out training images" in " ".join(out.split()) and "the best recipe" in out
    # Outside of a terminal no name is cut or folded, whatever the width.
    assert any(line.split() == ["trial", "state", "top-1", "%", *SEARCHED, "seconds"] for line in out.splitlines())
    rows = list(csv.DictReader((output / "trials.csv").open()))
    assert [(row["trial"], row["state"]) for row in rows] == [("0", "finished"), ("1", "finished")]
    for row in rows:
        summary = json.loads((Path(row["folder"]) / "summary.json").read_text())
        assert float(row["held_out_top1"]) == pytest.approx(summary["top1"], abs=1e-4)
        assert (summary["train_images"], summary["validation_images"]) == (48, 12)
    best = max(rows, key=lambda row: (float(row["held_out_top1"]), -int(row["trial"])))
    run = tmp_path / "run"
    assert main(["train", "--config", str(output / "best.yaml"), "--output", str(run), "--max_steps", "1"]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["train_images"], summary["validation_images"]) == (60, 24)
    trained = (run / "recipe.yaml").read_text()
    assert f"learning_rate: {float(best['learning_rate'])}" in trained


def test_the_recipe_of_a_run_can_be_tuned(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("crossdistill.cli.tune.tune", lambda options, **own: calls.append((options, own)))
    (tmp_path / "recipe.yaml").write_text("student: test_resnet\nheld_out: 0.0\nepochs: 3\nsearch: [temperature]\n")
    command = ["tune", "--config", str(tmp_path / "recipe.yaml"), "--output", "out", "--minutes", "5"]
    assert main(command) == 0
    options, own = calls[0]
    assert (options.epochs, options.student) == (3, ModelOptions("test_resnet"))
    assert own == {"output": "out", "search": ["temperature"], "minutes": 5.0}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--held_out", "0"], "--held_out 0: tune chooses on held-out training images"),
        (["--search", "learning_rat"], "did you mean 'learning_rate'?"),
        (["--trials", "0"], "--trials: expected a whole number of at least 1"),
        (["--trails", "3"], "did you mean '--trials'?"),
        (["--devices", "2"], "a trial runs on one device"),
        (["--student", "resnet18z"], "did you mean 'resnet18'?"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_refused_in_one_line_and_nothing_is_written(
    arguments: list[str], told: str, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "search"
    command = ["tune", "--method", "scratch", "--student", "test_resnet", "--data", str(image_folder)]
    assert main([*command, "--output", str(output), *arguments]) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1
    assert not output.exists()


def test_without_optuna_it_says_what_to_install(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "crossdistill.study.search", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    command = ["tune", "--student", "test_resnet", "--data", str(image_folder), "--output", str(tmp_path / "search")]
    assert main(command) == 2
    assert capsys.readouterr().err == "crossdistill: tune needs optuna: pip install 'crossdistill[tune]'\n"
