"""Losses that half precision would spoil."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")


def in_float32(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Compute a loss in float32 at least, also under autocast.

    Small differences, logarithms of small probabilities and sums over pairs of images do not survive bfloat16.

    Args:
        loss: a pure function of tensors and numbers; the first argument is a tensor.
    """

    @functools.wraps(loss)
    def exact(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        first: Any = args[0] if args else next(iter(kwargs.values()))
        with torch.autocast(first.device.type, enabled=False):
            return loss(*map(_raised, args), **{name: _raised(value) for name, value in kwargs.items()})  # type: ignore[arg-type]

    return exact


def _raised(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value
