"""The quickstart, cut short; and the teachers that ship with the package."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from crossdistill.cli import main
from crossdistill.data import EvalLoader, open_data
from crossdistill.errors import UserError
from crossdistill.evaluation.accuracy import evaluate
from crossdistill.models import load_student
from crossdistill.study import Study, quickstart, read_study


@pytest.mark.parametrize("file", ["fashion_vit.safetensors", "fashion_cnn.safetensors"])
def test_shipped_teachers_are_small_and_good(file: str) -> None:
    asset = files("crossdistill") / "assets" / file
    assert Path(str(asset)).stat().st_size <= 4_000_000
    teacher = load_student(str(asset))
    validation = open_data("fashion-mini").validation
    part = validation.subset(torch.arange(1000))
    loader = EvalLoader(part, image_size=(32, 32), batch_size=200, device="cpu", workers=0)
    assert evaluate(teacher, loader)["top1"] > 84


@pytest.fixture
def cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps, and a tenth of the validation images' worth of training images held out to judge by."""
    short = {"max_steps": 2, "held_out": 0.1, "batch_size": 16}

    def read(name: str) -> Study:
        return read_study(name).override(short)

    monkeypatch.setattr(quickstart, "read_study", read)


@pytest.mark.usefixtures("cut_short")
def test_quickstart_compares_and_is_not_run_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstart", "--methods", "scratch,kd", "--output", str(tmp_path), "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert "2 runs: scratch, kd; about" in printed and "agrees with teacher" in printed
    for method in ("scratch", "kd"):
        summary = json.loads((tmp_path / method / "summary.json").read_text())
        assert (summary["method"], summary["steps"], summary["seed"]) == (method, 2, 3)
    students = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("student.safetensors")}
    ((folder, again),) = quickstart.run(["scratch", "kd"], str(tmp_path), seed=3)
    assert folder == str(tmp_path) and not again.failed
    assert students == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("student.safetensors")}
    with pytest.raises(UserError, match="gives two runs the same folder|was begun with|was run with"):
        quickstart.run(["scratch"], str(tmp_path))


@pytest.mark.usefixtures("cut_short")
@pytest.mark.slow
def test_cskd_has_a_pair_and_baselines_of_its_own(tmp_path: Path) -> None:
    compared = quickstart.run(["scratch", "cskd"], str(tmp_path))
    assert [folder for folder, _ in compared] == [str(tmp_path), str(tmp_path / "cnn-vit")]
    (first,), (second,) = (comparison.results.pairs for _, comparison in compared)
    assert (first.student, [row.name for row in first.rows]) == ("test_resnet", ["scratch"])
    assert (second.student, [row.name for row in second.rows]) == (
        "deit_tiny_distilled_patch16_224",
        ["scratch", "kd", "cskd"],
    )
    assert (tmp_path / "cnn-vit" / "cskd" / "student.safetensors").exists()
    # In either order.
    assert len(quickstart.run(["cskd"], str(tmp_path / "later"))) == 1
    assert len(quickstart.run(["scratch"], str(tmp_path / "later"))) == 1
