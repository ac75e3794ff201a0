"""Models that were built by hand: their weights files, and what reads them."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from crossdistill.errors import UserError
from crossdistill.models import build_model, load_student, lower_stem_stride, save_model
from crossdistill.models.rebuild import card_to_write
from crossdistill.options import ModelOptions
from crossdistill.staged import StagedModel


def tiny_cnn(num_classes: int = 3, stride: int = 2) -> nn.Module:
    """A model that is not timm's."""
    stages = [nn.Conv2d(3, 8, 5, stride=4, padding=2), nn.Conv2d(8, 8, 3, stride=stride, padding=1)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))


HERE = tiny_cnn.__module__
ENDS = ["0", "1"]


def logits(model: StagedModel) -> torch.Tensor:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return model.eval()(images).logits


def written(model: StagedModel, folder: Path) -> Path:
    save_model(model, folder / "model.safetensors", classes=["ant", "bee", "cat"])
    return folder / "model.safetensors"


def test_a_timm_model_that_its_name_builds_again_is_read_from_its_file_alone(tmp_path: Path) -> None:
    module = timm.create_model("test_resnet", num_classes=3, drop_path_rate=0.1)
    model = StagedModel(module, name="my CNN", image_size=(32, 48), mean=[0.1, 0.2, 0.3], stage_proportion=(1, 1))
    loaded = load_student(written(model, tmp_path))
    assert torch.equal(logits(loaded), logits(model))
    assert (loaded.card.name, loaded.card.classes) == ("test_resnet", ["ant", "bee", "cat"])
    assert (loaded.image_size, loaded.card.mean) == ((32, 48), (0.1, 0.2, 0.3)) and not loaded.card.needs_module
    assert loaded.stages == model.stages


def test_a_model_of_fixed_size_is_built_again_for_its_size(tmp_path: Path) -> None:
    model = StagedModel(timm.create_model("test_vit", num_classes=3, img_size=32))
    loaded = load_student(written(model, tmp_path))
    assert loaded.image_size == (32, 32) and torch.equal(logits(loaded), logits(model))


def test_another_proportion_of_stages_comes_back(tmp_path: Path) -> None:
    model = StagedModel(timm.create_model("test_vit", num_classes=3, img_size=32), stage_proportion=(1, 1))
    assert len(model.stages) == 2
    assert load_student(written(model, tmp_path)).stages == model.stages


def test_a_stem_lowered_by_hand_comes_back(tmp_path: Path) -> None:
    module = timm.create_model("test_resnet", num_classes=3)
    lower_stem_stride(module, 2)
    model = StagedModel(module, image_size=32)
    loaded = load_student(written(model, tmp_path))
    assert loaded.stages == model.stages and torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("test_vit", {"img_size": 32, "patch_size": 8}),
        # Of the same shapes: nothing but the answers would differ.
        ("test_resnet", {"act_layer": "gelu"}),
        ("test_resnet", {"output_stride": 16}),
        ("test_vit", {"img_size": 32, "global_pool": "max", "fc_norm": False}),
    ],
)
def test_other_arguments_are_noticed_and_the_file_asks_for_the_module(
    name: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    def build() -> nn.Module:
        return timm.create_model(name, num_classes=3, **arguments)

    model = StagedModel(build(), image_size=32)
    file = written(model, tmp_path)
    with pytest.raises(UserError, match=f"holds the weights of {name}, which was built by hand") as refusal:
        load_student(file)
    assert "\n" not in str(refusal.value)
    loaded = load_student(file, module=build())
    assert torch.equal(logits(loaded), logits(model)) and not loaded.training
    assert loaded.card.needs_module and loaded.card.classes == ["ant", "bee", "cat"]
    # Whoever names it, with its arguments, needs no module.
    named = build_model(ModelOptions(name, arguments), weights=str(file), num_classes=3, image_size=(32, 32))
    assert torch.equal(logits(named), logits(model)) and not named.card.needs_module


def test_a_module_of_nobody_is_written_and_read_with_the_module(tmp_path: Path) -> None:
    model = StagedModel(tiny_cnn(), image_size=32, stage_ends=ENDS, std=[0.5] * 3)
    file = written(model, tmp_path)
    with pytest.raises(UserError, match="holds the weights of Sequential.*give crossdistill.load_student the module"):
        load_student(file)
    loaded = load_student(file, module=tiny_cnn())
    assert torch.equal(logits(loaded), logits(model)) and loaded.stages == model.stages
    with pytest.raises(UserError, match=r"does not fit Sequential: '4.weight' is \(3, 8\) in the file"):
        load_student(file, module=tiny_cnn(4))


def test_a_lowered_stem_is_lowered_in_the_module_that_is_brought(tmp_path: Path) -> None:
    module = tiny_cnn()
    lower_stem_stride(module, 1, stage_ends=ENDS)
    model = StagedModel(module, image_size=32, stage_ends=ENDS)
    loaded = load_student(written(model, tmp_path), module=tiny_cnn())
    assert loaded.stages == model.stages and torch.equal(logits(loaded), logits(model))


def test_a_dotted_path_that_builds_the_module_is_written(tmp_path: Path) -> None:
    path = f"{HERE}.tiny_cnn"
    model = StagedModel(tiny_cnn(), name=path, image_size=32, stage_ends=ENDS)
    assert torch.equal(logits(load_student(written(model, tmp_path))), logits(model))
    other = StagedModel(tiny_cnn(stride=1), name=path, image_size=32, stage_ends=ENDS)
    assert card_to_write(other).needs_module


def test_a_name_of_timm_on_another_module_is_not_believed() -> None:
    assert card_to_write(StagedModel(tiny_cnn(), name="resnet18", image_size=32, stage_ends=ENDS)).needs_module


def test_asking_for_the_card_leaves_the_random_numbers_alone() -> None:
    model = StagedModel(timm.create_model("test_resnet"), image_size=32)
    before = torch.get_rng_state()
    card_to_write(model)
    assert torch.equal(before, torch.get_rng_state())


def test_weights_of_other_programs_are_read_into_a_module(tmp_path: Path) -> None:
    module = timm.create_model("test_resnet", num_classes=3)
    torch.save(module.state_dict(), tmp_path / "model.pth")
    loaded = load_student(tmp_path / "model.pth", module=timm.create_model("test_resnet", num_classes=3))
    assert torch.equal(loaded.model.fc.weight, module.fc.weight) and loaded.card.head_trained


def test_chosen_classes_are_on_the_card() -> None:
    model = load_named(["ant", "bee", "cat"])
    model.select_classes([2, 0])
    assert (model.card.num_classes, model.card.classes) == (2, ["cat", "ant"])


def load_named(classes: list[str]) -> StagedModel:
    return build_model(
        ModelOptions("test_resnet", {"num_classes": len(classes)}),
        num_classes=len(classes),
        image_size=(32, 32),
        class_names=classes,
    )


def test_the_plain_module_takes_prepared_images() -> None:
    model = StagedModel(timm.create_model("test_resnet", num_classes=3), image_size=32).eval()
    images = torch.rand(2, 3, 48, 40)
    assert torch.equal(model.model(model.prepare_images(images)), model(images).logits)
