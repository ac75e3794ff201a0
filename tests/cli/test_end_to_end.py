"""The commands themselves, in this process, on a data set of a few coloured squares."""

import errno
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from crossdistill.cli import main

COLORS = {"blue": (30, 40, 200), "green": (20, 180, 60), "grey": (120, 120, 120), "red": (200, 30, 40)}


def write_split(folder: Path, images_per_class: int, names: list[str] | None = None) -> None:
    generator = torch.Generator().manual_seed(images_per_class)
    for name in names or COLORS:
        (folder / name).mkdir(parents=True)
        for index in range(images_per_class):
            noise = torch.randint(-20, 20, (3,), generator=generator).tolist()
            color = tuple(c + n for c, n in zip(COLORS.get(name, (0, 0, 0)), noise, strict=True))
            Image.new("RGB", (32, 32), color).save(folder / name / f"{index}.png")


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    write_split(folder / "train", 8)
    write_split(folder / "val", 4)
    return folder


def training(data: Path, output: Path, *further: str) -> list[str]:
    recipe = ["--epochs", "6", "--batch_size", "8", "--learning_rate", "3e-3", "--workers", "0", "--crop", "none"]
    return ["--data", str(data), "--output", str(output), *recipe, "--accelerator", "cpu", *further]


@pytest.fixture(scope="module")
def teacher(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a ViT that tells the squares apart."""
    output = tmp_path_factory.mktemp("runs") / "teacher"
    assert main(["train", "--student", "test_vit", "--student.kwargs.img_size=32", *training(squares, output)]) == 0
    assert json.loads((output / "summary.json").read_text())["top1"] > 90
    return output


@pytest.fixture(scope="module")
def student(squares: Path, teacher: Path) -> Path:
    """The run folder of a CNN that learnt from it, whose weights file alone says what the teacher is."""
    output = teacher.parent / "student"
    arguments = [
        "--teacher_weights",
        str(teacher / "student.safetensors"),
        "--student",
        "test_resnet",
        "--method",
        "kd",
    ]
    assert main(["distill", *arguments, *training(squares, output)]) == 0
    return output


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a command that is refused."""
    code = main(list(arguments))
    err = capsys.readouterr().err
    assert code == 2, err
    assert err.startswith("crossdistill: ")
    assert err.count("\n") == 1
    return err.removeprefix("crossdistill: ").strip()


def test_distill_leaves_a_run_folder(student: Path, teacher: Path) -> None:
    assert {"recipe.yaml", "metrics.jsonl", "summary.json", "student.safetensors"} <= set(os.listdir(student))
    summary = json.loads((student / "summary.json").read_text())
    assert (summary["method"], summary["teacher"], summary["student"]) == ("kd", "test_vit", "test_resnet")
    assert summary["teacher_top1"] == json.loads((teacher / "summary.json").read_text())["top1"]


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
    assert main(["predict", str(teacher), files[0], "--top", "1", "--accelerator", "cpu"]) == 0
    assert capsys.readouterr().out.startswith(f"{files[0]}: red ")


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
    told = err.splitlines()
    assert len(told) == 3 and all(line.startswith("skipped: ") for line in told)
    assert all(file in line for file, line in zip(bad, told, strict=True))


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


def test_resume_of_a_finished_run_changes_nothing(student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (student / "student.safetensors").read_bytes()
    assert main(["distill", "--output", str(student), "--resume"]) == 0
    assert (student / "student.safetensors").read_bytes() == before


def state_dict_of(**kwargs: object) -> dict[str, torch.Tensor]:
    import timm

    return timm.create_model("test_resnet", **kwargs).state_dict()


STUDENT = ["--student", "test_resnet"]


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


def test_inference_with_patches(teacher: Path, squares: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    main(["evaluate", str(teacher), "--data", str(squares), "--workers", "0", "--with_patches", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert 0 <= result["top1_with_patches"] <= 100
