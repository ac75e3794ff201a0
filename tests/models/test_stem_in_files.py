"""A lowered stem in weights files: refused by plain timm, read by us."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from crossdistill.errors import UserError
from crossdistill.models import (
    build_model,
    load_student,
    load_weights,
    lower_stem_stride,
    read_weights,
    save_model,
)
from crossdistill.options import ModelOptions
from crossdistill.staged import StagedModel


def tiny_cnn() -> nn.Module:
    """A model that is not timm's."""
    stages = [nn.Conv2d(3, 8, 5, stride=4, padding=2), nn.Conv2d(8, 8, 3, stride=2, padding=1)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def logits(model: StagedModel) -> torch.Tensor:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return model.eval()(images).logits


def written(model: StagedModel, folder: Path) -> Path:
    save_model(model, folder / "model.safetensors")
    return folder / "model.safetensors"


def lowered_file(tmp_path: Path) -> Path:
    model = build_model(ModelOptions("test_resnet"), num_classes=3, image_size=(32, 32), stem_stride=1)
    return written(model, tmp_path)


def test_plain_timm_refuses_a_file_whose_stem_was_lowered(tmp_path: Path) -> None:
    file = lowered_file(tmp_path)
    module = timm.create_model("test_resnet", num_classes=3)
    with pytest.raises(RuntimeError, match='Unexpected key.*"crossdistill_stem_stride"'):
        timm.models.load_checkpoint(module, str(file))
    with pytest.raises(RuntimeError, match='Unexpected key.*"crossdistill_stem_stride"'):
        module.load_state_dict(timm.models.load_state_dict(str(file)))
    with pytest.raises(RuntimeError, match="crossdistill_stem_stride"):
        timm.create_model("test_resnet", num_classes=3, checkpoint_path=file)


def test_a_file_without_the_tensor_is_read_as_before(tmp_path: Path) -> None:
    file = lowered_file(tmp_path)
    expected = logits(load_student(file))
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    state = load_file(file)
    assert int(state.pop("crossdistill_stem_stride")) == 1
    save_file(state, tmp_path / "old.safetensors", metadata)
    old = load_student(tmp_path / "old.safetensors")
    assert old.card.stem_stride == 1 and torch.equal(logits(old), expected)


def test_the_tensor_tells_where_the_card_is_lost(tmp_path: Path) -> None:
    file = lowered_file(tmp_path)
    torch.save(read_weights(file)[0], tmp_path / "bare.pth")
    options = ModelOptions("test_resnet")
    model = build_model(options, weights=str(tmp_path / "bare.pth"), num_classes=3, image_size=(32, 32))
    assert model.card.stem_stride == 1 and torch.equal(logits(model), logits(load_student(file)))
    with pytest.raises(UserError, match="--stem_stride 2 contradicts the weights, made with 1"):
        build_model(options, weights=str(tmp_path / "bare.pth"), num_classes=3, image_size=(32, 32), stem_stride=2)


def test_only_a_lowered_stem_needs_the_tensor(tmp_path: Path) -> None:
    own = build_model(ModelOptions("test_resnet"), num_classes=3, image_size=(32, 32), stem_stride=4)
    assert own.card.stem_stride is None
    assert read_weights(written(own, tmp_path))[0].keys() == own.model.state_dict().keys()
    dotted = build_model(
        ModelOptions(f"{tiny_cnn.__module__}.tiny_cnn"), num_classes=3, image_size=(32, 32), stage_ends="0,1"
    )
    assert read_weights(written(dotted, tmp_path))[0].keys() == dotted.model.state_dict().keys()


def test_weights_of_a_lowered_stem_go_into_one_that_was_lowered_alike(tmp_path: Path) -> None:
    state, _ = read_weights(lowered_file(tmp_path))
    module = timm.create_model("test_resnet", num_classes=3)
    with pytest.raises(UserError, match="^mine: its stem was lowered to stride 1, and that of the model was not"):
        load_weights(module, state, description="mine")
    lower_stem_stride(module, 2)
    with pytest.raises(UserError, match="^mine: its stem was lowered to stride 1, and that of the model to 2"):
        load_weights(module, state, description="mine")
    lower_stem_stride(module, 1)
    assert load_weights(module, state, description="mine")
