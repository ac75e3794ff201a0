"""`analyze`, `rank` and `inspect --measure` as commands."""

import importlib.util
import json
from pathlib import Path

import pytest

from cli.conftest import refusal
from crossdistill.cli import main

QUICK = ["--workers", "0", "--accelerator", "cpu"]


def test_analyze_writes_figures_and_numbers(
    teacher: Path, student: Path, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "analysis"
    arguments = [str(teacher), str(student), "--data", str(squares), "--output", str(output), "--pictures", "2", *QUICK]
    assert main(["analyze", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "CKA: test_vit (rows), test_resnet (columns)" in shown and "attention distance of test_vit" in shown
    assert "16 images" in " ".join(shown.split()) and str(output / "cka.png") in shown
    values = json.loads((output / "analysis.json").read_text())
    assert len(values["cka"]) == len(values["cka"][0]) == 4
    assert all((output / f"{name}.png").stat().st_size for name in ("cka", "responses", "activation_maps"))


def test_analyze_of_one_model_alone_as_json(student: Path, squares: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["analyze", str(student), "--data", str(squares), "--images", "8", "--json", *QUICK]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["images"] == 8 and len(values["models"]) == 1
    assert [row[i] for i, row in enumerate(values["cka"])] == pytest.approx([1] * 4)


def test_rank_orders_teachers(teacher: Path, student: Path, squares: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    arguments = [str(student), str(teacher), "--student", "test_resnet", "--image_size", "32", "--data", str(squares)]
    assert main(["rank", *arguments, "--json", *QUICK]) == 0
    found = json.loads(capsys.readouterr().out)
    top1 = {name: json.loads((Path(name) / "summary.json").read_text())["top1"] for name in arguments[:2]}
    assert {one["name"]: one["top1"] for one in found["teachers"]} == pytest.approx(top1)
    accuracies = [one["top1"] for one in found["teachers"]]
    assert accuracies == sorted(accuracies, reverse=True) and found["images"] == 16
    assert main(["rank", *arguments, "--order", "cka", "--images", "8", *QUICK]) == 0
    assert "teachers for test_resnet, by cka" in capsys.readouterr().out


def test_inspect_measures_gradients_and_tells_licences(
    teacher: Path, squares: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    arguments = [str(teacher), "test_resnet", "--image_size", "32", "--methods", "kd", "--measure"]
    arguments += ["--batch_size", "8", "--accelerator", "cpu"]
    shown = []
    for data in (["--data", str(squares)], ["--data", str(squares)], []):
        assert main(["inspect", *arguments, *data]) == 0
        shown.append(capsys.readouterr().out)
    # What stands below a table is broken where the table ends, a long path too.
    captions = ["".join(text.split()) for text in shown]
    assert shown[0] == shown[1] and f"4batchesof8imagesof{squares}" in captions[0]
    assert "4batchesof8imagesofnoise(--datatakesrealones)" in captions[2]
    rows = [line.split("│")[1:-1] for line in shown[0].splitlines() if line.count("│") == 6]
    assert [row[1].strip() for row in rows] == ["labels", "logits"]
    assert sum(float(row[3]) for row in rows) == pytest.approx(100, abs=0.11)
    licence = next(line for line in shown[0].splitlines() if "licence of timm's weights" in line)
    # The teacher's weights are the user's own.
    assert [cell.strip() for cell in licence.split("│")[2:4]] == ["-", "apache-2.0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["analyze", "{teacher}", "--data", "x", "--images", "3"], "--images 3: give a number of at least 4"),
        (["analyze", "test_vitt", "--data", "x"], "'test_vit'"),
        (["analyze", "test_vit"], "missing: --data"),
        (["rank", "{teacher}", "--data", "x"], "missing: --student.name"),
        (["rank", "{teacher}", "--student", "test_resnett", "--data", "x"], "'test_resnet'"),
        (["inspect", "test_vit", "test_resnet", "--data", "x"], "add --measure"),
    ],
)
def test_refused(arguments: list[str], message: str, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert message in refusal(capsys, *(argument.format(teacher=teacher) for argument in arguments))


def test_missing_matplotlib_is_told_before_anything_is_read(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    capsys.readouterr()
    told = refusal(capsys, "analyze", str(teacher), "--data", "nowhere", "--output", str(tmp_path / "out"))
    assert "pip install 'crossdistill[figures]'" in told and not (tmp_path / "out").exists()
