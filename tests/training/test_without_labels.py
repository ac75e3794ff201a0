"""Images without labels, and teachers without a head."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY_VIT, metrics, quiet_run, tiny_options
from rich.console import Console
from safetensors.torch import load_file
from test_resume import assert_survives

from crossdistill.distiller import Distiller
from crossdistill.errors import UserError
from crossdistill.methods import load_method
from crossdistill.models import load_student
from crossdistill.options import MethodOptions, ModelOptions, TrainingOptions
from crossdistill.testing import TINY, staged
from crossdistill.training import distill, train
from crossdistill.training.run_folder import RunFolder

# As `vit_small_patch14_dinov2` is: no head, a size of its own.
HEADLESS = ModelOptions("vit_small_patch14_dinov2", {"img_size": 28, "embed_dim": 32, "depth": 4, "num_heads": 2})
FOUNDATION: dict[str, Any] = {"teacher": HEADLESS, "method": MethodOptions("foundation"), "held_out": 0.2}


@pytest.fixture(scope="module")
def run(flat_folder: Path, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of a teacher without a head, on images without labels."""
    output = tmp_path_factory.mktemp("runs") / "foundation"
    quiet_run(tiny_options(flat_folder, output, **FOUNDATION, probe_data=str(image_folder)))
    return output


def test_a_run_without_labels_is_judged_by_the_cosine_to_the_teacher(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["top1"] is None and summary["best_top1"] is None and summary["teacher_top1"] is None
    assert summary["judged_by"] == "teacher_cosine"
    assert (summary["train_images"], summary["validation_images"]) == (48, 12)
    evaluations = [line for line in metrics(run) if line["kind"] == "evaluation"]
    cosines = [line["teacher_cosine"] for line in evaluations]
    assert summary["teacher_cosine"] == cosines[-1] and summary["best"] == max(cosines)
    assert not {"top1", "labels"} & {name for line in metrics(run) for name in line}
    assert all(0 <= line["knn_top1"] <= 100 for line in evaluations)


def test_what_is_judged_is_recorded_image_by_image(run: Path) -> None:
    predictions = RunFolder(run).read_predictions()
    summary = json.loads((run / "summary.json").read_text())
    assert not predictions.labelled and predictions.student.shape == (12, 0) and predictions.classes == []
    assert 100 * predictions.values["teacher_cosine"].mean().item() == pytest.approx(
        summary["teacher_cosine"], rel=1e-5
    )
    assert predictions.values["knn_top1"].shape == (24,)
    assert 100 * predictions.values["knn_top1"].float().mean().item() == pytest.approx(summary["knn_top1"])
    assert len(set(predictions.images)) == 12 and any(name.startswith("more/deep/") for name in predictions.images)


def test_the_cosine_is_that_of_the_projected_and_the_teachers_vectors(flat_folder: Path) -> None:
    """By the formula, from the distiller's own parts."""
    method = load_method("foundation")(staged("cnn", TINY["cnn"]), staged("vit", TINY["vit"])).eval()
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        outputs = method.student(images)
        from crossdistill.data import Batch

        found = method.validation_metrics(Batch(images, None, torch.arange(3)), method.student, outputs)  # type: ignore[arg-type]
        ours, theirs = method.project_pooled(outputs.pooled), method.teacher(images).pooled  # type: ignore
    for i in range(3):
        product = sum(float(a) * float(b) for a, b in zip(ours[i], theirs[i], strict=True))
        expected = product / math.sqrt(sum(float(a) ** 2 for a in ours[i]) * sum(float(b) ** 2 for b in theirs[i]))
        assert found["teacher_cosine"][i].item() == pytest.approx(expected, abs=1e-5)


def test_the_student_has_no_head_and_is_fine_tuned_with_a_new_one(
    run: Path, image_folder: Path, tmp_path: Path
) -> None:
    pretrained = load_student(run)
    assert pretrained.num_classes == 0
    options = TrainingOptions(
        output=str(tmp_path / "tuned"),
        data=str(image_folder),
        student_weights=str(run),
        method=MethodOptions("scratch"),
        max_steps=1,
        learning_rate=0.0,
        batch_size=12,
        accelerator="cpu",
        workers=0,
        optimizer="sgd",
        weight_decay=0.0,
    )
    summary = quiet_run(options)
    assert summary["top1"] is not None
    tuned, before = load_file(tmp_path / "tuned" / "student.safetensors"), load_file(run / "student.safetensors")
    assert {name for name in tuned if name not in before} == {"fc.weight", "fc.bias"}
    # Nothing was learnt at that rate, so what was brought along is still there.
    assert all(
        torch.equal(tuned[name], weight)
        for name, weight in before.items()
        if "running" not in name and "num_batches" not in name
    )


def test_a_teacher_with_a_head_gives_the_student_its_classes(
    image_folder: Path, flat_folder: Path, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    quiet_run(
        tiny_options(
            image_folder,
            teacher,
            teacher=ModelOptions(),
            allow_weak_teacher=False,
            method=MethodOptions("scratch"),
            student=ModelOptions("vit_tiny_patch16_224", TINY_VIT),
        )
    )
    options = tiny_options(flat_folder, tmp_path / "run", teacher=ModelOptions(), teacher_weights=str(teacher))
    summary = quiet_run(options)
    assert summary["judged_by"] == "teacher_agreement" and summary["top1"] is None
    assert summary["teacher_agreement"] == summary["best"] or summary["best"] > summary["teacher_agreement"]
    assert load_student(tmp_path / "run").card.classes == ["blue", "green", "red"]
    predictions = RunFolder(tmp_path / "run").read_predictions()
    assert predictions.teacher is not None and predictions.teacher.shape == predictions.student.shape == (3, 3)
    alike = (predictions.student.argmax(1) == predictions.teacher.argmax(1)).float().mean().item()
    assert summary["teacher_agreement"] == pytest.approx(100 * alike)


def test_a_run_without_labels_survives(
    flat_folder: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = FOUNDATION | {"mixup": 0.2, "probe_data": str(image_folder)}
    assert_survives(4, recipe, flat_folder, tmp_path, monkeypatch)


def test_a_run_that_was_killed_behind_its_last_evaluation_records_the_same(
    flat_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("crossdistill.training.run.summarise", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            quiet_run(tiny_options(flat_folder, output, **FOUNDATION))
    quiet_run(TrainingOptions(output=str(output), resume=True))
    predictions = RunFolder(output).read_predictions()
    summary = json.loads((output / "summary.json").read_text())
    assert 100 * predictions.values["teacher_cosine"].mean().item() == pytest.approx(
        summary["teacher_cosine"], rel=1e-5
    )


@pytest.mark.parametrize("method", ["scratch", "dkd", "kd+ofa"])
def test_a_method_that_needs_labels_is_refused_with_those_that_do_not(
    method: str, flat_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"learns from labels, and .* has none .* needs none: kd, .*, foundation"):
        quiet_run(tiny_options(flat_folder, tmp_path / "run", method=MethodOptions(method)))
    assert not (tmp_path / "run").exists()


def test_a_method_of_ones_own_is_refused_too(flat_folder: Path, tmp_path: Path) -> None:
    method: Distiller = load_method("scratch")(staged("cnn", TINY["cnn"]))
    with pytest.raises(UserError, match="Scratch learns from labels"):
        train(method, str(flat_folder), tiny_options(flat_folder, tmp_path / "run"), Console(quiet=True))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images_per_class": 3}, "--images_per_class 3: .* has no labels"),
        ({"teacher_classes": "classes.json"}, "--teacher_classes maps the classes of the data, and .* has none"),
        ({"method": MethodOptions("kd"), "teacher": HEADLESS}, "KD learns from logits and .* has no head"),
        ({"probe_data": "nowhere"}, "nowhere is neither a folder"),
    ],
)
def test_options_that_want_labels_are_refused(
    changes: dict[str, Any], reason: str, flat_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        distill(tiny_options(flat_folder, tmp_path / "run", **(FOUNDATION | changes)), Console(quiet=True))
    assert not (tmp_path / "run").exists()
