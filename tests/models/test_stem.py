"""Lowering the early stride of a CNN."""

import pytest
import timm
import torch
from torch import nn

from crossdistill.errors import UserError
from crossdistill.models import lower_stem_stride, stem_advice, stem_stride, suggested_stem_stride
from crossdistill.staged import StagedModel


def grids(model: nn.Module, image_size: int = 32) -> list[int]:
    return [stage.size[0] for stage in StagedModel(model, image_size=image_size).stages]


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("test_resnet", 1),
        ("test_resnet", 2),
        # Blocks and shortcuts that are strided side by side.
        ("regnetx_002", 1),
        ("test_efficientnet", 1),
        ("mobilenetv3_small_050", 2),
    ],
)
def test_all_stages_grow_by_the_same_factor(name: str, stride: int) -> None:
    model = timm.create_model(name, num_classes=5)
    weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    lower_stem_stride(model, stride, name=name)
    assert grids(model) == [32 // stride // 2**k for k in range(4)]
    # Weights and their names stay, so that a checkpoint of either form loads into the other.
    assert {key: tensor.shape for key, tensor in model.state_dict().items()} == {k: t.shape for k, t in weights.items()}
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())
    staged = StagedModel(model, image_size=32)
    assert staged.exact_segments
    assert staged(torch.rand(2, 3, 32, 32)).logits.shape == (2, 5)


def test_a_stem_that_no_stride_lowers_is_refused() -> None:
    # Pixels rearranged into channels are no strided layer.
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.PixelUnshuffle(2), nn.Conv2d(32, 5, 3, padding=1))
    model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    with pytest.raises(UserError, match="turns grids of 64 into 64"):
        lower_stem_stride(model, 1, stage_ends=["2"])


def test_max_pooling_of_a_resnet_stays_at_2_and_goes_at_1() -> None:
    at_two, at_one = (timm.create_model("resnet10t", num_classes=5) for _ in range(2))
    lower_stem_stride(at_two, 2)
    lower_stem_stride(at_one, 1)
    assert isinstance(at_two.maxpool, nn.MaxPool2d)
    assert isinstance(at_one.maxpool, nn.Identity)


def test_the_own_stride_changes_nothing() -> None:
    model = timm.create_model("test_resnet")
    before = repr(model)
    lower_stem_stride(model, 4)
    assert repr(model) == before


def test_timms_record_of_strides_follows() -> None:
    model = timm.create_model("test_resnet")
    before = [level["reduction"] for level in model.feature_info]
    lower_stem_stride(model, 2)
    assert before == [2, 4, 8, 16, 32]
    assert [level["reduction"] for level in model.feature_info] == [1, 2, 4, 8, 16]


def test_other_modules_with_named_stages() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    lower_stem_stride(model, 1, stage_ends=["2", "3"])
    assert [s.size for s in StagedModel(model, image_size=32, stage_ends=["2", "3"]).stages] == [(32, 32), (16, 16)]


@pytest.mark.parametrize(
    ("name", "stride", "message"),
    [
        ("test_convnext", 2, "patches of 4x4 that do not overlap.*patch_size=2"),
        ("test_vit", 4, "patches of 16x16"),
        ("test_resnet", 3, "has stride 4; choose a smaller one that divides it"),
        ("test_resnet", 8, "has stride 4; choose"),
        ("test_resnet", 0, "has stride 4; choose"),
    ],
)
def test_what_cannot_be_lowered_is_refused_and_left_alone(name: str, stride: int, message: str) -> None:
    model = timm.create_model(name)
    before = repr(model)
    with pytest.raises(UserError, match=message) as refusal:
        lower_stem_stride(model, stride, name=name)
    assert f"--stem_stride {stride}" in str(refusal.value)
    assert name in str(refusal.value)
    assert repr(model) == before


@pytest.mark.parametrize(
    ("name", "image_size", "suggested"),
    [
        ("test_resnet", 16, 1),
        ("test_resnet", 32, 1),
        ("test_resnet", 40, 1),
        ("test_resnet", 48, 1),
        ("test_resnet", 64, 2),
        ("test_resnet", (128, 64), 2),
        ("test_resnet", 96, 2),
        ("test_resnet", 128, 4),
        ("test_efficientnet", 32, 1),
        ("test_efficientnet", 224, 4),
    ],
)
def test_the_suggested_stride_keeps_a_last_grid_of_four(
    name: str, image_size: int | tuple[int, int], suggested: int
) -> None:
    model = timm.create_model(name, num_classes=5)
    used = StagedModel(model, image_size=image_size)
    assert (suggested_stem_stride(used), stem_stride(used)) == (suggested, 4)
    advice = stem_advice(used)
    lower_stem_stride(model, suggested)
    better = StagedModel(model, image_size=image_size)
    assert suggested_stem_stride(better) == suggested and stem_advice(better) == ""
    assert min(better.stages[-1].size) >= 4 or image_size == 16
    size = "x".join(map(str, better.stages[-1].size))
    assert advice.endswith("" if suggested == 4 else f"--stem_stride {suggested} makes it {size}")
    assert (suggested == 4) == (advice == "")


def test_a_stem_that_was_lowered_too_far_is_told_its_own_stride() -> None:
    model = timm.create_model("test_resnet")
    lower_stem_stride(model, 2)
    lower_stem_stride(model, 1)
    advice = "the last grid of test_resnet is 20x20 with a stem of stride 1: --stem_stride 4 makes it 5x5"
    assert stem_advice(StagedModel(model, image_size=160)) == advice


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_mlp_mixer", "poolformerv2_s12", "mobilevit_xxs"])
def test_what_has_no_stem_to_lower_gets_no_suggestion(name: str) -> None:
    if name == "test_mlp_mixer":
        model = timm.create_model("mixer_s32_224", img_size=64, num_classes=5)
    else:
        model = timm.create_model(name, num_classes=5, **({"img_size": 64} if name == "test_vit" else {}))
    staged = StagedModel(model, image_size=64)
    assert suggested_stem_stride(staged) is None and stem_advice(staged) == ""


def test_the_suggestion_for_other_modules_goes_by_their_grids() -> None:
    model = nn.Sequential(*(nn.Conv2d(3 if k == 0 else 8, 8, 3, stride=2, padding=1) for k in range(5)))
    model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)])
    ends = ["1", "2", "3", "4"]
    assert suggested_stem_stride(StagedModel(model, image_size=40, stage_ends=ends)) == 1
    assert suggested_stem_stride(StagedModel(model, image_size=70, stage_ends=ends)) == 2
