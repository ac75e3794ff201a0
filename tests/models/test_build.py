"""From a name and a weights file to a model."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from crossdistill.errors import UserError
from crossdistill.models import build_model, read_class_map, save_model
from crossdistill.models.create import is_dotted_path
from crossdistill.options import ModelOptions

VIT = ModelOptions("test_vit", {"img_size": 32, "patch_size": 8})
RESNET = ModelOptions("test_resnet")


def tiny_cnn(num_classes: int = 7, width: int = 8) -> nn.Module:
    """A model that is not timm's."""
    stages = [nn.Conv2d(3, width, 3, stride=4, padding=1), nn.Conv2d(width, width, 3, stride=2, padding=1)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


def bare_linear() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def not_a_model() -> dict[str, int]:
    return {}


HERE = tiny_cnn.__module__


def write_state(model: nn.Module, path: Path) -> str:
    safetensors.torch.save_file(model.state_dict(), path)
    return str(path)


def refusal(*arguments: Any, **keywords: Any) -> str:
    with pytest.raises(UserError) as caught:
        build_model(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- names, arguments and sizes ---


def test_a_fresh_model_has_a_card() -> None:
    card = build_model(RESNET, num_classes=5, image_size=(64, 64), class_names=list("abcde")).card
    assert (card.name, card.num_classes, card.image_size, card.classes) == ("test_resnet", 5, (64, 64), list("abcde"))
    assert card.mean == tuple(timm.get_pretrained_cfg("test_resnet").mean)
    assert card.weights == "none" and not card.head_trained


def test_the_image_size_reaches_models_of_fixed_size_and_spares_the_others() -> None:
    vit = build_model(ModelOptions("test_vit"), num_classes=5, image_size=(32, 64))
    assert vit.image_size == (32, 64) and vit.model.pos_embed.shape[1] == 2 * 4 + 1
    assert build_model(RESNET, num_classes=5, image_size=(32, 64)).image_size == (32, 64)


def test_without_a_size_the_models_own_is_taken() -> None:
    assert build_model(ModelOptions("test_vit"), num_classes=5).image_size == (160, 160)
    assert build_model(VIT, num_classes=5).image_size == (32, 32)


def test_two_sizes_that_differ_are_refused() -> None:
    assert "give one of them" in refusal(VIT, num_classes=5, image_size=(64, 64))
    assert build_model(VIT, num_classes=5, image_size=(32, 32)).image_size == (32, 32)


def test_a_size_that_the_model_refuses_is_the_users_to_mend() -> None:
    assert "test_vit" in refusal(ModelOptions("test_vit"), num_classes=5, image_size=(30, 30))


def test_an_unknown_name_gets_the_nearest() -> None:
    message = refusal(ModelOptions("resnet8"), num_classes=5)
    assert message.startswith("unknown model 'resnet8'; did you mean 'resnet") and "crossdistill models" in message
    assert "unknown model 'foo/bar'" in refusal(ModelOptions("foo/bar"), num_classes=5)
    assert "unknown model" in refusal(ModelOptions("no_such_package_here.models.Foo"), num_classes=5)


def test_an_unknown_tag_is_refused() -> None:
    assert "unknown tag of 'resnet18.a1_in'; did you mean 'resnet18.a1_in1k'?" in refusal(
        ModelOptions("resnet18.a1_in"), num_classes=5
    )


@pytest.mark.parametrize(
    ("name", "argument"), [("test_vit", "depht"), ("test_resnet", "img_size"), ("mixer_s16_224", "patch_size")]
)
def test_a_refused_argument_is_named(name: str, argument: str) -> None:
    message = refusal(ModelOptions(name, {argument: 4}), num_classes=5)
    assert f"{name} has no argument '{argument}': leave --student.kwargs.{argument} out" in message


def test_a_value_that_the_constructor_cannot_take_is_refused() -> None:
    message = refusal(ModelOptions("test_vit", {"embed_dim": 7}), num_classes=5, role="teacher")
    assert "test_vit cannot be built with {'embed_dim': 7}" in message


def test_a_missing_name_is_refused() -> None:
    assert "--teacher is missing" in refusal(ModelOptions(), num_classes=5, role="teacher")


def test_a_local_folder_serves_as_a_model(tmp_path: Path) -> None:
    config = {
        "architecture": "test_resnet",
        "num_classes": 4,
        "pretrained_cfg": {"mean": [0.1] * 3, "classifier": "fc"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_state(timm.create_model("test_resnet", num_classes=4), tmp_path / "model.safetensors")
    name = f"local-dir:{tmp_path}"
    model = build_model(ModelOptions(name), weights="pretrained", num_classes=4, image_size=(32, 32))
    assert model.card.head_trained and model.card.mean == (0.1, 0.1, 0.1)
    adapted = build_model(ModelOptions(name), weights="pretrained", num_classes=3, image_size=(32, 32))
    assert adapted.num_classes == 3 and not adapted.card.head_trained
    assert "cannot be built" in refusal(ModelOptions(f"local-dir:{tmp_path}/nowhere"), num_classes=3)


# --- modules that are not timm's ---


def test_a_dotted_path_leads_to_any_callable() -> None:
    model = build_model(
        ModelOptions(f"{HERE}.tiny_cnn", {"width": 6}), num_classes=3, image_size=(32, 32), stage_ends="0,1"
    )
    assert [stage.path for stage in model.stages] == ["0", "1"] and model.num_classes == 3
    assert model.card.stage_ends == "0,1" and model.card.mean == (0.0, 0.0, 0.0)


def test_a_saved_dotted_model_comes_back(tmp_path: Path) -> None:
    options = ModelOptions(f"{HERE}.tiny_cnn", {"width": 6})
    model = build_model(options, num_classes=3, image_size=(32, 32), stage_ends="0,1")
    save_model(model, tmp_path / "model.safetensors")
    loaded = build_model(ModelOptions(), weights=str(tmp_path / "model.safetensors"), num_classes=3)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images).logits, model(images).logits)
    assert [stage.path for stage in loaded.stages] == ["0", "1"] and loaded.card.head_trained


def test_torchvisions_models_take_the_number_of_classes() -> None:
    options = ModelOptions("torchvision.models.mobilenet_v3_small", {"width_mult": 0.25})
    model = build_model(options, num_classes=3, image_size=(64, 64), stage_ends="features.3,features.8")
    assert model.num_classes == 3


def test_a_dotted_class_of_fixed_size_is_built_for_the_images() -> None:
    options = ModelOptions("timm.models.mlp_mixer.MlpMixer", {"patch_size": 8, "num_blocks": 2, "embed_dim": 16})
    model = build_model(options, num_classes=3, image_size=(32, 32))
    assert model.stages[-1].size == (4, 4)


def test_dotted_paths_that_lead_nowhere_are_refused() -> None:
    assert "cannot import 'torchvision.models.resnet8'" in refusal(
        ModelOptions("torchvision.models.resnet8"), num_classes=3
    )
    assert "returns a dict" in refusal(ModelOptions(f"{HERE}.not_a_model"), num_classes=3)
    assert "refuses its arguments {'depth': 3" in refusal(
        ModelOptions(f"{HERE}.tiny_cnn", {"depth": 3}), num_classes=3, image_size=(32, 32), stage_ends="0"
    )


def test_a_callable_with_other_classes_than_the_data_is_refused() -> None:
    message = refusal(ModelOptions(f"{HERE}.bare_linear"), num_classes=3, image_size=(32, 32), stage_ends="0")
    assert "has 5 classes, the data has 3" in message


def test_pretrained_says_that_the_callable_returns_trained_weights() -> None:
    options = ModelOptions(f"{HERE}.bare_linear")
    model = build_model(options, weights="pretrained", num_classes=5, image_size=(32, 32), stage_ends="0")
    assert model.card.head_trained


def test_timm_names_with_a_tag_are_no_dotted_paths() -> None:
    assert not is_dotted_path("resnet18.a1_in1k") and not is_dotted_path("resnet18")
    assert is_dotted_path("torchvision.models.resnet18") and not is_dotted_path("hf-hub:timm/resnet18.a1_in1k")


# --- weights ---


def test_a_state_dict_needs_a_name_and_then_knows_its_classes(tmp_path: Path) -> None:
    weights = write_state(timm.create_model("test_resnet", num_classes=4), tmp_path / "model.safetensors")
    model = build_model(RESNET, weights=weights, num_classes=None, image_size=(32, 32))
    assert model.num_classes == 4 and model.card.head_trained and model.card.weights == weights
    assert "does not say which model it holds: name it with --teacher" in refusal(
        ModelOptions(), weights=weights, num_classes=4, role="teacher"
    )


def test_weights_with_other_classes_than_the_data_are_refused(tmp_path: Path) -> None:
    weights = write_state(timm.create_model("test_resnet", num_classes=4), tmp_path / "model.safetensors")
    message = refusal(RESNET, weights=weights, num_classes=3, image_size=(32, 32), role="teacher")
    assert "has 4 classes, the data has 3: map them with --teacher_classes FILE" in message
    assert "has 4 classes, the data has 3" in refusal(RESNET, weights=weights, num_classes=3, image_size=(32, 32))


def test_weights_of_another_model_name_the_first_difference(tmp_path: Path) -> None:
    weights = write_state(timm.create_model("test_resnet", num_classes=4), tmp_path / "model.safetensors")
    message = refusal(ModelOptions("test_convnext"), weights=weights, num_classes=4, image_size=(32, 32))
    assert message.startswith(f"'{weights}' does not fit test_convnext: ")


def test_a_misspelt_kind_of_weights_is_refused() -> None:
    assert "--teacher_weights 'pretraned' is neither 'none' nor 'pretrained' nor an existing file" in refusal(
        RESNET, weights="pretraned", num_classes=4, role="teacher"
    )


def test_weights_without_classifier_make_a_headless_teacher_and_a_student_with_a_new_head(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    safetensors.torch.save_file(state, tmp_path / "backbone.safetensors")
    options: dict[str, Any] = {"weights": str(tmp_path / "backbone.safetensors"), "image_size": (32, 32)}
    assert build_model(RESNET, num_classes=3, role="teacher", **options).num_classes == 0
    student = build_model(RESNET, num_classes=3, role="student", **options)
    assert student.num_classes == 3 and not student.card.head_trained


def test_a_student_of_other_classes_gets_a_new_head_on_request(tmp_path: Path) -> None:
    trained = build_model(RESNET, num_classes=4, class_names=list("abcd"), image_size=(32, 32))
    save_model(trained, tmp_path / "student.safetensors", classes=list("abcd"))
    weights = str(tmp_path / "student.safetensors")
    message = refusal(ModelOptions(), weights=weights, num_classes=3)
    assert "has 4 classes, the data has 3: give weights for these classes, or --student_new_head true, to" in message
    student = build_model(ModelOptions(), weights=weights, num_classes=3, new_head=True)
    assert student.num_classes == 3 and not student.card.head_trained and student.card.classes is None
    old, new = trained.model.state_dict(), student.model.state_dict()
    differing = {name for name in old if old[name].shape != new[name].shape or not torch.equal(old[name], new[name])}
    assert differing == {"fc.weight", "fc.bias"}
    # With as many classes, which may be others, too.
    again = build_model(ModelOptions(), weights=weights, num_classes=4, new_head=True)
    new = again.model.state_dict()
    assert {name for name in old if not torch.equal(old[name], new[name])} == {"fc.weight", "fc.bias"}
    assert "--student_new_head is for weights from a file" in refusal(
        RESNET, weights="none", num_classes=3, new_head=True
    )


def test_the_classes_of_a_model_with_two_heads_are_known(tmp_path: Path) -> None:
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2}
    options = ModelOptions("deit_tiny_distilled_patch16_224", small)
    weights = write_state(timm.create_model(options.name, num_classes=4, **small), tmp_path / "deit.safetensors")
    teacher = build_model(options, weights=weights, num_classes=4, role="teacher")
    assert teacher.num_classes == 4 and teacher.heads == ("class", "distillation") and teacher.card.head_trained


def test_a_head_can_be_left_out_on_purpose(tmp_path: Path) -> None:
    weights = write_state(timm.create_model("test_resnet", num_classes=4), tmp_path / "model.safetensors")
    options = ModelOptions("test_resnet", {"num_classes": 0})
    teacher = build_model(options, weights=weights, num_classes=3, image_size=(32, 32), role="teacher")
    assert teacher.num_classes == 0


def test_weights_that_cannot_be_downloaded_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: Any, **keywords: Any) -> None:
        raise OSError("no route to host\nsecond line")

    monkeypatch.setattr("crossdistill.models.create.check_hub", lambda *arguments, **keywords: None)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    message = refusal(RESNET, weights="pretrained", num_classes=3, role="teacher")
    assert "cannot download the pretrained weights of test_resnet: give --teacher_weights FILE" in message


# --- our own files ---


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ours") / "vit.safetensors"
    save_model(build_model(VIT, num_classes=3, class_names=["ant", "bee", "cat"]), path)
    return str(path)


def test_our_file_needs_no_name_and_takes_the_right_one(ours: str) -> None:
    for name in ("", "test_vit", "test_vit.r160_in1k"):
        model = build_model(ModelOptions(name), weights=ours, num_classes=3, role="teacher")
        assert model.name == "test_vit" and model.image_size == (32, 32) and model.card.classes == ["ant", "bee", "cat"]


def test_what_contradicts_our_file_is_refused(ours: str) -> None:
    assert "--teacher test_resnet contradicts" in refusal(RESNET, weights=ours, num_classes=3, role="teacher")
    message = refusal(ModelOptions("", {"patch_size": 4}), weights=ours, num_classes=3)
    assert "--student.kwargs.patch_size=4 contradicts" in message and "made with 8" in message


def test_our_file_may_be_used_at_another_size(ours: str) -> None:
    assert build_model(ModelOptions(), weights=ours, num_classes=3, image_size=(64, 64)).image_size == (64, 64)
    assert build_model(ModelOptions("", {"img_size": 16}), weights=ours, num_classes=3).image_size == (16, 16)


def test_a_lowered_stem_comes_back_from_the_file(tmp_path: Path) -> None:
    options = ModelOptions("test_resnet")
    model = build_model(options, num_classes=3, image_size=(32, 32), stem_stride=1)
    plain = build_model(options, num_classes=3, image_size=(32, 32))
    assert model.stages[0].size[0] > plain.stages[0].size[0]
    save_model(model, tmp_path / "model.safetensors")
    loaded = build_model(ModelOptions(), weights=str(tmp_path / "model.safetensors"), num_classes=3)
    assert loaded.stages == model.stages and loaded.card.stem_stride == 1
    message = refusal(ModelOptions(), weights=str(tmp_path / "model.safetensors"), num_classes=3, stem_stride=2)
    assert "--stem_stride 2 contradicts the weights, made with 1" in message


# --- the class map ---


def test_a_class_map_keeps_the_named_outputs_in_the_datas_order(tmp_path: Path) -> None:
    source = timm.create_model("test_resnet", num_classes=6).eval()
    weights = write_state(source, tmp_path / "model.safetensors")
    (tmp_path / "map.txt").write_text("ankle boot 4\n\nant 1\n  zebra 0 \n")
    names = ["ant", "zebra", "ankle boot"]
    teacher = build_model(
        RESNET,
        weights=weights,
        num_classes=3,
        image_size=(32, 32),
        role="teacher",
        classes_file=str(tmp_path / "map.txt"),
        class_names=names,
    ).eval()
    assert teacher.card.num_classes == teacher.num_classes == 3 and teacher.card.classes == names
    images = torch.rand(2, 3, 32, 32)
    expected = source((images - teacher.mean) / teacher.std)[:, [1, 0, 4]]
    torch.testing.assert_close(teacher(images).logits, expected)
    save_model(teacher, tmp_path / "selected.safetensors")
    again = build_model(ModelOptions(), weights=str(tmp_path / "selected.safetensors"), num_classes=3)
    torch.testing.assert_close(again.eval()(images).logits, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ant 0\nbee 1", "1 classes of the data are left out, the first is 'big cat'"),
        ("ant 0\nbeee 1", "line 2: the data has no class 'beee'; did you mean 'bee'?"),
        ("ant 0\nant 1", "line 2: class 'ant' is given twice"),
        ("ant 0\nbee 9", "line 2: output 9 does not exist, the model has 5"),
        ("ant", "line 1: 'ant' is not a class name and the index of an output"),
        ("ant -1", "line 1: 'ant -1' is not a class name and the index of an output"),
    ],
)
def test_an_imperfect_class_map_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "map.txt").write_text(text)
    with pytest.raises(UserError) as caught:
        read_class_map(tmp_path / "map.txt", ["ant", "bee", "big cat"], outputs=5)
    assert message in str(caught.value)


def test_a_missing_class_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the class map"):
        read_class_map(tmp_path / "nowhere.txt", ["ant"], outputs=5)


def test_every_argument_of_build_model_is_documented() -> None:
    documentation = inspect.getdoc(build_model) or ""
    assert all(f"\n    {name}: " in documentation for name in inspect.signature(build_model).parameters)
