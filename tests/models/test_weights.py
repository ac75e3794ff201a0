"""Reading and writing model files."""

import argparse
import os
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from crossdistill.errors import UserError
from crossdistill.models import build_model, load_student, load_weights, read_weights, save_model
from crossdistill.options import ModelOptions
from crossdistill.staged import ModelCard, StagedModel

VIT = ModelOptions("test_vit", {"img_size": 32, "patch_size": 8})


@pytest.fixture(scope="module")
def vit() -> StagedModel:
    torch.manual_seed(0)
    return build_model(VIT, num_classes=3).eval()


@pytest.fixture
def saved(vit: StagedModel, tmp_path: Path) -> Path:
    save_model(vit, tmp_path / "student.safetensors", classes=["ant", "bee", "cat"])
    return tmp_path / "student.safetensors"


def same(state: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


def test_a_saved_file_alone_is_enough(vit: StagedModel, saved: Path) -> None:
    loaded = load_student(saved)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images).logits, vit(images).logits)
    assert loaded.name == "test_vit" and loaded.image_size == (32, 32)
    assert loaded.card.classes == ["ant", "bee", "cat"]
    assert loaded.card.kwargs == {"patch_size": 8}
    assert loaded.card.mean == vit.card.mean == pytest.approx((0.5, 0.5, 0.5))
    assert loaded.card.head_trained and loaded.card.weights == str(saved)
    assert not loaded.training


def test_a_run_folder_stands_for_its_student(saved: Path) -> None:
    assert load_student(saved.parent).num_classes == 3


def test_a_saved_model_can_be_saved_again_unchanged(saved: Path, tmp_path: Path) -> None:
    save_model(load_student(saved), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_plain_timm_reads_a_saved_file(vit: StagedModel, saved: Path) -> None:
    model = timm.create_model("test_vit", num_classes=3, img_size=32, patch_size=8, checkpoint_path=saved)
    assert same(model.state_dict(), vit.model.state_dict())


def test_tied_weights_are_saved_under_both_names(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    holder = argparse.Namespace(model=model, card=ModelCard("tied"))
    save_model(holder, tmp_path / "tied.safetensors")  # type: ignore[arg-type]
    assert same(read_weights(tmp_path / "tied.safetensors")[0], model.state_dict())


def test_a_full_disk_leaves_the_older_file_and_no_remains(
    vit: StagedModel, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(vit, saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_card_survives_its_json() -> None:
    card = ModelCard(
        "test_vit", {"patch_size": 8}, 2, ["ant", "bee"], (32, 48), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), 2, "blocks.1"
    )
    assert ModelCard.from_json(card.to_json()) == card


def test_paths_of_this_machine_stay_out_of_files(vit: StagedModel, saved: Path, tmp_path: Path) -> None:
    loaded = load_student(saved)
    save_model(loaded, tmp_path / "other.safetensors")
    assert str(tmp_path).encode() not in (tmp_path / "other.safetensors").read_bytes()


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_state_dicts_are_read_with_any_wrapper(vit: StagedModel, tmp_path: Path, prefix: str) -> None:
    state = vit.model.state_dict()
    torch.save({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "model.pth")
    read, card = read_weights(tmp_path / "model.pth")
    assert same(read, state) and card is None


def test_checkpoints_of_timms_trainer_are_read_and_ema_is_preferred(vit: StagedModel, tmp_path: Path) -> None:
    state = vit.model.state_dict()
    averaged = {name: tensor + 1 for name, tensor in state.items()}
    checkpoint = {
        "epoch": 3,
        "arch": "test_vit",
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "state_dict_ema": averaged,
        "args": argparse.Namespace(model="test_vit", lr=0.1, mean=None),
        "version": 2,
    }
    torch.save(checkpoint, tmp_path / "last.pth.tar")
    assert same(read_weights(tmp_path / "last.pth.tar")[0], averaged)
    del checkpoint["state_dict_ema"]
    torch.save(checkpoint, tmp_path / "last.pth.tar")
    assert same(read_weights(tmp_path / "last.pth.tar")[0], state)


class Malicious:
    ran = False

    def __reduce__(self) -> tuple:
        return setattr, (Malicious, "ran", True)


def test_a_pickle_with_objects_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "surprise": Malicious()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"holds Python objects .*save model.state_dict\(\) alone"):
        read_weights(tmp_path / "evil.pth")
    assert not Malicious.ran


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(UserError, match=r"torch.nn.modules.linear.Linear"):
        read_weights(tmp_path / "module.pth")


@pytest.mark.parametrize("name", ["photo.pth", "photo.safetensors", "empty.pth"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"" if name == "empty.pth" else b"\xff\xd8\xff\xe0 not weights at all")
    with pytest.raises(UserError, match="cannot be read as weights") as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-1000])
    with pytest.raises(UserError, match="may be damaged or incomplete"):
        read_weights(saved)


def test_a_dictionary_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 1, "lr": 0.1}, tmp_path / "log.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        read_weights(tmp_path / "log.pth")


def test_missing_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no weights file"):
        read_weights(tmp_path / "nowhere.safetensors")
    with pytest.raises(UserError, match=r"holds no student.safetensors"):
        read_weights(tmp_path)


def test_a_file_without_a_card_does_not_load_alone(tmp_path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(2)}, tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match="does not say which model it holds"):
        load_student(tmp_path / "bare.safetensors")


def test_the_first_tensor_that_does_not_fit_is_named() -> None:
    model = timm.create_model("test_vit", num_classes=3)
    state = model.state_dict()
    with pytest.raises(UserError, match=r"^mine: the file has no tensor 'patch_embed.proj.bias'"):
        load_weights(model, {n: t for n, t in state.items() if n != "patch_embed.proj.bias"}, description="mine")
    with pytest.raises(UserError, match=r"^mine: the model has no tensor 'extra'"):
        load_weights(model, {**state, "extra": torch.zeros(1)}, description="mine")
    with pytest.raises(UserError, match=r"^mine: 'norm.weight' is \(5,\) in the file and \(64,\) in the model"):
        load_weights(model, {**state, "norm.weight": torch.zeros(5)}, description="mine")


def test_position_tables_of_another_image_size_are_resampled() -> None:
    large, small = timm.create_model("test_vit", img_size=64), timm.create_model("test_vit", img_size=32)
    assert load_weights(small, large.state_dict(), description="mine")
    assert torch.equal(small.blocks[0].mlp.fc1.weight, large.blocks[0].mlp.fc1.weight)
    assert not torch.equal(small.pos_embed, torch.zeros_like(small.pos_embed))


def test_a_classifier_may_be_absent_but_only_whole() -> None:
    model = timm.create_model("test_vit", num_classes=3)
    state = model.state_dict()
    backbone = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    assert load_weights(model, state, description="mine")
    assert not load_weights(model, backbone, description="mine")
    with pytest.raises(UserError, match=r"no tensor 'head.bias'"):
        load_weights(model, {**backbone, "head.weight": state["head.weight"]}, description="mine")
    headless = timm.create_model("test_vit", num_classes=0)
    assert load_weights(headless, state, description="mine")
