"""Losses are exact under autocast and for tensors in half precision."""

import inspect

import pytest
import torch
from torch import Tensor

from crossdistill import functional
from crossdistill.modules.precision import in_float32


@in_float32
def products(one: Tensor, labels: Tensor, scale: float = 1.0) -> Tensor:
    """What it does."""
    return scale * (one @ one.mT).sum() + labels.sum()


def test_autocast_and_half_precision_are_left_outside() -> None:
    one, labels = torch.randn(4, 300), torch.tensor([1, 2])
    expected = (one.double() @ one.double().mT).sum().item() + 3
    with torch.autocast("cpu", torch.bfloat16):
        assert products(one, labels).item() == pytest.approx(expected, rel=1e-5)
        assert (one @ one.mT).dtype == torch.bfloat16
    half = one.bfloat16()
    assert products(half, labels=labels, scale=2.0).dtype == torch.float32
    assert products(one.double(), labels).dtype == torch.float64


def test_a_decorated_loss_keeps_its_name_and_its_arguments() -> None:
    assert (products.__name__, products.__doc__) == ("products", "What it does.")
    assert list(inspect.signature(products).parameters) == ["one", "labels", "scale"]
    for name in ("dkd_loss", "dist_loss", "rkd_loss"):
        assert "Args:" in (getattr(functional, name).__doc__ or "")
