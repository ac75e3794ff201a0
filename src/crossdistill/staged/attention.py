"""Queries, keys and values of a model's last attention block, taken by a hook while the model runs its own forward.

The hook takes what enters the attention; queries, keys and values are then projected from it by the attention's own
layers, behind its query and key norms and its rotary embeddings. Attention that lets a token see its window only is
given window by window; the tokens are brought back to their places in the grid first, so that attention over all of
them can be computed.

Attention modules differ in ways that their names do not tell (cosine similarity, talking heads, attention over
channels, class tokens that attend alone). So the projections are checked when the tap is built, in float64: attention
recomputed from them, with the module's own position bias, must equal what the module returns at relative 1e-9.
"""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from torch import Tensor, nn

from crossdistill.errors import UserError
from crossdistill.staged.model import StagedModel
from crossdistill.staged.modes import eval_mode
from crossdistill.staged.outputs import Outputs, Projections
from crossdistill.staged.taps import Recorder

_TOLERANCE = 1e-9
# As in Swin V2: a cosine is magnified a hundred times at most.
_HIGHEST_LOGIT_SCALE = math.log(100.0)


class AttentionTap:
    """Runs a model and gives the projections of its last attention block with the outputs.

    The tap is no module and keeps the model's modules to itself, so it may be an attribute of a module that must not
    own them. Outside of its calls its hook does nothing.

    Args:
        model: the model.
        what: what needs the projections, as the subject of a sentence ("CAKD").

    Attributes:
        path: where the attention is in `model.model`.
        heads: number of heads.
        head_size: d.
        size: (H, W) of the grid of patch tokens.
        prefix_tokens: number of class and register tokens.
        final_shape: (D, H, W) of the outputs' final map.

    Raises:
        UserError: the model's last stage has no attention, or none that can be taken apart.
    """

    def __init__(self, model: StagedModel, what: str) -> None:
        stage = model.last_stage
        model.require("attention", what)
        self._model = (model,)
        self.size = stage.size
        self.prefix_tokens = stage.prefix_tokens
        self._recorder = Recorder()
        try:
            self.path, tokens, rope, self.final_shape = _last_attention(model)
            self._attention: Any = model.model.get_submodule(self.path)
            self._windows = _windows(model.model, self.path, tokens, self.size, self.prefix_tokens)
            projections = _check(self._attention, tokens, rope)
        except _Unknown as reason:
            raise UserError(
                f"{what} cannot take queries, keys and values from the last attention block of {model.name}: {reason}; "
                "choose a ViT, DeiT or Swin in its place, or a method for any pair (fbt, pat, ofa, kd)"
            ) from None
        self.heads, self.head_size = projections.queries.shape[1], projections.queries.shape[3]
        self._attention.register_forward_pre_hook(_InputTap(self._recorder), with_kwargs=True)

    def __call__(self, images: Tensor, prefix: bool = False) -> Outputs:
        """Run the model.

        Args:
            images: (B, 3, H, W) in [0, 1].
            prefix: give class and register tokens too, in front of the patch tokens.

        Returns:
            The outputs; their `attention` is that of the tokens of the grid, row by row.
        """
        with self._recorder:
            outputs = self._model[0](images)
        record = self._recorder.take()
        tokens = record["tokens"] if self._windows is None else self._windows.to_grid(record["tokens"])
        projections = project(self._attention, tokens, record.get("rope"))
        if self.prefix_tokens and not prefix:
            projections = Projections(*(part[:, :, self.prefix_tokens :] for part in projections))
        outputs.attention = projections
        return outputs


class Windows:
    """How a grid was shifted, padded and cut into windows.

    Args:
        size: (H, W) of the grid.
        window: (height, width) of a window.
        shift: rows and columns that the grid was rolled by, towards the upper left, before it was cut.
    """

    def __init__(self, size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> None:
        self.size = size
        self.window = window
        self.shift = shift
        # Windows in each direction; the last ones may reach into padding.
        self.counts = (math.ceil(size[0] / window[0]), math.ceil(size[1] / window[1]))

    def to_grid(self, tokens: Tensor) -> Tensor:
        """(B * windows, window area, C) -> (B, H * W, C), every token at its own place."""
        grid = tokens.unflatten(1, self.window).unflatten(0, (-1, *self.counts))  # (B, rows, columns, h, w, C)
        grid = grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        grid = grid[:, : self.size[0], : self.size[1]]
        return grid.roll(self.shift, dims=(1, 2)).flatten(1, 2)


def project(attention: nn.Module, tokens: Tensor, rope: Tensor | None = None) -> Projections:
    """Queries, keys and values as an attention module computes them.

    Args:
        attention: a module that `is_attention` knows.
        tokens: (B, N, C).
        rope: rotary embeddings of the patch tokens, as the module is given them.
    """
    module: Any = attention
    parts: Any
    if isinstance(module, nn.MultiheadAttention):
        parts = F.linear(tokens, module.in_proj_weight, module.in_proj_bias).chunk(3, dim=-1)
    elif getattr(module, "qkv", None) is not None:
        parts = _fused(module, tokens).chunk(3, dim=-1)
    else:
        parts = (module.q_proj(tokens), module.k_proj(tokens), module.v_proj(tokens))
    head_size = parts[0].shape[-1] // module.num_heads
    queries, keys, values = (part.unflatten(-1, (-1, head_size)).transpose(1, 2) for part in parts)
    if getattr(module, "q_norm", None) is not None:
        queries, keys = module.q_norm(queries), module.k_norm(keys)
    if rope is not None:
        queries, keys = (_rotate(module, part, rope).type_as(values) for part in (queries, keys))
    if keys.shape[1] != module.num_heads:  # several heads of queries share one of keys and values
        groups = module.num_heads // keys.shape[1]
        keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
    if getattr(module, "logit_scale", None) is not None:
        # Cosine attention (Swin V2): a temperature of each head's own, in place of 1 / sqrt(d), which is undone.
        temperature = module.logit_scale.clamp(max=_HIGHEST_LOGIT_SCALE).exp() * head_size**0.5
        queries, keys = F.normalize(queries, dim=-1) * temperature, F.normalize(keys, dim=-1)
    # Then 1 / sqrt(d) is the right factor for every module, whatever its own.
    scale = getattr(module, "scale", None)
    if isinstance(scale, float) and not math.isclose(scale, head_size**-0.5):
        queries = queries * (scale * head_size**0.5)
    return Projections(queries, keys, values)


def is_attention(module: nn.Module) -> bool:
    """Whether a module has heads and the projections of queries, keys and values, fused or separate."""
    if isinstance(module, nn.MultiheadAttention):
        return module.in_proj_weight is not None
    separate = (getattr(module, name, None) for name in ("q_proj", "k_proj", "v_proj"))
    fused = isinstance(getattr(module, "qkv", None), nn.Linear)
    return hasattr(module, "num_heads") and (fused or all(isinstance(layer, nn.Linear) for layer in separate))


def attend(attention: nn.Module, tokens: Tensor, rope: Tensor | None = None) -> Tensor:
    """What an attention module without a mask returns, (B, N, C), recomputed from `project`."""
    module: Any = attention
    projections = project(module, tokens, rope)
    mixed = F.scaled_dot_product_attention(*projections, attn_mask=position_bias(module))
    mixed = mixed.transpose(1, 2).flatten(2)
    if isinstance(module, nn.MultiheadAttention):
        return module.out_proj(mixed)
    if getattr(module, "norm", None) is not None:
        mixed = module.norm(mixed)
    if getattr(module, "gate", None) is not None:
        mixed = mixed * module.gate(tokens).sigmoid()
    return module.proj(mixed)


def is_explained(attention: nn.Module, tokens: Tensor, rope: Tensor | None = None) -> bool:
    """Whether `project` and `position_bias` give what an attention module computes, checked in float64.

    Args:
        attention: a module that `is_attention` knows.
        tokens: (B, N, C), some that it is given.
        rope: rotary embeddings, as it is given them.
    """
    try:
        _check(attention, tokens, rope)
    except _Unknown:
        return False
    return True


class _Unknown(Exception):
    """Why a model's attention cannot be taken apart."""


class _InputTap:
    """Record the tokens that an attention is given, and its rotary embeddings."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self.recorder.recording:
            self.recorder.put("tokens", args[0])
            if isinstance(kwargs.get("rope"), Tensor):
                self.recorder.put("rope", kwargs["rope"])


def _last_attention(model: StagedModel) -> tuple[str, Tensor, Tensor | None, torch.Size]:
    """Run one random image.

    Returns:
        Path of the attention that ran last before the last stage ended, the tokens and the rotary embeddings that it
        was given, and the shape of the final map.
    """
    calls: list[tuple[str, tuple, dict[str, Any]]] = []
    ended: list[bool] = []

    def note(path: str) -> Any:
        return lambda module, args, kwargs: None if ended else calls.append((path, args, kwargs))

    handles = [model.model.get_submodule(model.last_stage.path).register_forward_hook(lambda *_: ended.append(True))]
    for path, module in model.model.named_modules():
        if is_attention(module):
            handles.append(module.register_forward_pre_hook(note(path), with_kwargs=True))
    parameter = next(model.parameters())
    # A generator of its own: building a method must not move the run's random numbers.
    images = torch.rand(1, 3, *model.image_size, generator=torch.Generator().manual_seed(0)).to(parameter.device)
    try:
        with torch.no_grad(), eval_mode(model):
            outputs = model(images)
    finally:
        for handle in handles:
            handle.remove()
    if not calls:
        raise _Unknown("no module of it has heads and linear projections of queries, keys and values")
    path, args, kwargs = calls[-1]
    if not args or not isinstance(args[0], Tensor) or args[0].ndim != 3:
        raise _Unknown(f"{path} is not given tokens, (B, N, C)")
    module = model.model.get_submodule(path)
    if isinstance(module, nn.MultiheadAttention) and any(other is not args[0] for other in args[1:3]):
        raise _Unknown(f"{path} attends from one set of tokens to another")
    rope = kwargs.get("rope")
    return path, args[0], rope if isinstance(rope, Tensor) else None, outputs.final.shape[1:]


def _windows(model: nn.Module, path: str, tokens: Tensor, size: tuple[int, int], prefix_tokens: int) -> Windows | None:
    """How the tokens of one image were cut into windows; None where they all are given together."""
    block: Any = model.get_submodule(path.rpartition(".")[0])
    if isinstance(getattr(block, "window_size", None), tuple) and isinstance(getattr(block, "shift_size", None), tuple):
        windows = Windows(size, block.window_size, block.shift_size)
        if tokens.shape[:2] == (math.prod(windows.counts), math.prod(windows.window)):
            return windows
    elif tokens.shape[:2] == (1, prefix_tokens + math.prod(size)):
        return None
    raise _Unknown(
        f"{path} is given {tokens.shape[0]} x {tokens.shape[1]} tokens of an image, and the stage ends with "
        f"{size[0]}x{size[1]}"
    )


def _check(attention: nn.Module, tokens: Tensor, rope: Tensor | None) -> Projections:
    """Compare `attend` with the module itself in float64; the projections of the tokens given."""
    exact = copy.deepcopy(attention).double()
    exact.eval()  # some of timm's attentions return nothing here
    tokens = tokens.double()
    generator = torch.Generator().manual_seed(0)
    rope = None if rope is None else rope.double()
    unknown = _Unknown(f"its kind ({type(attention).__name__}) is not known")
    with torch.no_grad():
        for parameter in exact.parameters():
            # What is zero in a new module, such as a position bias, would hide that it is not reckoned with.
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.device)
            parameter.add_(noise * 0.1)
        try:
            if isinstance(exact, nn.MultiheadAttention):
                expected = exact(tokens, tokens, tokens, need_weights=False)[0]
            else:
                expected = exact(tokens) if rope is None else exact(tokens, rope=rope)
            actual = attend(exact, tokens, rope)
        # Whatever an unknown module does with shapes and arguments, it is not what `attend` does.
        except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError):
            raise unknown from None
        if actual.shape != expected.shape or (actual - expected).norm() > _TOLERANCE * expected.norm():
            raise unknown
        return project(exact, tokens, rope)


def _fused(module: Any, tokens: Tensor) -> Tensor:
    """One projection for all three; some modules keep the biases apart, and none for the keys."""
    if getattr(module, "q_bias", None) is None:
        return module.qkv(tokens)
    key_bias = torch.zeros_like(module.q_bias) if module.k_bias is None else module.k_bias
    return F.linear(tokens, module.qkv.weight, torch.cat([module.q_bias, key_bias, module.v_bias]))


def _rotate(module: Any, part: Tensor, rope: Tensor) -> Tensor:
    """Rotary embeddings on the patch tokens; class and register tokens have no place to encode."""
    prefix = module.num_prefix_tokens
    rotated = apply_rot_embed_cat(part[:, :, prefix:], rope, half=getattr(module, "rotate_half", False))
    return torch.cat([part[:, :, :prefix], rotated], dim=2)


def position_bias(module: Any) -> Tensor | None:
    """The bias that a module adds to its attention logits by relative position; None where it has none."""
    if getattr(module, "cpb_mlp", None) is not None:
        # Swin V2: a network of the relative coordinates.
        places = module.relative_position_index
        table = module.cpb_mlp(module.relative_coords_table).view(-1, module.num_heads)
        return 16 * torch.sigmoid(table[places.flatten()].view(*places.shape, -1).permute(2, 0, 1))
    if getattr(module, "relative_position_bias_table", None) is not None:
        return module._get_rel_pos_bias()
    if getattr(module, "rel_pos", None) is not None:
        return module.rel_pos.get_bias()
    return None
