"""How the parts that methods add begin."""

from timm.layers import trunc_normal_
from torch import nn


def initialise(module: nn.Module) -> None:
    """Kaiming (fan-out) for convolutions, truncated normal for linear layers, zero biases: for `nn.Module.apply`."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
