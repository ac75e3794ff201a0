"""Heads applied at every position."""

import copy

import pytest
import timm
import torch
from small_models import BUILDERS, built, images_for, relative_error, shake
from torch import Tensor, nn

from crossdistill.errors import UserError
from crossdistill.staged import StagedModel


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("resnet", "class"),
        ("efficientnet", "class"),
        ("convnext", "class"),
        ("vit_average", "class"),
        ("swin", "class"),
        ("mixer", "class"),
        ("levit", "class"),
        ("levit", "distillation"),
    ],
)
def test_the_mean_of_dense_logits_is_the_heads_answer(kind: str, head: str) -> None:
    model = copy.deepcopy(built(kind)).double()
    # A wide enough map, so that positions differ: the head takes any resolution.
    images = images_for(model).double()
    with torch.no_grad():
        outputs = model(images)
        dense = model.dense_logits(outputs.final, head)
    assert dense.shape == (2, 5, *outputs.final.shape[2:])
    assert relative_error(dense.mean((2, 3)), outputs.head_logits[head]) < 1e-12


def test_a_linear_head_is_its_layer_at_every_position() -> None:
    model = built("resnet")
    final = torch.randn(2, model.pooled_size, 3, 4)
    expected = torch.einsum("kd,bdhw->bkhw", model.model.fc.weight, final) + model.model.fc.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(model.dense_logits(final), expected)


def test_a_norm_behind_the_pooling_takes_the_statistics_of_the_mean() -> None:
    model = built("convnext")
    final = torch.randn(2, 64, 3, 3)
    mean = final.mean((2, 3))
    norm, layer = model.model.head.norm, model.model.head.fc
    variance = mean.var(1, correction=0)[:, None, None, None]
    normalised = (final - mean.mean(1)[:, None, None, None]) / (variance + norm.eps).sqrt()
    normalised = normalised * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
    expected = torch.einsum("kd,bdhw->bkhw", layer.weight, normalised) + layer.bias.view(-1, 1, 1)
    torch.testing.assert_close(model.dense_logits(final), expected)


def test_the_distillation_head_reads_patch_tokens() -> None:
    model = built("deit_distilled")
    final = torch.randn(2, 32, 4, 4)
    layer = model.model.head_dist
    expected = layer(final.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(model.dense_logits(final, "distillation"), expected)
    assert not torch.allclose(model.dense_logits(final, "class"), expected)


def test_a_hidden_layer_behind_the_pooling_is_applied_per_position() -> None:
    model = built("mobilenetv3")
    own = model.model
    final = torch.randn(2, 288, 3, 3)
    with torch.no_grad():
        dense = model.dense_logits(final)
        one = own.forward_head(final[:, :, 1:2, 2:3])
        gap = relative_error(dense.mean((2, 3)), own.forward_head(final))
    torch.testing.assert_close(dense[:, :, 1, 2], one)
    assert gap > 1e-3, "this head is not linear, so the mean must differ"


def test_batch_norm_in_the_head_follows_the_models_own_pass_only() -> None:
    model = copy.deepcopy(built("levit")).double().train()
    images = images_for(model, 4).double()
    outputs = model(images)
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    dense = model.dense_logits(outputs.final, "distillation")
    assert relative_error(dense.mean((2, 3)), outputs.head_logits["distillation"]) < 1e-10
    for name, tensor in model.named_buffers():
        assert torch.equal(tensor, before[name]), name


def test_gradient_of_dense_logits_reaches_map_and_head() -> None:
    model = copy.deepcopy(built("convnext"))
    final = torch.randn(1, 64, 2, 2, requires_grad=True)
    model.dense_logits(final).square().sum().backward()
    assert final.grad.abs().sum() > 0
    assert model.model.head.fc.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: timm.create_model("test_resnet", num_classes=0), "it has no head"),
        (
            lambda: timm.create_model(
                "vit_base_patch16_siglip_224", img_size=32, embed_dim=32, depth=4, num_heads=2, num_classes=5
            ),
            "it pools with parameters of its own",
        ),
        (lambda: timm.create_model("test_resnet", num_classes=5, global_pool="catavgmax"), "number of channels"),
    ],
    ids=["no head", "attention pooling", "concatenated pooling"],
)
def test_heads_that_have_no_dense_form_are_refused(build: object, reason: str) -> None:
    plain = build()
    model = StagedModel(plain, image_size=32)
    with pytest.raises(UserError, match=reason):
        model.dense_logits(torch.zeros(1, model.stages[-1].channels, 2, 2))
    with pytest.raises(UserError, match=f"CSKD needs a head for every position and {model.name}"):
        model.require_dense_logits("CSKD")


class Scaled(nn.Module):
    """Scales the answer of its last layer, as cosine classifiers do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return 7 * self.fc(self.conv(x).mean((2, 3)))


def test_an_answer_that_is_no_linear_layers_is_still_the_answer() -> None:
    model = StagedModel(Scaled(), image_size=32, stage_ends=["conv"])
    images = torch.rand(2, 3, 32, 32)
    outputs = model(images)
    assert model.num_classes == 5
    torch.testing.assert_close(outputs.logits, model.model(images))
    torch.testing.assert_close(outputs.head_logits["class"], outputs.logits)
    torch.testing.assert_close(outputs.pooled, outputs.final.mean((2, 3)))
    with pytest.raises(UserError, match="not that of one linear layer"):
        model.dense_logits(outputs.final)


def test_training_mode_and_dropout_stay_finite() -> None:
    model = StagedModel(shake(BUILDERS["convnext"]()), image_size=64).train()
    outputs = model(images_for(model))
    assert model.dense_logits(outputs.final).isfinite().all()


@pytest.mark.parametrize(("kind", "mean"), [("resnet", True), ("vit_average", True), ("levit", True), ("vit", False)])
def test_it_is_known_whether_the_mean_is_pooled(kind: str, mean: bool) -> None:
    assert built(kind).pools_mean == mean


class ReluBeforePooling(nn.Module):
    """As torchvision's DenseNet: an activation, in place, between the last norm and the pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu_(self.norm(self.conv(x))).mean((2, 3)))


def test_the_final_map_is_the_pooled_one_even_where_it_was_overwritten() -> None:
    model = StagedModel(ReluBeforePooling(), image_size=32, stage_ends=["conv"]).eval()
    outputs = model(torch.rand(2, 3, 32, 32))
    assert outputs.final.min() == 0
    torch.testing.assert_close(model.dense_logits(outputs.final).mean((2, 3)), outputs.logits)
    assert not model.exact_segments
