"""`export` and `predict` together: what was exported answers as the run does."""

import json
from pathlib import Path

import pytest

from cli.conftest import refusal
from crossdistill.cli import main
from export.conftest import make_quick


@pytest.fixture(scope="module")
def exported(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student, exported on the data and beside the teacher that its recipe names."""
    output = tmp_path_factory.mktemp("exports") / "torch"
    with pytest.MonkeyPatch.context() as patch:
        # Processes of their own are tested where they are made.
        make_quick(patch)
        assert main(["export", str(student), "--to", "torch", "--output", str(output), "--max_drop", "0"]) == 0
    return output


def test_the_teacher_is_in_the_card(exported: Path, student: Path) -> None:
    card = json.loads((exported / "card.json").read_text())
    rows = {row["name"]: row for row in card["rows"]}
    assert list(rows) == ["teacher", "student", "torch"]
    summary = json.loads((student / "summary.json").read_text())
    # All sixteen validation images were judged on.
    assert rows["teacher"]["judgement"]["top1"] == pytest.approx(summary["teacher_top1"])
    assert rows["student"]["judgement"]["top1"] == pytest.approx(summary["top1"])
    assert rows["torch"]["judgement"]["teacher_agreement"] == pytest.approx(summary["teacher_agreement"])
    assert card["recipe"]["method"]["name"] == "kd"
    assert all(row["measurement"]["peak_memory_bytes"] > 1e6 for row in rows.values())


def test_predict_of_a_run_and_of_its_export(
    exported: Path, student: Path, squares: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(squares / "val" / name) for name in ("red", "blue")]
    answers = []
    for model in (student, exported / "torch" / "model.pt2"):
        assert main(["predict", str(model), *files, "--accelerator", "cpu", "--json"]) == 0
        answers.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert [line["file"] for line in answers[0]] == [line["file"] for line in answers[1]]
    for one, other in zip(*answers, strict=True):
        assert [c["name"] for c in one["classes"]] == [c["name"] for c in other["classes"]]
        assert [c["probability"] for c in one["classes"]] == pytest.approx(
            [c["probability"] for c in other["classes"]], abs=1e-4
        )
    told = refusal(capsys, "predict", str(exported / "torch" / "model.pt2"), files[0], "--image_size", "64")
    assert told.startswith("--image_size: an exported file has one image size")


def test_the_doctor_needs_no_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from crossdistill.export.doctor import Finding

    found = [Finding("onnx", "not installed", "onnx: pip install 'crossdistill[onnx]'")]
    monkeypatch.setattr("crossdistill.export.doctor.examine", lambda: found)
    assert main(["export", "--doctor"]) == 0
    assert capsys.readouterr().out.split() == [
        "onnx",
        "not",
        "installed",
        "onnx:",
        "pip",
        "install",
        "'crossdistill[onnx]'",
    ]
    assert main(["export", "--doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["backend"] == "onnx"


def test_refusals(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "out")
    assert "missing: model" in refusal(capsys, "export", "--output", output)
    assert "--output is missing" in refusal(capsys, "export", str(student), "--to", "torch")
    assert "there is no weights file" in refusal(capsys, "export", "nowhere", "--to", "torch", "--output", output)
    assert "--max_drop" in refusal(capsys, "export", str(student), "--max_drop", "-1", "--output", output)
    assert "--to" in refusal(capsys, "export", str(student), "--to", "tflite", "--output", output)
    told = refusal(capsys, "export", str(student), "--to", "torch", "--push", "me/x", "--output", output)
    assert told == "--push uploads the timm folder: add timm to --to"
    assert not list(tmp_path.iterdir())
