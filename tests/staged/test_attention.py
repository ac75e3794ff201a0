"""Queries, keys and values from a hook explain what the attention module itself returned."""

import math
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from crossdistill.errors import UserError
from crossdistill.staged import StagedModel
from crossdistill.staged.attention import AttentionTap, Projections, Windows
from crossdistill.testing.tiny_models import SIDE, TINY, tiny_swin, tiny_vit

_TINY = {"img_size": SIDE, "embed_dim": 32, "depth": 2, "num_heads": 2}


def _eva(**kwargs: object) -> nn.Module:
    from timm.models.eva import Eva

    shape = {"patch_size": 8, "num_classes": 3, "use_rot_pos_emb": True, "ref_feat_shape": (4, 4)} | _TINY
    return Eva(**(shape | kwargs))


def _beit() -> nn.Module:
    return timm.create_model("beit_base_patch16_224", num_classes=3, patch_size=8, **_TINY)


def _relative() -> nn.Module:
    return timm.create_model("vit_relpos_small_patch16_224", num_classes=3, patch_size=8, **_TINY)


def _torchvision() -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(SIDE, 8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=3)


KINDS: dict[str, Callable[[], nn.Module]] = {
    "fused": tiny_vit,
    "two prefix tokens": TINY["distilled"],
    "query and key norm": lambda: tiny_vit(qk_norm=True),
    "norm behind attention": lambda: tiny_vit(scale_attn_norm=True),
    "rotary": _eva,
    "separate, rotary": lambda: _eva(qkv_fused=False),
    "rotary by halves, query and key norm": lambda: _eva(attn_type="rope", rope_rotate_half=True, qk_norm=True),
    "shared keys and values": lambda: _eva(attn_type="rope", qkv_fused=False, num_kv_heads=1),
    "biases apart, position bias": _beit,
    "position bias by a network": _relative,
    "windows, position bias": tiny_swin,
    "windows, cosine similarity": lambda: timm.create_model(
        "swinv2_tiny_window8_256",
        img_size=SIDE,
        patch_size=2,
        window_size=4,
        embed_dim=16,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 2, 2),
    ),
    "torch's own": _torchvision,
}


def _perturbed(model: nn.Module) -> nn.Module:
    """Biases and norms away from the zeros and ones that they start with."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def _staged(model: nn.Module, size: tuple[int, int] = (SIDE, SIDE)) -> StagedModel:
    ends = None
    if not hasattr(model, "feature_info"):
        ends = [f"encoder.layers.encoder_layer_{i}" for i in range(2)]
    return StagedModel(model, name="teacher", image_size=size, stage_ends=ends).eval().double()


def _bias(attention: nn.Module) -> Tensor | float:
    if getattr(attention, "relative_position_bias_table", None) is not None:
        return attention._get_rel_pos_bias()  # type: ignore[operator]
    if hasattr(attention, "cpb_mlp"):
        window = math.prod(attention.window_size)  # type: ignore[arg-type]
        table = attention.cpb_mlp(attention.relative_coords_table).view(-1, attention.num_heads)  # type: ignore[operator]
        places = attention.relative_position_index.view(-1)  # type: ignore[operator]
        return 16 * torch.sigmoid(table[places].view(window, window, -1)).permute(2, 0, 1)
    rel_pos = getattr(attention, "rel_pos", None)
    return 0.0 if rel_pos is None else rel_pos.get_bias()


@torch.no_grad()
def _recomputed(attention: nn.Module, projections: Projections) -> Tensor:
    """softmax(Q K^T / sqrt d + bias) V, projected by the module's last layers."""
    queries, keys, values = projections
    logits = queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[3]) + _bias(attention)
    mixed = (logits.softmax(dim=3) @ values).transpose(1, 2).flatten(2)
    if isinstance(attention, nn.MultiheadAttention):
        return attention.out_proj(mixed)
    norm: nn.Module = getattr(attention, "norm", nn.Identity())
    return attention.proj(norm(mixed))  # type: ignore[operator]


@pytest.mark.parametrize("kind", KINDS)
def test_attention_over_all_tokens_is_the_modules_own(kind: str) -> None:
    model = _staged(_perturbed(KINDS[kind]()))
    tap = AttentionTap(model, "CAKD")
    attention = model.model.get_submodule(tap.path)
    returned: list[Tensor] = []
    attention.register_forward_hook(lambda m, a, out: returned.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        outputs = tap(torch.rand(2, 3, SIDE, SIDE, dtype=torch.float64), prefix=True)
        projections = outputs.attention
    actual = _recomputed(attention, projections)
    assert (actual - returned[-1]).norm() <= 1e-9 * returned[-1].norm()
    patches = tap(torch.rand(2, 3, SIDE, SIDE, dtype=torch.float64)).attention
    for part in patches:
        assert part.shape == (2, tap.heads, math.prod(tap.size), tap.head_size)
    assert outputs.final.shape[1:] == tap.final_shape


def test_the_last_attention_is_taken() -> None:
    assert AttentionTap(_staged(tiny_vit()), "CAKD").path == "blocks.5.attn"
    assert AttentionTap(_staged(tiny_swin()), "CAKD").path == "layers.3.blocks.0.attn"


@pytest.mark.parametrize("size", [(96, 96), (80, 112)])
def test_shifted_and_padded_windows_are_brought_back_to_the_grid(size: tuple[int, int]) -> None:
    """Keys and values are a function of each position, so they can be computed from the grid that is cut."""
    model = _staged(_perturbed(tiny_swin(img_size=size, depths=(1, 1, 1, 2))), size)
    tap = AttentionTap(model, "CAKD")
    block = model.model.layers[3].blocks[1]
    assert any(block.shift_size) and any(side % 4 for side in tap.size)
    grids: list[Tensor] = []
    block.norm1.register_forward_hook(lambda m, a, out: grids.append(out))
    with torch.no_grad():
        projections = tap(torch.rand(2, 3, *size, dtype=torch.float64)).attention
        queries, keys, values = block.attn.qkv(grids[-1].flatten(1, 2)).chunk(3, dim=2)
    for part, whole in zip(projections, (queries, keys, values), strict=True):
        torch.testing.assert_close(part.transpose(1, 2).flatten(2), whole, rtol=1e-12, atol=1e-12)


def test_windows_of_two_images_stay_apart() -> None:
    windows = Windows(size=(3, 5), window=(2, 2), shift=(1, 1))
    grid = torch.arange(30.0).reshape(2, 3, 5, 1)
    padded = torch.nn.functional.pad(grid.roll((-1, -1), dims=(1, 2)), (0, 0, 0, 1, 0, 1))
    cut = torch.stack([padded[b, i : i + 2, j : j + 2] for b in range(2) for i in (0, 2) for j in (0, 2, 4)])
    assert torch.equal(windows.to_grid(cut.flatten(1, 2)), grid.flatten(1, 2))


UNKNOWN: dict[str, Callable[[], nn.Module]] = {
    "attention over channels": lambda: timm.create_model("xcit_nano_12_p8_224", **_TINY),
    "talking heads, class attention": lambda: timm.create_model("cait_xxs24_224", patch_size=8, **_TINY),
    "keys narrower than values": lambda: timm.create_model(
        "levit_128s", img_size=SIDE, embed_dim=(16, 16, 16), key_dim=4, num_heads=(2, 2, 2), depth=(1, 1, 1)
    ),
    "windows and grids in turn": lambda: timm.create_model(
        "maxvit_nano_rw_256", img_size=SIDE, embed_dim=(32, 32, 32, 32), depths=(1, 1, 1, 1), stem_width=16
    ),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_unknown_attention_is_refused_by_name(kind: str) -> None:
    model = StagedModel(UNKNOWN[kind](), name="stranger", image_size=SIDE)
    with pytest.raises(UserError, match="stranger.*choose a ViT, DeiT or Swin"):
        AttentionTap(model, "CAKD")


def test_attention_that_hides_its_eval_is_refused_by_name() -> None:
    # TinyViT's attention overrides train() and returns nothing from it.
    shape = {"embed_dims": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    vit = timm.create_model("tiny_vit_5m_224", window_sizes=(2, 2, 2, 2), **shape)
    model = StagedModel(vit, name="stranger", image_size=2 * SIDE)
    with pytest.raises(UserError, match="stranger.*is not known"):
        AttentionTap(model, "CAKD")


@pytest.mark.parametrize("kind", ["cnn", "mlp"])
def test_a_model_without_attention_is_refused_by_name(kind: str) -> None:
    model = StagedModel(TINY[kind](), name=f"a {kind}", image_size=SIDE)
    with pytest.raises(UserError, match=f"a {kind} has no attention"):
        AttentionTap(model, "CAKD")


def test_the_tap_keeps_nothing_and_draws_no_random_numbers() -> None:
    model = _staged(tiny_vit())
    state = torch.get_rng_state()
    tap = AttentionTap(model, "CAKD")
    assert torch.equal(torch.get_rng_state(), state)
    model(torch.rand(1, 3, SIDE, SIDE, dtype=torch.float64))
    tap(torch.rand(1, 3, SIDE, SIDE, dtype=torch.float64))
    assert not tap._recorder.values
