"""Models without a head, and images without labels, on the command line."""

import json
from pathlib import Path

import pytest

from cli.conftest import STUDENT, refusal, training
from crossdistill.cli import main


@pytest.fixture(scope="module")
def foundation(squares: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a student without a head, which learnt from the ViT on images without labels."""
    folder = tmp_path_factory.mktemp("flat")
    for number, file in enumerate(sorted((squares / "train").rglob("*.png"))):
        (folder / f"{number}.png").write_bytes(file.read_bytes())
    output = folder.parent / "foundation"
    arguments = ["--teacher_weights", str(teacher), *STUDENT, "--method", "foundation", "--image_size", "32"]
    assert main(["distill", *arguments, *training(folder, output, "--held_out", "0.25")]) == 0
    return output


def test_a_run_without_labels_says_what_it_is_judged_by(foundation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "--output", str(foundation), "--resume"]) == 0
    out = capsys.readouterr().out
    assert "cosine to the teacher" in out and "top-1" not in out


def test_probes_of_a_student_and_its_teacher(
    foundation: Path, squares: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    arguments = ["evaluate", str(foundation), "--data", str(squares), "--workers", "0", "--accelerator", "cpu"]
    assert main([*arguments, "--probe", "knn", "linear", "--with_teacher", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result.keys() == {"knn_top1", "linear_top1", "teacher_knn_top1", "teacher_linear_top1", "images"}
    # The ViT was trained to tell these squares apart.
    assert result["teacher_linear_top1"] > 90 and result["teacher_knn_top1"] > 60 and result["images"] == 16
    assert main([*arguments, "--probe", "knn"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["knn_top1", f"{result['knn_top1']:.2f}", "%"]


@pytest.mark.parametrize(
    ("further", "line"),
    [
        ([], "holds a model without a classifier: give one that was trained on classes, or see what it represents"),
        (["--with_teacher"], "--with_teacher is for --probe"),
        (["--probe", "svm"], "--probe"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    further: list[str], line: str, foundation: Path, squares: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in refusal(capsys, "evaluate", str(foundation), "--data", str(squares), *further)


def test_a_teacher_is_of_run_folders_that_had_one(
    foundation: Path, teacher: Path, squares: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probing = ["--data", str(squares), "--probe", "knn", "--with_teacher", "--accelerator", "cpu"]
    file = str(foundation / "student.safetensors")
    assert "is not a run folder" in refusal(capsys, "evaluate", file, *probing)
    assert "had no teacher" in refusal(capsys, "evaluate", str(teacher), *probing)
