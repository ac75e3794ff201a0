"""The quickstart, cut short; and the teacher that ships with the package."""

from importlib.resources import files
from pathlib import Path

import pytest
import torch

from crossdistill import quickstart
from crossdistill.data import EvalLoader, open_data
from crossdistill.options import TrainingOptions
from crossdistill.train.evaluate import evaluate
from crossdistill.weights import load_model

TEACHER = files("crossdistill") / "assets" / "fashion_vit.safetensors"


def test_shipped_teacher_is_small_and_good() -> None:
    assert Path(str(TEACHER)).stat().st_size <= 4_000_000
    teacher = load_model(str(TEACHER))
    validation = open_data("fashion-mini").validation
    part = validation.subset(torch.arange(1000))
    loader = EvalLoader(part, image_size=(32, 32), batch_size=200, device="cpu", workers=0)
    assert evaluate(teacher, loader)["top1"] > 84


def test_quickstart_compares_and_is_not_run_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = quickstart.recipe

    def short(method: str, teacher: str, output: str, seed: int) -> TrainingOptions:
        options = whole(method, teacher, output, seed)
        options.max_steps = 2
        return options

    monkeypatch.setattr(quickstart, "recipe", short)
    first = quickstart.run(["scratch", "kd"], str(tmp_path), seed=3)
    printed = capsys.readouterr().out
    assert "about" in printed and "agrees with teacher" in printed
    assert [summary["method"] for summary in first] == ["scratch", "kd"]
    assert all(summary["steps"] == 2 and summary["seed"] == 3 for summary in first)
    checkpoints = {path: path.stat().st_mtime for path in tmp_path.rglob("state.pt")}
    again = quickstart.run(["scratch", "kd"], str(tmp_path), seed=3)
    assert [summary["top1"] for summary in again] == [summary["top1"] for summary in first]
    assert checkpoints == {path: path.stat().st_mtime for path in tmp_path.rglob("state.pt")}
