"""Running a model in segments: equal to its own forward, or refused by name."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from small_models import KINDS, VIT, built, images_for, relative_error, shake
from torch import Tensor, nn

from crossdistill.errors import UserError
from crossdistill.staged import StagedModel

LAYERS = ["layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize("kind", KINDS)
def test_segments_equal_the_own_forward(kind: str) -> None:
    model = built(kind)
    assert model.exact_segments, model.segments_refusal
    images = images_for(model)
    with torch.no_grad():
        own = model(images)
        entry = model.enter(images)
        assert entry[0].shape[1:] == (model.stages[0].entry_channels, *model.stages[0].entry_size)
        boundaries = [entry, *zip(own.features, own.prefix, strict=True)]
        for k, (feature, prefix) in enumerate(boundaries):
            tail = model.run_from(k, feature, prefix)
            assert len(tail.features) == len(tail.prefix) == len(model.stages) - k
            for name in ("logits", "final", "pooled"):
                assert relative_error(getattr(tail, name), getattr(own, name)) < 1e-5
            for head in model.heads:
                assert relative_error(tail.head_logits[head], own.head_logits[head]) < 1e-5
            for ran, whole in zip(tail.features, own.features[k:], strict=True):
                assert relative_error(ran, whole) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_stages_can_be_stepped_and_changed_at_every_entry(kind: str) -> None:
    model = built(kind)
    images = images_for(model)
    with torch.no_grad():
        own = model(images)
        for changed in range(len(model.stages)):
            feature, prefix = model.enter(images)
            for k, stage in enumerate(model.stages):
                assert feature.shape[1:] == (stage.entry_channels, *stage.entry_size)
                feature, prefix = model.run_stage(k, feature.flip(0) if k == changed else feature, prefix)
                assert torch.allclose(feature, own.features[k], rtol=1e-4, atol=1e-5) == (k < changed)
            assert not torch.allclose(model.run_head(feature, prefix).logits, own.logits)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_flows_through_a_frozen_tail(kind: str) -> None:
    model = copy.deepcopy(built(kind)).requires_grad_(False)
    stage = model.stages[-1]
    feature = torch.randn(2, stage.entry_channels, *stage.entry_size, requires_grad=True)
    prefix = torch.randn(2, tokens, stage.entry_channels) if (tokens := model.stages[-2].prefix_tokens) else None
    model.run_from(-1 % len(model.stages), feature, prefix).logits.square().sum().backward()
    assert feature.grad.flatten(2).norm(dim=1).gt(0).all(), "every position must get gradient"
    assert all(p.grad is None for p in model.parameters())


def test_prefix_tokens_matter_and_must_be_given() -> None:
    model = built("vit_registers")
    with torch.no_grad():
        outputs = model(images_for(model))
        assert outputs.prefix[2].shape == (2, 5, 32)
        other = model.run_from(3, outputs.features[2], outputs.prefix[2].roll(1, dims=0))
    assert not torch.allclose(other.logits, outputs.logits)
    with pytest.raises(ValueError, match="0 prefix tokens given where the model has 5"):
        model.run_from(3, outputs.features[2])


@pytest.mark.parametrize(
    ("name", "kwargs", "reason"),
    [
        ("cait_xxs24_224", {"img_size": 32, "embed_dim": 32, "depth": 4, "num_heads": 2}, "blocks_token_only.1"),
        ("xcit_nano_12_p16_224", {"img_size": 32, "embed_dim": 32, "depth": 4, "num_heads": 2}, "cls_attn_blocks.0"),
        ("pit_ti_224", {}, "transformers.0"),
    ],
)
def test_models_that_are_no_chain_are_refused_by_name_and_keep_their_features(
    name: str, kwargs: dict, reason: str
) -> None:
    model = StagedModel(timm.create_model(name, num_classes=5, **kwargs)).eval()
    assert not model.exact_segments
    assert reason in model.segments_refusal
    for ask in (
        lambda: model.require_segments("FBT"),
        lambda: model.enter(torch.rand(1, 3, 32, 32)),
        lambda: model.run_stage(0, torch.rand(1, 8, 4, 4)),
        lambda: model.run_head(torch.rand(1, 8, 4, 4)),
    ):
        with pytest.raises(UserError, match=name) as refusal:
            ask()
        assert "\n" not in str(refusal.value)
    outputs = model(torch.rand(2, 3, *model.image_size))
    for stage, feature in zip(model.stages, outputs.features, strict=True):
        assert feature.shape == (2, stage.channels, *stage.size)


class ScaledBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return x + 1e-5 * scale * self.conv(x)


class ScaledByTheImage(nn.Module):
    """Its blocks are given a number beside the tensor: of the image, or the same for all of them."""

    def __init__(self, of_the_image: bool) -> None:
        super().__init__()
        self.of_the_image = of_the_image
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.ModuleList([ScaledBlock(), ScaledBlock()])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        scale = x.mean() if self.of_the_image else torch.full_like(x.mean(), 2.0)
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, scale)
        return self.head(x.mean((2, 3)))


def test_further_arguments_are_replayed_only_if_they_are_the_same_for_every_image() -> None:
    ends = ["blocks.0", "blocks.1"]
    same = StagedModel(shake(ScaledByTheImage(of_the_image=False)), stage_ends=ends, image_size=32).eval()
    assert same.exact_segments
    other = StagedModel(shake(ScaledByTheImage(of_the_image=True)), stage_ends=ends, image_size=32)
    assert "differs from its own forward" in other.segments_refusal


def test_further_arguments_that_are_learnt_are_refused() -> None:
    # Rotary frequencies that are parameters: what was kept of them would be stale after a step.
    mixed = timm.create_model("vit_small_patch16_rope_mixed_224", num_classes=5, **(VIT | {"depth": 4}))
    assert "is learnt" in StagedModel(mixed, image_size=32).segments_refusal


def test_a_forward_of_inference_mode_leaves_nothing_behind() -> None:
    model = copy.deepcopy(built("dinov3"))
    images = images_for(model)
    with torch.inference_mode():
        model(images)
    feature, prefix = model.enter(images)
    model.run_from(0, feature.detach().requires_grad_(), prefix).logits.sum().backward()


def test_further_arguments_are_known_without_a_forward_and_follow_the_model() -> None:
    model = copy.deepcopy(built("eva"))
    images = images_for(model)
    with torch.no_grad():
        outputs = model(images)
        # A copy that never ran, and one that ran in another precision before.
        for fresh in (StagedModel(copy.deepcopy(model.model), image_size=model.image_size).eval(), model.double()):
            feature = outputs.features[2].to(next(fresh.parameters()).dtype)
            again = fresh.run_from(3, feature, outputs.prefix[2].to(feature.dtype))
            assert relative_error(again.logits.float(), outputs.logits) < 1e-4


class RotatingBlock(nn.Module):
    """A block whose effect hides behind a small scale, and which reads what the forward left for it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.angle: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-5 * self.conv(x * (1.0 if self.angle is None else self.angle))


class SideChannel(nn.Module):
    """Passes information round the chain of its modules, as no argument and no tensor between them shows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.ModuleList([RotatingBlock(), RotatingBlock()])
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            block.angle = x.mean() + 2
            x = block(x)
            block.angle = None
        return self.fc(x.mean((2, 3)))


def test_a_chain_that_runs_but_differs_is_refused() -> None:
    model = StagedModel(SideChannel(), image_size=32, stage_ends=["blocks.0", "blocks.1"])
    assert "relative error" in model.segments_refusal


class Functional(nn.Module):
    """Computes between its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 2, 2)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.two(F.gelu(self.one(x))).mean((2, 3)))


def test_a_forward_that_computes_between_modules_is_refused() -> None:
    model = StagedModel(Functional(), image_size=32, stage_ends=["one", "two"])
    assert "before 'two'" in model.segments_refusal


@pytest.mark.parametrize(
    ("build", "ends", "image_size"),
    [
        (torchvision.models.resnet18, LAYERS, 64),
        (torchvision.models.mobilenet_v2, ["features.3", "features.6", "features.13", "features.17"], (32, 64)),
        (
            lambda **kwargs: torchvision.models.VisionTransformer(
                image_size=32, patch_size=8, num_layers=4, num_heads=2, hidden_dim=16, mlp_dim=32, **kwargs
            ),
            [f"encoder.layers.encoder_layer_{k}" for k in range(4)],
            32,
        ),
        (
            lambda **kwargs: torchvision.models.SwinTransformer(
                patch_size=[2, 2], embed_dim=16, depths=[1, 1], num_heads=[1, 2], window_size=[4, 4], **kwargs
            ),
            ["features.1", "features.3"],
            32,
        ),
    ],
    ids=["resnet", "mobilenet", "vit", "swin"],
)
def test_other_modules_name_their_stage_ends(build: object, ends: list[str], image_size: int | tuple) -> None:
    model = StagedModel(shake(build(num_classes=5)), stage_ends=ends, image_size=image_size).eval()
    assert model.exact_segments, model.segments_refusal
    assert [stage.path for stage in model.stages] == ends
    images = images_for(model)
    with torch.no_grad():
        own = model(images)
        torch.testing.assert_close(own.logits, model.model(images))
        torch.testing.assert_close(model.run_from(0, *model.enter(images)).logits, own.logits)
    assert model.heads == ("class",)
    assert own.pooled.shape == (2, model.pooled_size)


class Float32Only(Functional):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * torch.eye(x.shape[-1]) @ torch.ones(x.shape[-1], 1) + x.float())


def test_a_forward_that_is_written_for_float32_keeps_its_features() -> None:
    model = StagedModel(Float32Only(), image_size=32, stage_ends=["one", "two"])
    assert "float64" in model.segments_refusal
    assert model(torch.rand(2, 3, 32, 32)).features[1].shape == (2, 8, 4, 4)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_segments_compile_into_one_graph(kind: str) -> None:
    model = built(kind)
    images = images_for(model)
    torch._dynamo.reset()

    def step(images: Tensor) -> Tensor:
        outputs = model(images)
        return (
            outputs.logits
            + model.run_from(0, *model.enter(images)).logits
            + model.run_head(outputs.features[-1], outputs.prefix[-1]).logits
        )

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), step(images))


@pytest.mark.parametrize("kind", ["resnet", "vit", "swin", "convnext"])
def test_segments_under_bfloat16_autocast(kind: str) -> None:
    model = built(kind)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        own = model(images_for(model))
        tail = model.run_from(2, own.features[1], own.prefix[1])
        dense = model.dense_logits(own.final)
    torch.testing.assert_close(tail.logits, own.logits, rtol=0.05, atol=0.05)
    assert dense.isfinite().all()


def test_every_block_list_is_cut_into_stages_in_proportion() -> None:
    def ends(depth: int, **kwargs: object) -> list[str]:
        model = timm.create_model("vit_tiny_patch16_224", **(VIT | {"depth": depth}))
        return [stage.path for stage in StagedModel(model, **kwargs).stages]

    assert ends(12) == ["blocks.1", "blocks.3", "blocks.9", "blocks.11"]
    assert ends(4) == ["blocks.0", "blocks.1", "blocks.2", "blocks.3"]
    assert ends(2) == ["blocks.0", "blocks.1"]
    assert ends(8, stage_proportion=(1, 1)) == ["blocks.3", "blocks.7"]
