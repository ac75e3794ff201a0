"""The whole of an export: what is there afterwards, and what is not after a failure."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from crossdistill.errors import UserError
from crossdistill.export.backend import Runtime, open_exported
from crossdistill.export.card import ExportCard, sha256
from crossdistill.export.export import export_student
from crossdistill.export.torch_export import TorchExport
from crossdistill.models import save_model
from crossdistill.staged import StagedModel
from export.conftest import CLASSES, description_of, logits, random_images


def test_the_card_has_every_form(exported: tuple[ExportCard, Path]) -> None:
    card, output = exported
    assert [row.name for row in card.rows] == ["student", "timm", "onnx", "torch", "onnx int8"]
    assert json.loads((output / "card.json").read_text())["classes"] == CLASSES == card.classes
    student = card.row("student").judgement
    for row in card.rows[1:]:
        folder = output / row.path if row.name == "timm" else (output / row.path).parent
        assert row.sha256 and all(sha256(folder / name) == digest for name, digest in row.sha256.items())
        assert row.judgement.images == 24
        assert set(row.measurement.median_ms) == {1, 32}
        assert row.parameters == card.row("student").parameters > 0 and row.macs > 0
        if "int8" not in row.name:
            assert row.judgement.relative_difference < 1e-5
            assert row.judgement.top1 == student.top1 and row.judgement.student_agreement == 100
    assert 0 < card.row("onnx int8").judgement.relative_difference < 0.5
    assert card.row("onnx int8").bytes < 0.5 * card.row("onnx").bytes
    assert card.row("onnx").sha256["model.onnx"] == sha256(output / "onnx" / "model.onnx")
    assert "10 training images, seed 0" in card.calibration
    assert any("no int8 by torch" in note for note in card.notes)


def test_every_form_takes_any_batch_and_says_the_same(exported: tuple[ExportCard, Path], student: StagedModel) -> None:
    card, output = exported
    images = random_images(7)
    expected = logits(student, images)
    for name in ("onnx", "torch"):
        runtime = open_exported(output / card.row(name).path)
        for batch in (1, 2, 7):
            assert np.allclose(runtime.run(images[:batch]), expected[:batch], atol=1e-5), name
        assert runtime.description.classes == CLASSES
        assert "float32 (batch, 3, 32, 32), RGB in [0, 1]" in runtime.description.input


def test_what_differs_leaves_nothing_behind(
    student_file: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime whose answers are not those of the student, as one with a broken operator would give."""
    broken = Runtime(lambda images: np.full((len(images), 3), np.nan, np.float32), "broken 1.0", None)  # type: ignore[arg-type]
    monkeypatch.setattr(TorchExport, "open", lambda *_: broken)
    with pytest.raises(UserError, match=r"torch: top-1 is .* points lost, and --max_drop allows 0.5"):
        export_student(student_file, tmp_path / "a" / "b", to=["torch"], data=str(image_folder))
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_there_is_refused(student_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is there already: choose another folder"):
        export_student(student_file, tmp_path, to=["torch"], data="fashion-mini")
    with pytest.raises(UserError, match="--output is missing"):
        export_student(student_file, "", to=["torch"], data="fashion-mini")


def test_what_is_not_installed_is_told_with_its_command(
    student_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"openvino needs openvino, not installed here: pip install 'crossdistill\[open"
    ):
        export_student(student_file, tmp_path / "out", to=["openvino"], data="fashion-mini")


def test_no_int8_for_any_of_the_formats(
    vit: StagedModel, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    save_model(vit, tmp_path / "vit.safetensors", classes=CLASSES)
    with pytest.raises(UserError, match=r"--int8: no int8 by onnx: .* attention too .*: add openvino to --to"):
        export_student(tmp_path / "vit.safetensors", tmp_path / "out", data=str(image_folder), int8=True)


def test_an_operator_that_a_backend_lacks_is_named(
    student_file: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        try:
            raise NotImplementedError("no function for <OpOverload(op='aten.special_thing', overload='default')>")
        except NotImplementedError as error:
            raise RuntimeError("conversion failed; see the report") from error

    monkeypatch.setattr(TorchExport, "write", refuse)
    with pytest.raises(UserError, match=r"torch cannot express the operator aten.special_thing of test_resnet"):
        export_student(student_file, tmp_path / "out", to=["torch"], data=str(image_folder))
    assert not list(tmp_path.iterdir())


def test_hooks_stay_where_they_are(student: StagedModel, tmp_path: Path) -> None:
    """Recording the graph changes nothing of the student, which still gives its features."""
    images = torch.rand(2, 3, 32, 32)
    before = student(images)
    TorchExport().write(student, description_of(student), tmp_path)
    after = student(images)
    assert all(torch.equal(a, b) for a, b in zip(before.features, after.features, strict=True))
    assert not any(module._forward_hooks for module in student.bare_module().modules())
