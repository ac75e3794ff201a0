"""What a forward returns, and that looking at a model leaves it as it was."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from small_models import BUILDERS, CNNS, KINDS, VIT, built, images_for, shake
from torch import Tensor, nn

from crossdistill.errors import UserError
from crossdistill.staged import StagedModel


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_timms_own(kind: str) -> None:
    model = built(kind)
    images = images_for(model)
    levels = [level["module"] for level in model.model.feature_info]
    with torch.no_grad():
        outputs = model(images)
        final, theirs = model.model.forward_intermediates(
            model.prepare_images(images), indices=[levels.index(s.path) for s in model.stages], output_fmt="NCHW"
        )
        torch.testing.assert_close(outputs.logits, model.model.forward_head(final))
    assert len(outputs.features) == len(model.stages) == len(outputs.prefix)
    for stage, feature, their in zip(model.stages, outputs.features, theirs, strict=True):
        torch.testing.assert_close(feature, their)
        assert feature.shape[1:] == (stage.channels, *stage.size)
    assert outputs.pooled.shape == (2, model.pooled_size)


def test_stage_tables_are_those_of_the_architectures() -> None:
    def table(kind: str) -> list[tuple]:
        return [(s.channels, s.size, s.layout, s.prefix_tokens) for s in built(kind).stages]

    assert table("deit_distilled") == [(32, (4, 4), "NLC", 2)] * 4
    assert table("vit_registers") == [(32, (4, 4), "NLC", 5)] * 4
    assert table("swin") == [(16 * 2**k, (16 // 2**k, 16 // 2**k), "NHWC", 0) for k in range(4)]
    assert table("levit") == [(32, (4, 4), "NLC", 0), (48, (2, 2), "NLC", 0), (64, (1, 1), "NLC", 0)]
    assert table("convnext") == [(c, (16 // 2**k,) * 2, "NCHW", 0) for k, c in enumerate((24, 32, 48, 64))]
    # A stage begins where timm's begins: ConvNeXt's and Swin's with their own downsampling.
    assert [s.entry_size[0] for s in built("convnext").stages] == [16, 16, 8, 4]
    assert [s.entry_channels for s in built("swin").stages] == [16, 16, 32, 64]


@pytest.mark.parametrize("kind", KINDS)
def test_final_is_what_the_own_head_pools(kind: str) -> None:
    model = built(kind)
    images = images_for(model)
    with torch.no_grad():
        outputs = model(images)
        own = model.model.forward_features(model.prepare_images(images))
    if kind == "swin":
        own = own.permute(0, 3, 1, 2)
    elif own.ndim == 3:
        own = own[:, model.stages[-1].prefix_tokens :].transpose(1, 2).unflatten(2, outputs.final.shape[2:])
    torch.testing.assert_close(outputs.final, own)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("resnet", "convolution"), ("vit", "attention"), ("mixer", "mlp"), ("swin", "attention"), ("levit", "attention")],
)
def test_mixing_is_seen_from_what_runs(kind: str, expected: str) -> None:
    assert {stage.mixing for stage in built(kind).stages} == {(expected,)}


def test_mixing_of_hybrids_and_of_mixers_with_as_many_channels_as_positions() -> None:
    from timm.models.mlp_mixer import MlpMixer

    hybrid = StagedModel(timm.create_model("mobilevit_xxs", num_classes=5), image_size=64)
    assert hybrid.stages[0].mixing == ("convolution",)
    assert hybrid.stages[2].mixing == ("attention", "convolution")
    square = StagedModel(MlpMixer(num_classes=5, img_size=32, patch_size=8, num_blocks=4, embed_dim=16))
    assert {stage.mixing for stage in square.stages} == {("mlp",)}
    vit = StagedModel(timm.create_model("vit_tiny_patch16_224", **(VIT | {"embed_dim": 16, "depth": 4})))
    assert {stage.mixing for stage in vit.stages} == {("attention",)}


def test_two_heads_answer_apart_and_are_averaged_in_training_too() -> None:
    model = copy.deepcopy(built("deit_distilled"))
    for mode in (False, True):
        outputs = model.train(mode)(images_for(model))
        assert list(outputs.head_logits) == ["class", "distillation"] == list(model.heads)
        torch.testing.assert_close(outputs.logits, torch.stack(list(outputs.head_logits.values())).mean(0))
    assert not torch.allclose(outputs.head_logits["class"], outputs.head_logits["distillation"])


def test_one_head_is_the_answer() -> None:
    model = built("convnext")
    outputs = model(images_for(model))
    assert torch.equal(outputs.head_logits["class"], outputs.logits)
    classifier = model.model.get_classifier()
    torch.testing.assert_close(classifier(outputs.pooled), outputs.logits)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_a_model_without_a_head_gives_features(name: str) -> None:
    model = StagedModel(timm.create_model(name, num_classes=0)).eval()
    outputs = model(torch.rand(2, 3, *model.image_size))
    assert model.num_classes == 0
    assert model.heads == ()
    assert outputs.logits is None
    assert outputs.head_logits == {}
    assert outputs.pooled.shape == (2, model.pooled_size)
    tail = model.run_from(3, outputs.features[2], outputs.prefix[2])
    torch.testing.assert_close(tail.pooled, outputs.pooled)


def test_images_are_resized_and_normalised_for_the_model() -> None:
    plain = BUILDERS["vit"]().eval()
    model = StagedModel(plain, image_size=32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)).eval()
    images = torch.rand(2, 3, 48, 40)
    small = F.interpolate(images, (32, 32), mode="bilinear", antialias=True)
    small = (small - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    torch.testing.assert_close(model(images).logits, plain(small))


def test_normalisation_and_size_default_to_the_models_own() -> None:
    model = StagedModel(timm.create_model("test_resnet"))
    assert model.image_size == (160, 160)
    assert model.name == "test_resnet"
    torch.testing.assert_close(
        model.mean.flatten().tolist(), list(model.model.pretrained_cfg["mean"]), rtol=1e-6, atol=0
    )
    assert StagedModel(timm.create_model("vit_tiny_patch16_224", **VIT)).image_size == (32, 32)


@pytest.mark.parametrize(("kind", "size"), [("resnet", (32, 32)), ("resnet", (48, 96)), ("convnext", (384, 384))])
def test_cnns_take_any_size(kind: str, size: tuple[int, int]) -> None:
    model = StagedModel(BUILDERS[kind](), image_size=size).eval()
    assert model.exact_segments
    assert model.stages[-1].size == (-(-size[0] // 32), -(-size[1] // 32))
    assert model(torch.rand(1, 3, *size)).logits.shape == (1, 5)


def test_transformers_take_the_size_that_they_were_built_for() -> None:
    wide = timm.create_model("vit_tiny_patch16_224", num_classes=5, **(VIT | {"img_size": (32, 64)}))
    model = StagedModel(wide)
    assert model.image_size == (32, 64)
    assert model.exact_segments
    assert model.stages[0].size == (4, 8)
    with pytest.raises(UserError, match="does not run on images of 48x48 pixels"):
        StagedModel(wide, name="wide", image_size=48)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["resnet", "swin", "levit"])
def test_building_leaves_the_model_alone(kind: str) -> None:
    plain = BUILDERS[kind]().train()
    plain.get_submodule("stem" if kind == "levit" else "").eval()
    modes = [module.training for module in plain.modules()]
    parameters, before, random_state = list(plain.parameters()), _state(plain), torch.get_rng_state()
    StagedModel(plain, image_size=built(kind).image_size)
    assert [module.training for module in plain.modules()] == modes
    assert all(a is b for a, b in zip(parameters, plain.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert tensor.dtype == before[name].dtype, name


def test_a_forward_updates_batch_norm_once() -> None:
    model = copy.deepcopy(built("resnet")).train()
    plain = copy.deepcopy(model.model)
    images = images_for(model)
    model(images)
    plain(model.prepare_images(images))
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(model.model.state_dict()[name], tensor)


def test_nothing_is_kept_after_a_call() -> None:
    model = copy.deepcopy(built("vit"))
    images = images_for(model)
    model(images)
    model.enter(images)
    model.model(images)
    assert model._recorder.values == {}
    with pytest.raises(RuntimeError):
        model(images[:, :1].expand(-1, 4, -1, -1))
    model.model(images)
    assert not model._recorder.recording


def test_a_deep_copy_records_for_itself() -> None:
    model = built("resnet")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.1)
    images = images_for(model)
    before = model(images)
    changed, after = twin(images), model(images)
    assert not torch.allclose(changed.features[0], before.features[0])
    assert torch.equal(after.features[0], before.features[0])


def test_the_state_dict_is_the_models_own() -> None:
    model = built("convnext")
    assert list(model.state_dict()) == [f"model.{name}" for name in model.model.state_dict()]


def test_hooks_are_attached_again_after_modules_were_replaced() -> None:
    model = copy.deepcopy(built("efficientnet"))
    images = images_for(model)
    before = model(images)
    model.model.set_submodule(model._plan.final_path, copy.deepcopy(model.model.get_submodule(model._plan.final_path)))
    model.model.classifier = copy.deepcopy(model.model.classifier)
    model.attach_hooks()
    after = model(images)
    assert torch.equal(after.final, before.final)
    hooks = len(model.model.classifier._forward_hooks)
    model.attach_hooks()
    assert len(model.model.classifier._forward_hooks) == hooks


class Overwriting(nn.Module):
    """Applies an activation in place to what its first stage returned."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.act = nn.Conv2d(3, 8, 4, 4), nn.ReLU(inplace=True)
        self.two, self.fc = nn.Conv2d(8, 8, 2, 2), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.two(self.act(self.one(x))).mean((2, 3)))


def test_a_feature_that_is_overwritten_later_is_kept_as_it_was() -> None:
    model = StagedModel(Overwriting(), image_size=32, stage_ends=["one", "two"])
    images = torch.rand(2, 3, 32, 32)
    outputs = model(images)
    torch.testing.assert_close(outputs.features[0], model.model.one(images))
    assert model.exact_segments
    torch.testing.assert_close(model.run_from(1, outputs.features[0]).logits, outputs.logits)


def test_tokens_in_another_order_are_refused() -> None:
    hiera = timm.create_model("hiera_tiny_224", embed_dim=16, num_heads=1, stages=(1, 1, 1, 1), img_size=(64, 64))
    with pytest.raises(UserError, match="hiera_tiny_224 gives no feature map: its tokens do not lie row by row"):
        StagedModel(hiera, image_size=64)


def test_stage_ends_that_are_missing_or_wrong() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    with pytest.raises(UserError, match="--student_stages"):
        StagedModel(plain, image_size=32)
    with pytest.raises(UserError, match="no module 'layer9'"):
        StagedModel(plain, image_size=32, stage_ends=["0", "layer9"])
    with pytest.raises(UserError, match="one after another as 1, 0"):
        StagedModel(plain, image_size=32, stage_ends=["1", "0"])
    with pytest.raises(UserError, match="its stage '3' returns a tensor of shape"):
        StagedModel(plain, image_size=32, stage_ends=["0", "3"])


@pytest.mark.parametrize("kind", ["resnet", "vit", "efficientnet"])
def test_classes_can_be_selected(kind: str) -> None:
    model = StagedModel(shake(BUILDERS[kind]()), image_size=64 if kind in CNNS else 32).eval()
    images = images_for(model)
    before = model(images).logits
    model.select_classes([4, 0, 2])
    after = model(images)
    torch.testing.assert_close(after.logits, before[:, [4, 0, 2]])
    assert model.num_classes == model.model.num_classes == 3
    torch.testing.assert_close(model.dense_logits(after.final).shape, torch.Size([2, 3, *after.final.shape[2:]]))
    with pytest.raises(UserError, match="no output 3: its outputs are 0 to 2"):
        model.select_classes([0, 3])


def test_classes_of_a_model_without_a_head_cannot_be_selected() -> None:
    model = StagedModel(timm.create_model("test_resnet", num_classes=0))
    with pytest.raises(UserError, match="no linear classifier"):
        model.select_classes([0])


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_without_weight_decay_exist(kind: str) -> None:
    model = built(kind)
    names = {name for name, _ in model.named_parameters()}
    wanted = model.no_weight_decay()
    assert wanted <= names
    assert ("model.pos_embed" in wanted) == (kind.startswith(("vit", "deit", "eva")))
