"""What a model says of a batch."""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


class Projections(NamedTuple):
    """What attention is computed from; `softmax(queries keys^T / sqrt(d)) values`, up to a position bias.

    Args:
        queries: (B, heads, N, d).
        keys: (B, heads, N, d).
        values: (B, heads, N, d).
    """

    queries: Tensor
    keys: Tensor
    values: Tensor


@dataclass
class Outputs:
    """What a model says of a batch.

    Every field but `features` may be None: a model without a head has no logits, another kind of model no final map.
    A method declares in its `needs` what it reads, and is then never given a None there; so the types do not say it.

    Args:
        features: (B, C_k, H_k, W_k) of each stage that was run, as the stage ends.
        logits: (B, K), the model's own answer.
        head_logits: (B, K) of each head: "class", and "distillation" where there is one (timm averages the two).
        prefix: class and register tokens (B, P, C_k) of each of these stages, or None.
        final: (B, D, H, W), what is pooled: behind the last norm or convolution, patch positions only.
        pooled: (B, D) what the classifier layer reads; without a head, what the model returns; with a head that is no
            linear layer, the mean of `final`.
        attention: queries, keys and values of the last attention block, where an `AttentionTap` took them.
    """

    features: list[Tensor] = field(default_factory=list)
    logits: Tensor = None  # type: ignore[assignment]
    head_logits: dict[str, Tensor] = None  # type: ignore[assignment]
    prefix: list[Tensor | None] = None  # type: ignore[assignment]
    final: Tensor = None  # type: ignore[assignment]
    pooled: Tensor = None  # type: ignore[assignment]
    attention: Projections = None  # type: ignore[assignment]
