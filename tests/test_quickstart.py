"""The quickstart, cut short; and the teacher that ships with the package."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

from crossdistill import quickstart
from crossdistill.data import EvalLoader, open_data
from crossdistill.errors import UserError
from crossdistill.evaluation.accuracy import evaluate
from crossdistill.models import load_student
from crossdistill.options import TrainingOptions


@pytest.mark.parametrize("pair", quickstart.PAIRS)
def test_shipped_teachers_are_small_and_good(pair: str) -> None:
    file = files("crossdistill") / "assets" / quickstart.PAIRS[pair].teacher
    assert Path(str(file)).stat().st_size <= 4_000_000
    teacher = load_student(str(file))
    validation = open_data("fashion-mini").validation
    part = validation.subset(torch.arange(1000))
    loader = EvalLoader(part, image_size=(32, 32), batch_size=200, device="cpu", workers=0)
    assert evaluate(teacher, loader)["top1"] > 84


def cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quickstart.recipe

    def short(*arguments: Any) -> TrainingOptions:
        options = whole(*arguments)
        options.max_steps = 2
        return options

    monkeypatch.setattr(quickstart, "recipe", short)


def test_quickstart_compares_and_is_not_run_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_short(monkeypatch)
    first = quickstart.run(["scratch", "kd"], str(tmp_path), seed=3)
    printed = capsys.readouterr().out
    assert "about" in printed and "agrees with teacher" in printed
    assert [summary["method"] for summary in first] == ["scratch", "kd"]
    assert all(summary["steps"] == 2 and summary["seed"] == 3 for summary in first)
    checkpoints = {path: path.stat().st_mtime for path in tmp_path.rglob("state.pt")}
    again = quickstart.run(["scratch", "kd"], str(tmp_path), seed=3)
    assert [summary["top1"] for summary in again] == [summary["top1"] for summary in first]
    assert checkpoints == {path: path.stat().st_mtime for path in tmp_path.rglob("state.pt")}
    with pytest.raises(UserError, match="started with --seed 3, not 0: leave --seed out, or choose another --output"):
        quickstart.run(["scratch"], str(tmp_path))


def test_cskd_has_a_pair_and_baselines_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_short(monkeypatch)
    summaries = quickstart.run(["scratch", "cskd"], str(tmp_path))
    runs = [(summary["method"], summary["student"]) for summary in summaries]
    assert runs[0] == ("scratch", "test_resnet")
    assert runs[1:] == [(name, "deit_tiny_distilled_patch16_224") for name in ("scratch", "kd", "cskd")]
    assert (tmp_path / "cnn-vit" / "cskd" / "student.safetensors").exists()
    assert capsys.readouterr().out.count("agrees with teacher") == 2
