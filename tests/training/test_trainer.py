"""The loop: what it writes, what it refuses, critics, divergence, full disks."""

import errno
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import metrics, quiet_run, tiny_options
from rich.console import Console
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import DivergenceError, UserError
from crossdistill.models import load_student
from crossdistill.options import MethodOptions, ModelOptions
from crossdistill.staged import Outputs
from crossdistill.testing.tiny_models import SIDE
from crossdistill.training import distill
from crossdistill.training.checkpoint import latest_checkpoint
from crossdistill.training.devices import forget_peak_memory, peak_memory
from crossdistill.training.trainer import Trainer

HERE = f"{__name__}."


class NotANumber(Distiller):
    """Its second term is not finite from the middle of training on."""

    needs = Needs(teacher={"logits"}, student={"logits"})

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"broken": student.logits.mean() * torch.where(self.progress > 0.5, math.nan, 1.0)}


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(3, 1)

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        return nn.functional.softplus(-self.score(real)).mean() + nn.functional.softplus(self.score(fake)).mean()


class Adversarial(Distiller):
    """Logits of the teacher are real, those of the student fake."""

    needs = Needs(teacher={"logits"}, student={"logits"})
    critic_every = 2
    critic_learning_rate = 0.1

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__(student, teacher)
        self.critic = Critic()

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        self.critic_batch = (teacher.logits.detach(), student.logits.detach())
        return {}


def test_run_folder_holds_what_it_should(image_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    summary = quiet_run(tiny_options(image_folder, output, learning_rate=0.01, epochs=12, log_gradient_norms=True))
    on_disk = json.loads((output / "summary.json").read_text())
    assert on_disk == summary
    for key in ("method", "teacher", "student", "seed", "epochs", "top1", "best_top1", "teacher_top1", "student_params",
                "teacher_agreement", "extra_params", "images_per_second", "seconds", "peak_memory_bytes"):  # fmt: skip
        assert on_disk[key] is not None, key
    assert [stage["channels"] for stage in summary["stages"]["student"]] == [
        stage.channels for stage in load_student(output).stages
    ]
    assert len(summary["stages"]["teacher"]) == 4
    assert summary["reads"] == {"teacher": ["logits"], "student": ["logits"]}
    # Three tints that a CNN learns in seconds: the loop really trains.
    assert summary["top1"] > 80
    lines = metrics(output)
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train] == list(range(2, 61, 2))
    assert train[0]["loss"] == pytest.approx(train[0]["labels"] + train[0]["logits"])
    assert train[0]["gradient_norm/labels"] > 0 and train[0]["gradient_norm/logits"] > 0
    assert train[-1]["labels"] < train[0]["labels"]
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == list(range(5, 61, 5))
    assert list(output.glob("events.out.tfevents*"))

    model = load_student(output)
    assert model.image_size == (SIDE, SIDE) and model.card.classes == ["blue", "green", "red"]


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_saved_student_is_the_one_that_top1_was_measured_on(ema: float, image_folder: Path, tmp_path: Path) -> None:
    from crossdistill.data import EvalLoader, open_data
    from crossdistill.evaluation.accuracy import evaluate

    summary = quiet_run(tiny_options(image_folder, tmp_path / "run", ema_decay=ema))
    validation = open_data(str(image_folder)).validation
    loader = EvalLoader(validation, image_size=(SIDE, SIDE), batch_size=5, device=torch.device("cpu"), workers=0)
    assert evaluate(load_student(tmp_path / "run"), loader)["top1"] == pytest.approx(summary["top1"])


def test_same_seed_same_student_and_data_seed_apart(image_folder: Path, tmp_path: Path) -> None:
    def lines(name: str, **changes: Any) -> list[dict[str, Any]]:
        quiet_run(tiny_options(image_folder, tmp_path / name, max_steps=4, log_every=1, **changes))
        return metrics(tmp_path / name)

    first = lines("a")
    assert first == lines("b")
    assert first != lines("c", data_seed=1)
    assert first != lines("d", seed=1, data_seed=0)


def test_accumulation_equals_one_large_batch(image_folder: Path, tmp_path: Path) -> None:
    student = ModelOptions(
        "vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}
    )
    whole = quiet_run(tiny_options(image_folder, tmp_path / "a", student=student, max_steps=3, log_every=1))
    parts = quiet_run(
        tiny_options(image_folder, tmp_path / "b", student=student, max_steps=3, log_every=1, accumulate=3)
    )
    assert whole["steps"] == parts["steps"] == 3
    for one, two in zip(metrics(tmp_path / "a"), metrics(tmp_path / "b"), strict=True):
        if one["kind"] == "train":
            assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


def test_nan_stops_the_run_names_the_term_and_keeps_the_last_good_checkpoint(
    image_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    options = tiny_options(
        image_folder, output, method=MethodOptions(HERE + "NotANumber"), checkpoint_every=1, log_every=5, epochs=4
    )
    with pytest.raises(DivergenceError, match="loss term 'broken' is not finite"):
        quiet_run(options)
    checkpoint = latest_checkpoint(output / "checkpoints")
    assert checkpoint is not None
    state = torch.load(checkpoint / "state.pt", weights_only=True)["distiller"]
    assert all(torch.isfinite(tensor).all() for tensor in state.values() if tensor.is_floating_point())


def test_critic_learns_with_its_own_optimiser_and_is_in_the_checkpoint(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops: list[Trainer] = []
    build = Trainer.__init__

    def remember(self: Trainer, *arguments: Any, **keywords: Any) -> None:
        build(self, *arguments, **keywords)
        self.start = {k: v.clone() for k, v in self.distiller.critic.state_dict().items()}  # type: ignore[attr-defined, union-attr]
        loops.append(self)

    monkeypatch.setattr(Trainer, "__init__", remember)
    output = tmp_path / "run"
    quiet_run(tiny_options(image_folder, output, method=MethodOptions(HERE + "Adversarial"), epochs=1))
    (loop,) = loops
    critic = loop.distiller.critic
    assert critic is not None
    students = {id(p) for group in loop.state.optimizer.param_groups for p in group["params"]}
    assert not students & {id(p) for p in critic.parameters()}
    assert not any("critic" in name for name, _ in loop.distiller.named_parameters())
    assert not torch.equal(loop.start["score.weight"], critic.state_dict()["score.weight"])  # type: ignore[attr-defined]
    saved = torch.load(latest_checkpoint(output / "checkpoints") / "state.pt", weights_only=True)  # type: ignore[operator]
    assert torch.equal(saved["critic"]["score.weight"], critic.state_dict()["score.weight"])
    # Five steps of the student, a critic's step after every second.
    assert saved["critic_optimizer"]["state"][0]["step"].item() == 2
    assert any("critic" in line for line in metrics(output))


def test_disk_full_at_a_checkpoint_keeps_the_one_before(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossdistill.training import checkpoint as module

    output = tmp_path / "run"
    save, calls = torch.save, []

    def filling(state: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, path)

    monkeypatch.setattr(module.torch, "save", filling)
    with pytest.raises(UserError, match=r"the disk is full.*--resume true"):
        quiet_run(tiny_options(image_folder, output))
    kept = latest_checkpoint(output / "checkpoints")
    assert kept is not None and kept.name == "step-000000005"
    assert torch.load(kept / "state.pt", weights_only=True)["step"] == 5
    assert not list((output / "checkpoints").glob("*.part"))


def test_folder_with_another_run_is_refused_and_untouched(image_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    quiet_run(tiny_options(image_folder, output, epochs=1))
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="holds another run"):
        quiet_run(tiny_options(image_folder, output, epochs=1))
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 61}, "60"),
        ({"epochs": 0}, "--epochs"),
        ({"label_smoothing": 1.5}, "--label_smoothing"),
        ({"optimizer": "adamv"}, "did you mean 'adam"),
        ({"method": MethodOptions("kdd")}, "did you mean 'kd'"),
        ({"method": MethodOptions("kd", {"temprature": 2})}, "did you mean 'temperature'"),
        ({"method": MethodOptions("kd", {"temperature": "hot"})}, "temperature: expected a number, got 'hot'"),
        ({"method": MethodOptions("cskd", {"kind": "hrd"})}, "kind: expected hard or soft, got 'hrd'"),
        ({"method": MethodOptions("cakd", {"critic_learning_rate": -1.0})}, "critic_learning_rate=-1.0"),
        ({"optimizer": "adahessian"}, "needs second derivatives"),
        ({"optimizer": "sgd", "momentum": 0.0}, "--optimizer sgd cannot be used"),
        ({"student": ModelOptions("math.pi")}, "math.pi is a float"),
        ({"seed": -1}, "--seed: expected a whole number of at least 0 and below 2^32, got '-1'"),
        # Before anything is loaded.
        ({"optimizer": "adamv", "data": "no/such/folder"}, "did you mean 'adam"),
        ({"method": MethodOptions("kdd"), "data": "no/such/folder"}, "did you mean 'kd'"),
        ({"student": ModelOptions("resnet81")}, "did you mean"),
        ({"student": ModelOptions()}, "--student is missing"),
        ({"teacher": ModelOptions()}, "needs a teacher"),
        ({"allow_weak_teacher": False}, "--allow_weak_teacher"),
        ({"resume": True}, "holds no run"),
        ({"accelerator": "cuda", "devices": 99}, "devices cannot be used"),
        ({"accelerator": "cpu", "devices": 999}, "--devices 999"),
        ({"ema_decay": 1.0}, "--ema_decay"),
        ({"momentum": 5.0}, "--momentum"),
        ({"crop_scale": 0.0}, "--crop_scale"),
        ({"batch_size": 1}, "raise --batch_size"),
        ({"batch_size": 12, "accumulate": 12}, "lower --accumulate"),
        ({"method": MethodOptions("kd", {"temperature": 0.0})}, "kd: temperature=0.0; give a number above 0"),
        ({"data": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_mistakes_are_told_in_one_line_and_write_nothing(
    changes: dict[str, Any], message: str, image_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    with pytest.raises(UserError) as caught:
        quiet_run(
            tiny_options(changes.get("data", image_folder), output, **{k: v for k, v in changes.items() if k != "data"})
        )
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not output.exists()


@pytest.mark.slow
def test_compiled_run_gives_the_same_losses(image_folder: Path, tmp_path: Path) -> None:
    quiet_run(tiny_options(image_folder, tmp_path / "a", max_steps=3, log_every=1))
    quiet_run(tiny_options(image_folder, tmp_path / "b", max_steps=3, log_every=1, compile=True))
    for one, two in zip(metrics(tmp_path / "a"), metrics(tmp_path / "b"), strict=True):
        if one["kind"] == "train":
            assert one["loss"] == pytest.approx(two["loss"], rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_trains(precision: str, image_folder: Path, tmp_path: Path) -> None:
    summary = quiet_run(
        tiny_options(image_folder, tmp_path / "run", precision=precision, mixup=0.2, learning_rate=0.01, epochs=6)
    )
    assert summary["top1"] > 60


def test_says_that_small_images_are_enlarged(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for size, warned in ((None, True), (32, False)):
        options = tiny_options(image_folder, tmp_path / str(size), image_size=size, max_steps=1)
        distill(options)
        assert ("--image_size 32" in capsys.readouterr().out) == warned


def test_peak_memory_is_that_of_the_process_itself() -> None:
    # A child that starts small must not report the peak of this process, which has torch and a ballast in it.
    ballast = torch.ones(200 << 18)
    code = (
        "import torch; from crossdistill.training.devices import peak_memory; print(peak_memory(torch.device('cpu')));"
        "ballast = torch.ones(100 << 18); print(peak_memory(torch.device('cpu')))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    small, large = map(int, output.split())
    assert small < peak_memory(torch.device("cpu")) - ballast.nbytes / 2
    assert large - small > 90 << 20


def test_evaluations_are_told_and_may_end_the_run(image_folder: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int, float]] = []

    class Enough(Exception):
        pass

    def listen(step: int, total_steps: int, values: dict[str, float]) -> None:
        told.append((step, total_steps, values["top1"]))
        if step == 10:
            raise Enough

    options = tiny_options(image_folder, tmp_path / "run", epochs=3)
    with pytest.raises(Enough):
        distill(options, Console(quiet=True), on_evaluation=listen)
    logged = [line["top1"] for line in metrics(tmp_path / "run") if line["kind"] == "evaluation"]
    assert told == [(5, 15, logged[0]), (10, 15, logged[1])]
    # The step that it ended at has no checkpoint; the one before has.
    latest = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert latest is not None and latest.name.endswith("5")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process forget its peak")
def test_peak_memory_of_a_second_run_is_its_own() -> None:
    ballast = torch.ones(200 << 18)
    before = peak_memory(torch.device("cpu"))
    size = ballast.nbytes
    del ballast
    forget_peak_memory(torch.device("cpu"))
    assert peak_memory(torch.device("cpu")) < before - size / 2
