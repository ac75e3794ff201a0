"""The commands themselves, in this process, on a data set of a few coloured squares."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from cli.conftest import STUDENT, refusal, training, write_split
from crossdistill.cli import main


def test_distill_leaves_a_run_folder(student: Path, teacher: Path) -> None:
    assert {"recipe.yaml", "metrics.jsonl", "summary.json", "student.safetensors"} <= set(os.listdir(student))
    summary = json.loads((student / "summary.json").read_text())
    assert (summary["method"], summary["teacher"], summary["student"]) == ("kd", "test_vit", "test_resnet")
    assert summary["teacher_top1"] == json.loads((teacher / "summary.json").read_text())["top1"]


def test_inspect_names_and_saved_models(
    teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert main(["inspect", str(teacher), "test_resnet", "--image_size", "32"]) == 0
    out = capsys.readouterr().out
    assert "test_vit" in out and "test_resnet" in out
    for method in ("scratch", "kd", "ofa"):
        row = next(line for line in out.splitlines() if f" {method} " in line)
        assert " yes " in row
    models = ["test_resnet", "test_vit", "--student.kwargs.img_size=32", "--num_classes", "7", "--methods", "kd"]
    assert main(["inspect", *models]) == 0
    out = capsys.readouterr().out
    assert " 7 " in out and "32x32" in out


@pytest.mark.parametrize("flag", [["--time"], ["--time", "true"]])
def test_inspect_says_how_long_an_epoch_takes_with_the_student_alone_first(
    flag: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["test_vit", "test_resnet", "--teacher.kwargs.patch_size=8", "--image_size", "32", "--num_classes", "3"]
    steps = ["--methods", "kd", "--batch_size", "2", "--train_images", "20", "--accelerator", "cpu"]
    assert main(["inspect", *models, *steps, *flag]) == 0
    out = capsys.readouterr().out
    rows = [line.split()[1] for line in out.splitlines() if " ms " in line or " s " in line]
    assert rows == ["scratch", "kd"]
    # What stands below a table is as wide as the table, and so are its numbers.
    assert "the same for 20 images (--train_images)" in " ".join(out.split())


def test_resume_of_a_finished_run_changes_nothing(student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (student / "student.safetensors").read_bytes()
    assert main(["distill", "--output", str(student), "--resume"]) == 0
    assert (student / "student.safetensors").read_bytes() == before


def state_dict_of(**kwargs: object) -> dict[str, torch.Tensor]:
    import timm

    return timm.create_model("test_resnet", **kwargs).state_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--student", "resnet18z"], "'resnet18'"),
        (["--student", "test_resnet", "--student.kwargs.dorp_rate=0.1"], "dorp_rate"),
        (["--student", "test_vit", "--image_size", "33"], "33"),
        ([*STUDENT, "--teacher", "test_vitt"], "'test_vit'"),
        ([*STUDENT, "--method", "kdd"], "'kd'"),
        ([*STUDENT, "--method", "kd", "--method.kwargs.temprature=2"], "'temperature'"),
        ([*STUDENT, "--method", "kd", "--method.kwargs.temperature=hot"], "temperature"),
        ([*STUDENT, "--method", "kd", "--teacher_weights", "none"], "--teacher"),
        ([*STUDENT, "--teacher", "test_vit", "--teacher.kwargs.img_size=32"], "--teacher_weights"),
        ([*STUDENT, "--student_weights", "nowhere.pt"], "nowhere.pt"),
        ([*STUDENT, "--data", "nowhere"], "nowhere"),
        ([*STUDENT, "--batch_size", "64"], "64"),
        ([*STUDENT, "--optimizer", "adamm"], "adamm"),
        ([*STUDENT, "--epochs", "0"], "--epochs"),
        (["--student", ""], "--student"),
        ([*STUDENT, "--teacher_weights", "{teacher}", "--method", "kd", "--teacher.kwargs.num_classes=0"], "head"),
        ([*STUDENT, "--teacher_weights", "{teacher}", "--method", "ofa", "--teacher.kwargs.num_classes=0"], "head"),
    ],
)
def test_refused_before_anything_is_written(
    arguments: list[str],
    message: str,
    squares: Path,
    teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [argument.format(teacher=teacher) for argument in arguments]
    scratch = (
        [] if any(argument.startswith(("--method", "--teacher")) for argument in arguments) else ["--method", "scratch"]
    )
    capsys.readouterr()
    output = tmp_path / "run"
    assert message in refusal(capsys, "distill", *training(squares, output), *scratch, *arguments)
    assert not output.exists()


@pytest.mark.parametrize("kind", ["other_shape", "other_classes", "pickle", "damaged"])
def test_refused_weights(kind: str, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "weights.pt"
    if kind == "other_shape":
        torch.save(state_dict_of(num_classes=4, stem_width=48), file)
    elif kind == "other_classes":
        torch.save(state_dict_of(num_classes=7), file)
    elif kind == "pickle":
        torch.save({"state_dict": state_dict_of(num_classes=4), "when": Path("today")}, file)
    else:
        file.write_bytes(b"nothing that can be read")
    arguments = ["--teacher", "test_resnet", "--teacher_weights", str(file), "--student", "test_vit"]
    output = tmp_path / "run"
    message = refusal(capsys, "distill", *arguments, "--image_size", "32", *training(squares, output))
    expected = {"other_shape": "does not fit", "other_classes": "7", "pickle": "pickle", "damaged": str(file)}[kind]
    assert expected in message
    assert not output.exists()


def test_refused_data(squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    differing = tmp_path / "differing"
    write_split(differing / "train", 8)
    write_split(differing / "val", 1, ["blue", "green", "grey", "white"])
    broken = tmp_path / "broken"
    write_split(broken / "train", 8)
    write_split(broken / "val", 1)
    (broken / "train" / "red" / "3.png").write_bytes(b"no image")
    output = tmp_path / "run"
    for folder, words in ((empty, "train"), (differing, "different classes"), (broken, "3.png")):
        assert words in refusal(capsys, "train", *STUDENT, *training(folder, output))
        assert not output.exists()
    arguments = training(broken, output, "--on_bad_image", "skip", "--image_size", "32", "--max_steps", "1")
    assert main(["train", *STUDENT, *arguments]) == 0
    assert json.loads((output / "summary.json").read_text())["skipped_images"] == 1


def test_a_weak_teacher_is_refused_unless_insisted_on(
    squares: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained = tmp_path / "untrained"
    arguments = training(squares, untrained, "--image_size", "32", "--max_steps", "1", "--learning_rate", "0")
    assert main(["train", *STUDENT, *arguments]) == 0
    capsys.readouterr()
    output = tmp_path / "run"
    weak = ["distill", "--teacher_weights", str(untrained), *STUDENT, *training(squares, output, "--image_size", "32")]
    assert "--allow_weak_teacher" in refusal(capsys, *weak)
    assert not output.exists()
    assert main([*weak, "--allow_weak_teacher", "--max_steps", "1"]) == 0


def test_refused_output(squares: Path, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in student.iterdir() if path.is_file()}
    assert "another run" in refusal(capsys, "train", *STUDENT, *training(squares, student))
    assert before == {path: path.read_bytes() for path in student.iterdir() if path.is_file()}
    (tmp_path / "file").write_text("in the way")
    assert "file" in refusal(capsys, "train", *STUDENT, *training(squares, tmp_path / "file" / "run"))
    assert "--output" in refusal(capsys, "train", *STUDENT, "--data", str(squares))
    assert "no run" in refusal(capsys, "train", "--resume", "--output", str(tmp_path / "none"))


def test_disk_full_at_a_checkpoint(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first checkpoint (two files) fits, the second does not; the run goes on from the first once there is room."""
    save, saved = torch.save, []

    def save_until_full(state: object, path: Path) -> None:
        if len(saved) >= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saved.append(path)
        save(state, path)

    output = tmp_path / "run"
    arguments = training(squares, output, "--image_size", "32", "--max_steps", "3", "--checkpoint_every", "1")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save_until_full)
        assert "--resume true" in refusal(capsys, "train", *STUDENT, *arguments)
    assert main(["train", "--output", str(output), "--resume"]) == 0
    assert "going on at step 1 of 3" in capsys.readouterr().out
    assert json.loads((output / "summary.json").read_text())["steps"] == 3


def test_disk_full_at_the_student(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    arguments = training(squares, tmp_path / "run", "--image_size", "32", "--max_steps", "2")
    assert "No space left on device" in refusal(capsys, "train", *STUDENT, *arguments)
    assert not (tmp_path / "run" / "student.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nowhere", "--data", "{squares}"], "there is no weights file 'nowhere'"),
        (["evaluate", "{squares}", "--data", "{squares}"], "holds no student.safetensors"),
        (["evaluate", "{teacher}", "--data", "fashion-mini"], "4 classes"),
        (["evaluate", "{teacher}", "--data", "nowhere"], "nowhere"),
        (["evaluate", "{teacher}"], "missing: --data (see: crossdistill evaluate --help)"),
        (["evaluate", "{teacher}", "--data", "x", "--accelerator", "tpu"], "--accelerator"),
        (["evaluate", "{teacher}", "--data", "{squares}", "--image_size", "[1, 2, 3]"], "--image_size"),
        (["evaluate", "{teacher}", "--data", "{squares}", "--image_size", "2"], "--image_size"),
        (["evaluate", "{teacher}", "--data", "x", "--batch_size", "0"], "--batch_size 0: give a number of at least 1"),
        (["evaluate", "{teacher}", "--data", "x", "--workers", "-1"], "--workers -1: give a number of at least 0"),
        (["predict", "{teacher}", "x.jpg", "--top", "0"], "--top 0: give a number of at least 1"),
        (["predict", "{teacher}"], "missing: images (see: crossdistill predict --help)"),
        (["predict", "{teacher}", "nowhere.jpg"], "nowhere.jpg"),
        (["predict", "{teacher}", "{teacher}/summary.json"], "summary.json"),
        (["inspect", "test_vit"], "missing: STUDENT (see: crossdistill inspect --help)"),
        (["inspect", "test_vitt", "test_resnet"], "'test_vit'"),
        (["inspect", "test_vit", "test_resnet", "--methods", "offa"], "'ofa'"),
    ],
)
def test_refused_elsewhere(
    arguments: list[str], message: str, squares: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert message in refusal(capsys, *(argument.format(squares=squares, teacher=teacher) for argument in arguments))


def test_other_class_names_are_refused(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["blue", "green", "grey", "white"]
    write_split(tmp_path / "train", 1, names)
    write_split(tmp_path / "val", 1, names)
    message = refusal(capsys, "evaluate", str(teacher), "--data", str(tmp_path), "--workers", "0")
    assert "class 3 is 'red'" in message and "'white'" in message
