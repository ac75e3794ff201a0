"""How far attention layers look."""

import math

import pytest
import timm
import torch
from torch import Tensor

from crossdistill.analysis.attention_distance import AttentionDistances, attention_distance, grid_distances
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import SIDE, TINY, staged


def test_distances_are_shares_of_each_side() -> None:
    # 2x4 positions: a step down is half of the image, a step to the right a quarter.
    assert grid_distances((2, 4))[0, 4] == 0.5 and grid_distances((2, 4))[0, 1] == 0.25
    assert grid_distances((2, 4))[0, 5].item() == pytest.approx(math.hypot(0.5, 0.25))


def _attention(model: StagedModel, path: str, tokens: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt d) of timm's attention, from its own layer."""
    module = model.model.get_submodule(path)
    batch, count, width = tokens.shape
    qkv = module.qkv(tokens).reshape(batch, count, 3, module.num_heads, width // module.num_heads)  # type: ignore
    queries, keys, _ = qkv.permute(2, 0, 3, 1, 4)
    return (queries @ keys.mT / math.sqrt(queries.shape[-1])).softmax(dim=-1)


def test_every_layer_of_a_vit_is_measured_as_by_definition() -> None:
    model = staged("vit", TINY["vit"]).eval()
    given: dict[str, Tensor] = {}
    layers = AttentionDistances(model)
    assert list(layers.layers) == [f"blocks.{i}.attn" for i in range(6)] and layers.left_out == 0
    for path in layers.layers:
        hook = lambda module, args, path=path: given.update({path: args[0]})  # noqa: E731
        model.model.get_submodule(path).register_forward_pre_hook(hook)
    images = torch.rand(2, 3, SIDE, SIDE)
    outputs, distances = layers(images)
    assert torch.equal(outputs.logits, model(images).logits)
    for path, found in distances.items():
        weights = _attention(model, path, given[path])[:, :, 1:, 1:]
        weights = weights / weights.sum(dim=-1, keepdim=True)
        expected = torch.zeros(2, 2)
        for query in range(16):
            for key in range(16):
                distance = math.hypot(query // 4 - key // 4, query % 4 - key % 4) / 4
                expected += weights[:, :, query, key] * distance / 16
        torch.testing.assert_close(found, expected)


def test_a_large_batch_is_measured_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = staged("vit", TINY["vit"]).eval()
    images = torch.rand(3, 3, SIDE, SIDE)
    whole = AttentionDistances(model)(images)[1]
    monkeypatch.setattr("crossdistill.analysis.attention_distance._ELEMENTS", 1)
    for path, values in AttentionDistances(model)(images)[1].items():
        torch.testing.assert_close(values, whole[path])


def test_a_position_bias_counts() -> None:
    model = timm.create_model(
        "vit_relpos_small_patch16_224", img_size=SIDE, patch_size=8, embed_dim=32, depth=1, num_heads=2
    )
    attention = model.blocks[0].attn
    tokens = torch.zeros(1, 16, 32)
    even = attention_distance(attention, tokens, (4, 4))
    # A bias for the position itself alone: all look at themselves.
    attention.rel_pos.get_bias = lambda: 1e4 * torch.eye(16)[None].expand(attention.num_heads, -1, -1)
    assert even.min() > 0.3 and attention_distance(attention, tokens, (4, 4)).max() < 1e-6


def test_layers_that_see_a_window_are_left_out() -> None:
    # The last two stages have one window, of the whole grid.
    layers = AttentionDistances(staged("swin", TINY["swin"]))
    assert list(layers.layers) == ["layers.2.blocks.0.attn", "layers.2.blocks.1.attn", "layers.3.blocks.0.attn"]
    assert layers.left_out == 2


def test_a_model_without_attention_is_run_all_the_same() -> None:
    layers = AttentionDistances(staged("cnn", TINY["cnn"]).eval())
    outputs, distances = layers(torch.rand(1, 3, SIDE, SIDE))
    assert len(outputs.features) == 4 and not distances and layers.left_out == 0
