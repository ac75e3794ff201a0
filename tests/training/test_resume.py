"""A run that was killed and resumed equals the run that was not, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from helpers import TINY_VIT, metrics, quiet_run, tiny_options
from safetensors.torch import load_file

from crossdistill.cli import main
from crossdistill.errors import UserError
from crossdistill.options import MethodOptions, ModelOptions, TrainingOptions
from crossdistill.training import distill
from crossdistill.training.checkpoint import latest_checkpoint
from crossdistill.training.trainer import Trainer

RECIPES: dict[str, dict[str, Any]] = {
    "everything at once": {
        "method": MethodOptions("ofa"),
        "ema_decay": 0.9,
        "mixup": 0.2,
        "cutmix": 1.0,
        "label_smoothing": 0.1,
        "random_erasing": 0.5,
        "repeated_augmentation": 2,
        "accumulate": 2,
        "clip_gradient": 1.0,
        "schedule": "step",
        "step_epochs": 1,
        "optimizer": "lamb",
    },
    "dropout and workers": {
        "student": ModelOptions("vit_tiny_patch16_224", TINY_VIT | {"drop_path_rate": 0.3, "proj_drop_rate": 0.2}),
        "rand_augment": "rand-m9-mstd0.5-inc1",
        "color_jitter": 0.3,
        "crop": "resized",
        "workers": 1,
        "optimizer": "sgd",
    },
}

VIT = ModelOptions("vit_tiny_patch16_224", TINY_VIT)
# What each method keeps besides the student: a critic and its optimiser, token means, the last gap and running
# statistics, the progress of the fusion, what is remembered of every image.
METHODS: dict[str, dict[str, Any]] = {
    "cakd": {"method": MethodOptions("cakd", {"critic_every": 2})},
    "fbt": {"method": MethodOptions("fbt")},
    "pat": {"method": MethodOptions("pat")},
    "foundation": {"method": MethodOptions("foundation", {"label_weight": 1.0})},
    "reviewkd": {"method": MethodOptions("reviewkd")},
    "ofd": {"method": MethodOptions("ofd")},
    # Fewer negatives than images, so that they are drawn.
    "crd": {"method": MethodOptions("crd", {"num_negatives": 16}), "repeated_augmentation": 2},
    # A critic, the last gap and running statistics, and what is remembered of every image, all at once.
    "cakd+pat+crd": {"method": MethodOptions("cakd+pat+crd", {"cakd.critic_every": 2, "crd": {"num_negatives": 16}})},
    "cskd": {
        "method": MethodOptions("cskd", {"progress_unit": "iteration"}),
        "teacher": ModelOptions("test_resnet", {"output_stride": 8}),
        "student": VIT,
    },
}


WATCHED = {
    "fbt": {"assistant_top1", "assistant_top1_foreign_front"},
    "pat": {"prompted_teacher_agreement", "prompted_teacher_top1"},
    "cakd+pat+crd": {"prompted_teacher_agreement", "prompted_teacher_top1"},
    "cskd": {"top1_with_patches"},
    "foundation": {"teacher_cosine"},
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the program may react to it."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    optimise = Trainer._optimise

    def dying(self: Trainer, batches: Any) -> Any:
        if self.state.step == step:
            raise Killed
        return optimise(self, batches)

    monkeypatch.setattr(Trainer, "_optimise", dying)


def final_state(output: Path) -> dict[str, Any]:
    checkpoint = latest_checkpoint(output / "checkpoints")
    assert checkpoint is not None
    return {name: torch.load(checkpoint / name, weights_only=True) for name in ("state.pt", "rank-0.pt")}


def assert_same(one: Any, two: Any, where: str = "") -> None:
    assert type(one) is type(two), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for name in one:
            if name != "seconds":
                assert_same(one[name], two[name], f"{where}/{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for i, (left, right) in enumerate(zip(one, two, strict=True)):
            assert_same(left, right, f"{where}/{i}")
    else:
        assert one == two, where


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("step", [1, 4, 5, 8])
def test_killed_and_resumed_equals_never_killed(
    recipe: str, step: int, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_survives(step, RECIPES[recipe], image_folder, tmp_path, monkeypatch)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_survives(
    method: str, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One step after the checkpoint, so that a step is made again.
    assert_survives(4, METHODS[method], image_folder, tmp_path, monkeypatch)
    # The saved student carries nothing of its method.
    options = METHODS[method].get("student", ModelOptions("test_resnet"))
    plain = timm.create_model(options.name, num_classes=3, **options.kwargs)
    assert load_file(tmp_path / "whole" / "student.safetensors").keys() == plain.state_dict().keys()
    # What the method measures at an evaluation is in the log and in the summary.
    watched = WATCHED.get(method, set())
    assert watched <= metrics(tmp_path / "whole")[-1].keys()
    assert watched <= json.loads((tmp_path / "whole" / "summary.json").read_text()).keys()


def test_a_checkpoint_between_two_reports_knows_the_time_that_was_spent(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_at(4, monkeypatch)
    with pytest.raises(Killed):
        quiet_run(tiny_options(image_folder, tmp_path / "run", checkpoint_every=3, log_every=50))
    assert final_state(tmp_path / "run")["state.pt"]["seconds"] > 0


def assert_survives(
    step: int, recipe: dict[str, Any], image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = recipe | {"checkpoint_every": 3}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    quiet_run(tiny_options(image_folder, whole, **changes))
    with monkeypatch.context() as patched:
        kill_at(step, patched)
        with pytest.raises(Killed):
            quiet_run(tiny_options(image_folder, broken, **changes))
    quiet_run(TrainingOptions(output=str(broken), resume=True))

    assert_same(load_file(whole / "student.safetensors"), load_file(broken / "student.safetensors"))
    assert_same(final_state(whole), final_state(broken))
    assert metrics(whole) == metrics(broken)


def test_killed_by_the_system_at_an_arbitrary_moment(image_folder: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    changes = {"epochs": 30, "checkpoint_every": 2}
    quiet_run(tiny_options(image_folder, whole, **changes))
    recipe = yaml.safe_load((whole / "recipe.yaml").read_text()) | {"output": str(broken)}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    process = subprocess.Popen(
        [sys.executable, "-m", "crossdistill", "distill", "--config", str(tmp_path / "recipe.yaml")],
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while latest_checkpoint(broken / "checkpoints") is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (broken / "student.safetensors").exists()
    quiet_run(TrainingOptions(output=str(broken), resume=True))
    assert_same(load_file(whole / "student.safetensors"), load_file(broken / "student.safetensors"))
    assert metrics(whole) == metrics(broken)


# In the middle of an epoch, and with its last step.
@pytest.mark.parametrize("step", [2, 4])
def test_interrupt_saves_and_says_how_to_go_on(
    step: int, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    quiet_run(tiny_options(image_folder, whole))
    optimise = Trainer._optimise

    def interrupted(self: Trainer, batches: Any) -> Any:
        if self.state.step == step:
            os.kill(os.getpid(), signal.SIGINT)
        return optimise(self, batches)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_optimise", interrupted)
        with pytest.raises(KeyboardInterrupt):
            distill(tiny_options(image_folder, broken))
    assert f"--output {broken} --resume true" in capsys.readouterr().out
    assert latest_checkpoint(broken / "checkpoints").name.endswith(str(step + 1))  # type: ignore[union-attr]
    quiet_run(TrainingOptions(output=str(broken), resume=True))
    assert_same(load_file(whole / "student.safetensors"), load_file(broken / "student.safetensors"))
    assert metrics(whole) == metrics(broken)


def test_resume_with_another_recipe_is_refused(image_folder: Path, tmp_path: Path) -> None:
    quiet_run(tiny_options(image_folder, tmp_path / "run", epochs=1))
    with pytest.raises(UserError, match="was started with --learning_rate 0.001, not 0.5"):
        quiet_run(tiny_options(image_folder, tmp_path / "run", epochs=1, learning_rate=0.5, resume=True))


def test_an_option_given_at_its_default_counts_on_resume(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet_run(tiny_options(image_folder, tmp_path / "run", epochs=1))
    default = TrainingOptions().epochs
    assert main(["distill", "--output", str(tmp_path / "run"), "--resume", "--epochs", str(default)]) == 2
    assert f"was started with --epochs 1, not {default}: leave --epochs out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("recipe.yaml", "epochs: [1", "is not a recipe of this version"),
        ("recipe.yaml", "epoch: 1", "is not a recipe of this version"),
        ("checkpoints/*/state.pt", "PK half a file", "is damaged or incomplete"),
    ],
)
def test_damaged_runs_are_told_in_one_line(
    file: str, content: str, message: str, image_folder: Path, tmp_path: Path
) -> None:
    quiet_run(tiny_options(image_folder, tmp_path / "run", max_steps=2))
    # As if it had been killed before its end.
    (tmp_path / "run" / "summary.json").unlink()
    next((tmp_path / "run").glob(file)).write_text(content)
    with pytest.raises(UserError, match=message):
        quiet_run(TrainingOptions(output=str(tmp_path / "run"), resume=True))


def test_resuming_a_finished_run_gives_its_result_again(image_folder: Path, tmp_path: Path) -> None:
    first = quiet_run(tiny_options(image_folder, tmp_path / "run", epochs=1))
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert quiet_run(TrainingOptions(output=str(tmp_path / "run"), resume=True)) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == files
