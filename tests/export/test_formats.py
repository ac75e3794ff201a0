"""What each format holds, read by its own program and not by this package."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from crossdistill.errors import UserError
from crossdistill.export.backend import load_backend, open_exported
from crossdistill.export.card import ExportCard
from crossdistill.export.executorch import LARGEST_BATCH, ExecuTorch
from crossdistill.export.onnx import Onnx
from crossdistill.export.openvino import OpenVino
from crossdistill.export.timm_folder import TimmFolder
from crossdistill.models import build_model
from crossdistill.options import ModelOptions
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import TINY
from crossdistill.testing.tiny_models import staged as tiny
from export.conftest import CLASSES, description_of, logits, random_images, written


def test_onnx_in_plain_onnxruntime(exported: tuple[ExportCard, Path], student: StagedModel) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    _, output = exported
    for name in ("model.onnx", "model_int8.onnx"):
        session = onnxruntime.InferenceSession(str(output / "onnx" / name), providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
        assert json.loads(metadata["class_names"]) == CLASSES
        assert f"Normalisation with mean {list(student.card.mean)}" in metadata["input"]
        assert session.get_inputs()[0].shape[1:] == [3, 32, 32]
        images = random_images(3)
        answers = session.run(["logits"], {"images": images})[0]
        tolerance = 1e-5 if name == "model.onnx" else 0.2
        assert np.allclose(answers, logits(student, images), atol=tolerance)


def test_onnx_has_int8_for_convolutional_networks(student: StagedModel, vit: StagedModel) -> None:
    assert Onnx().int8_refusal(student) == ""
    assert "mixed by attention too" in Onnx().int8_refusal(vit)
    assert "mixed by mlp too" in Onnx().int8_refusal(tiny("mlp", TINY["mlp"]))


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    tensor = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [tensor("x", 1, [1])], [tensor("y", 1, [1])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match="does not say what its input is"):
        open_exported(tmp_path / "foreign.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="bad.onnx' cannot be opened by onnx: it may be damaged"):
        open_exported(tmp_path / "bad.onnx")
    with pytest.raises(UserError, match="there is no file"):
        open_exported(tmp_path / "absent.onnx")


def test_timm_opens_its_folder_offline(exported: tuple[ExportCard, Path], student: StagedModel) -> None:
    _, output = exported
    module = timm.create_model(f"local-dir:{output / 'timm'}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(module)
    assert (config["input_size"], config["interpolation"], config["crop_pct"]) == ((3, 32, 32), "bilinear", 1.0)
    images = random_images(3)
    mean, std = (torch.tensor(config[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        answers = module((torch.from_numpy(images) - mean) / std).numpy()
    assert np.allclose(answers, logits(student, images), atol=1e-5)
    assert module.pretrained_cfg.get("label_names", CLASSES) == CLASSES
    assert json.loads((output / "timm" / "config.json").read_text())["label_names"] == CLASSES
    readme = (output / "timm" / "README.md").read_text()
    assert "license: apache-2.0" in readme and "- training images: of my own" in readme
    assert "| onnx int8 |" in readme and ", ".join(CLASSES) in readme


def test_timm_opens_a_transformer_with_arguments_of_its_own(vit: StagedModel, tmp_path: Path) -> None:
    backend = TimmFolder()
    path = written(backend, vit, tmp_path)
    assert np.allclose(backend.open(path).run(random_images(2)), logits(vit, random_images(2)), atol=1e-5)


def test_timm_refuses_what_it_cannot_build() -> None:
    lowered = build_model(ModelOptions("test_resnet"), num_classes=3, image_size=(32, 32), stem_stride=1)
    with pytest.raises(UserError, match="stem of test_resnet was lowered to stride 1.*export it to onnx"):
        TimmFolder().check(lowered, description_of(lowered))
    other = build_model(ModelOptions("crossdistill.testing.tiny_models.tiny_mlp"), num_classes=3, image_size=(32, 32))
    with pytest.raises(UserError, match="tiny_mlp is none of timm's models"):
        TimmFolder().check(other, description_of(other))


def test_openvino(student: StagedModel, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    backend, images = OpenVino(), random_images(5)
    path = written(backend, student, tmp_path)
    model = openvino.Core().read_model(path)
    assert json.loads(model.get_rt_info(["class_names"]).value) == CLASSES
    assert str(model.input("images").partial_shape) == "[?,3,32,32]"
    runtime = open_exported(path)
    for batch in (1, 5):
        assert np.allclose(runtime.run(images[:batch]), logits(student, images[:batch]), atol=1e-4)
    quantized = backend.write_int8(path, student, [image[None] for image in images], description_of(student))
    assert np.allclose(open_exported(quantized).run(images), logits(student, images), atol=0.3)


def test_openvino_smooths_a_transformer(vit: StagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    nncf = pytest.importorskip("nncf")
    asked: dict = {}
    monkeypatch.setattr(nncf, "quantize", lambda model, *_, **settings: (asked.update(settings), model)[1])
    backend = OpenVino()
    path = written(backend, vit, tmp_path)
    backend.write_int8(path, vit, [random_images(1)], description_of(vit))
    assert asked["model_type"] == nncf.ModelType.TRANSFORMER and asked["subset_size"] == 1


def test_executorch(student: StagedModel, tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    backend, images = ExecuTorch(), random_images(LARGEST_BATCH)
    runtime = open_exported(written(backend, student, tmp_path))
    assert runtime.description.classes == CLASSES
    for batch in (5, LARGEST_BATCH, 1):
        assert np.allclose(runtime.run(images[:batch]), logits(student, images[:batch]), atol=1e-4)


def test_an_unknown_backend() -> None:
    with pytest.raises(UserError, match="--to onx: there is no such backend; did you mean 'onnx'"):
        load_backend("onx")
