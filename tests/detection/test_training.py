"""Detection from the command line: runs, resuming, evaluation, prediction, comparison."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from cli.conftest import refusal
from crossdistill.cli import main
from crossdistill.options import MethodOptions, ModelOptions, TrainingOptions
from crossdistill.study import Study, compare
from crossdistill.training import distill
from crossdistill.training.run_folder import RunFolder
from detection.tiny import CLASSES, VIT

pytest.importorskip("faster_coco_eval")
SMALL = ["--task", "detection", "--pyramid_channels", "16", "--image_size", "64", "--batch_size", "4", "--workers", "0"]
SMALL += ["--accelerator", "cpu", "--crop", "none", "--log_every", "2"]


def options(data: Path, output: Path, **changes: Any) -> TrainingOptions:
    values: dict[str, Any] = {
        "task": "detection",
        "pyramid_channels": 16,
        "data": str(data),
        "output": str(output),
        "student": ModelOptions("test_resnet"),
        "teacher": ModelOptions("vit_tiny_patch16_224", dict(VIT)),
        "allow_weak_teacher": True,
        "method": MethodOptions("pkd"),
        "image_size": 64,
        "teacher_image_size": 64,
        "epochs": 2,
        "batch_size": 4,
        "log_every": 2,
        "accelerator": "cpu",
        "workers": 0,
    }
    return TrainingOptions(**(values | changes))


@pytest.fixture(scope="module")
def teacher(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a CNN that tells red from blue rectangles, and finds them."""
    output = tmp_path_factory.mktemp("runs") / "teacher"
    recipe = ["--epochs", "30", "--learning_rate", "5e-3", "--evaluate_every", "30"]
    arguments = ["--student", "test_resnet", "--data", str(voc), "--output", str(output), *SMALL, *recipe]
    assert main(["train", *arguments]) == 0
    return output


def test_a_detector_learns(teacher: Path) -> None:
    summary = json.loads((teacher / "summary.json").read_text())
    assert summary["judged_by"] == "ap" and summary["ap50"] > 50, summary
    assert summary["best"] == summary["ap"] and {"ap/blue", "ap/red"} <= summary.keys()
    assert summary["teacher_ap"] is None and summary["student"] == "fcos on test_resnet"
    found = json.loads((teacher / "detections.json").read_text())
    assert found["classes"] == CLASSES and len(found["student"]) == len(found["truth"]) == 6


def test_evaluate_gives_what_the_run_gave(
    teacher: Path, voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = tmp_path / "drawn"
    arguments = [str(teacher), "--data", str(voc), "--workers", "0", "--accelerator", "cpu"]
    assert main(["evaluate", *arguments, "--json", "--draw", str(draw)]) == 0
    result = json.loads(capsys.readouterr().out)
    summary = json.loads((teacher / "summary.json").read_text())
    assert result["ap"] == pytest.approx(summary["ap"], abs=1e-6) and result["images"] == 6
    assert len(list(draw.glob("*.png"))) == 6
    assert "not an empty folder" in refusal(capsys, "evaluate", *arguments, "--draw", str(draw))
    assert "--corruptions is for classification" in refusal(capsys, "evaluate", *arguments, "--corruptions")


def test_predict_writes_boxes_and_pictures(
    teacher: Path, voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    images = [str(voc / "JPEGImages" / f"val{k}.png") for k in range(3)]
    arguments = [str(teacher), *images, str(bad), "--accelerator", "cpu", "--min_score", "0.2"]
    assert main(["predict", *arguments, "--json", "--output", str(tmp_path / "out")]) == 3
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == json.loads((tmp_path / "out" / "boxes.json").read_text())
    assert [line["file"] for line in printed] == images and len(list((tmp_path / "out").glob("*.png"))) == 3
    boxes = [box for line in printed for box in line["boxes"]]
    assert boxes and all(box["class"] in CLASSES and box["score"] >= 0.2 for box in boxes)
    # Pixels of the image, of which there are 64 x 48.
    assert all(0 <= box["box"][1] < box["box"][3] <= 48 for box in boxes)


@pytest.mark.parametrize("head", ["fcos", pytest.param("faster_rcnn", marks=pytest.mark.slow)])
def test_a_resumed_run_equals_one_that_was_not_stopped(head: str, voc: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(step: int, total: int, values: dict[str, float]) -> None:
        raise Killed

    changes: dict[str, Any] = {"detector": head, "ema_decay": 0.9, "checkpoint_every": 2}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    summary = distill(options(voc, whole, **changes), Console(quiet=True))
    with pytest.raises(Killed):
        distill(options(voc, parts, **changes), Console(quiet=True), on_evaluation=kill)
    resumed = distill(options(voc, parts, resume=True, **changes), Console(quiet=True))
    clock = {"seconds", "images_per_second", "peak_memory_bytes"}
    assert {k: v for k, v in resumed.items() if k not in clock} == {k: v for k, v in summary.items() if k not in clock}
    ours, theirs = (load_file(folder / "student.safetensors") for folder in (whole, parts))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    lines = [
        [{k: v for k, v in line.items() if k not in clock} for line in RunFolder(folder).read_metrics()]
        for folder in (whole, parts)
    ]
    assert lines[0] == lines[1]


def test_a_detector_teaches_another_and_is_judged(teacher: Path, voc: Path, tmp_path: Path) -> None:
    weights = str(teacher / "student.safetensors")
    summary = distill(
        options(
            voc,
            tmp_path / "run",
            student=ModelOptions("vit_tiny_patch16_224", dict(VIT)),
            teacher=ModelOptions(),
            teacher_weights=weights,
            teacher_image_size=None,
            allow_weak_teacher=False,
            max_steps=2,
        ),
        Console(quiet=True),
    )
    assert summary["teacher"] == "fcos on test_resnet"
    assert summary["teacher_ap"] == pytest.approx(json.loads((teacher / "summary.json").read_text())["ap"], abs=1e-6)
    assert json.loads((tmp_path / "run" / "detections.json").read_text())["teacher"] is not None


def test_mistakes_are_told_in_one_line(teacher: Path, voc: Path, tmp_path: Path, capsys: Any) -> None:
    weights = ["--teacher_weights", str(teacher / "student.safetensors")]
    given = ["--student", "test_resnet", "--data", str(voc), "--output", str(tmp_path / "run"), *SMALL]
    kd = refusal(capsys, "distill", *given, *weights, "--method", "kd")
    assert "KD reads the logits of an image, and fcos on test_resnet is a detector" in kd
    vit = ["--teacher", "vit_tiny_patch16_224", "--teacher.kwargs.img_size=64", "--method", "pkd"]
    assert "has no weights" in refusal(capsys, "distill", *given, *vit)
    assert "--mixup is for classification" in refusal(capsys, "train", *given, "--mixup", "0.2")
    assert "--compile true" in refusal(capsys, "train", *given, "--compile", "true")
    assert "--data missing is neither" in refusal(capsys, "train", *given, "--data", "missing")
    other = refusal(capsys, "train", *given, "--student_weights", weights[1], "--detector", "retinanet")
    assert "holds a detector with --detector fcos --pyramid_channels 16" in other
    assert "report shows classification" in refusal(capsys, "report", str(teacher))
    assert not (tmp_path / "run").exists()


def test_inspect_says_which_methods_fit(teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--pyramid_channels", "16", "--image_size", "64", "--methods", "pkd,kd"]
    assert main(["inspect", "--task", "detection", str(teacher), "test_resnet", *small]) == 0
    shown = capsys.readouterr().out
    assert "fcos on test_resnet" in shown and "p3" in shown and "is a detector" in " ".join(shown.split())


def test_compare_judges_by_average_precision(teacher: Path, voc: Path, tmp_path: Path) -> None:
    recipe = {
        **{"task": "detection", "data": str(voc), "student": "test_resnet", "pyramid_channels": 16, "image_size": 64},
        **{"epochs": 1, "batch_size": 4, "workers": 0, "accelerator": "cpu", "crop": "none"},
        "teacher_weights": str(teacher / "student.safetensors"),
    }
    study = Study.from_dict(
        {"metric": "ap", "seeds": 2, "recipe": recipe, "rows": {"scratch": None, "pkd": None}, "baselines": ["scratch"]}
    )
    results = compare(study, tmp_path / "study", console=Console(quiet=True)).results
    rows = {row.name: row for row in results.pairs[0].rows}
    assert results.metric_title == "AP %" and results.pairs[0].teacher_value > 0
    difference = rows["pkd"].differences[0]
    ours, theirs = rows["pkd"].runs, rows["scratch"].runs
    assert difference.values == pytest.approx([a.value - b.value for a, b in zip(ours, theirs, strict=True)])
    assert difference.interval is not None and difference.bootstrap is None
    assert rows["pkd"].class_changes.keys() == {"blue", "red"}
    assert "AP %" in (tmp_path / "study" / "results.md").read_text()
