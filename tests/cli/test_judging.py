"""`evaluate` and `predict`: what they say of a saved model."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from cli.conftest import COLORS, STUDENT, refusal, write_split
from crossdistill.cli import main


def test_evaluate_agrees_with_the_run(student: Path, squares: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a run folder and of its weights file; `top1` was measured on exactly these weights."""
    top1 = json.loads((student / "summary.json").read_text())["top1"]
    for model in (student, student / "student.safetensors"):
        assert main(["evaluate", str(model), "--data", str(squares), "--accelerator", "cpu", "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["top1"], result["images"]) == (top1, 16)
        # Only four classes.
        assert "top5" not in result
    assert main(["evaluate", str(student), "--data", str(squares), "--accelerator", "cpu", "--workers", "0"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["top1", f"{top1:.2f}", "%"] in rows
    assert ["images", "16"] in rows


@pytest.mark.parametrize("split", ["val", "test", "."])
def test_evaluate_needs_a_test_set_only(
    split: str, teacher: Path, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_split(tmp_path / split, 4)
    arguments = ["evaluate", str(teacher), "--accelerator", "cpu", "--workers", "0", "--json", "--data"]
    results = []
    for folder in (squares, tmp_path):
        assert main([*arguments, str(folder)]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[0]["top1"] == results[1]["top1"] and results[1]["images"] == 16


def test_evaluate_does_not_look_at_training_images(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_split(tmp_path / "train", 1)
    write_split(tmp_path / "val", 1)
    (tmp_path / "train" / "red" / "0.png").write_bytes(b"no image")
    arguments = ["evaluate", str(teacher), "--data", str(tmp_path), "--accelerator", "cpu", "--workers", "0"]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 4
    (tmp_path / "val" / "red" / "0.png").write_bytes(b"no image")
    assert "0.png cannot be decoded" in refusal(capsys, *arguments)


def test_the_path_of_a_function_in_place_of_a_folder(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The function stands beside where the command is called, as a user's own would."""
    (tmp_path / "my_squares.py").write_text(
        "from torchvision.datasets import ImageFolder\n"
        f"def both(): return tuple(ImageFolder({str(squares)!r} + split) for split in ('/train', '/val'))\n"
        "def test_only(): return both()[1]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    arguments = ["--epochs", "2", "--batch_size", "8", "--workers", "1", "--cache_images", "false"]
    arguments += ["--accelerator", "cpu", "--image_size", "32"]
    assert main(["train", *STUDENT, "--data", "my_squares.both", "--output", "run", *arguments]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["train_images"], summary["validation_images"]) == (32, 16)
    capsys.readouterr()
    for data in ("my_squares.both", "my_squares.test_only", str(squares)):
        assert main(["evaluate", "run", "--data", data, "--accelerator", "cpu", "--workers", "1", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["top1"] == summary["top1"]
    assert "train, validation, classes" in refusal(
        capsys, "train", *STUDENT, "--data", "my_squares.test_only", "--output", "other", *arguments
    )


def test_evaluate_on_corrupted_images(student: Path, squares: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(student), "--data", str(squares), "--accelerator", "cpu", "--workers", "0"]
    assert main([*arguments, "--corruptions", "--json"]) == 0
    top1 = json.loads(capsys.readouterr().out)["corrupted_top1"]
    assert len(top1) == 8
    # Sixteen images: every accuracy is a multiple of 6.25, and there are five severities.
    assert all(len(row) == 5 and all(value % 6.25 == 0 for value in row) for row in top1.values())
    assert main([*arguments, "--corruptions"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*top1, "mean"))


def test_evaluate_at_another_size(student: Path, squares: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(student), "--data", str(squares), "--accelerator", "cpu", "--workers", "0", "--json"]
    assert main(["evaluate", *arguments, "--image_size", "[32, 48]"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 16


def test_predict(teacher: Path, squares: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(squares / "val" / name / "0.png") for name in ("red", "blue")]
    assert main(["predict", str(teacher), *files, "--accelerator", "cpu", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == files
    assert [line["classes"][0]["name"] for line in lines] == ["red", "blue"]
    for line in lines:
        probabilities = [entry["probability"] for entry in line["classes"]]
        assert {entry["name"] for entry in line["classes"]} == set(COLORS)
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)


def test_predict_searches_folders(
    teacher: Path, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "more").mkdir()
    for name in ("more/b.PNG", "a.png", "more/a.png"):
        Image.new("RGB", (32, 32), COLORS["red"]).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image, and not meant as one")
    single = str(squares / "val" / "blue" / "0.png")
    arguments = ["predict", str(teacher), single, str(tmp_path), single, "--accelerator", "cpu", "--json"]
    assert main(arguments) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = [str(tmp_path / name) for name in ("a.png", "more/a.png", "more/b.PNG")]
    assert [line["file"] for line in lines] == [single, *found, single]
    assert [line["classes"][0]["name"] for line in lines] == ["blue", "red", "red", "red", "blue"]
    (tmp_path / "empty").mkdir()
    assert "empty holds no image (.jpg" in refusal(capsys, "predict", str(teacher), single, str(tmp_path / "empty"))


def test_predict_skips_what_it_cannot_read(
    teacher: Path, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crossdistill.cli.predict._BATCH", 2)
    good = [str(squares / "val" / name / "0.png") for name in ("red", "blue")]
    (tmp_path / "text.png").write_text("no image")
    bad = [str(tmp_path / "text.png"), str(tmp_path / "absent.png"), str(tmp_path / ("x" * 300))]
    files = [bad[0], bad[1], good[0], bad[2], good[1]]
    assert main(["predict", str(teacher), *files, "--accelerator", "cpu", "--json"]) == 3
    out, err = capsys.readouterr()
    assert [json.loads(line)["file"] for line in out.splitlines()] == good
    told = err.splitlines()[:-1]
    assert len(told) == 3 and all(line.startswith("skipped: ") for line in told)
    assert all(file in line for file, line in zip(bad, told, strict=True))


def test_inference_with_patches(teacher: Path, squares: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    main(["evaluate", str(teacher), "--data", str(squares), "--workers", "0", "--with_patches", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert 0 <= result["top1_with_patches"] <= 100
