"""Features brought to zero mean and unit deviation by what was seen of them so far."""

import torch
from torch import Tensor, nn

# The weight of the latest batch in the running statistics; until that many batches were seen, their plain mean.
_MOMENTUM = 0.01
# Standard deviations below this share of the median channel's count as that: dead channels would be blown up.
_SMALLEST_SHARE = 0.03


class Standardizer(nn.Module):
    """Standardises maps or vectors per channel with running statistics over images and positions.

    Until something was measured, everything passes as it is.

    Args:
        channels: C.
        enabled: False lets everything pass as it is for ever.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, channels: int, enabled: bool = True) -> None:
        super().__init__()
        self.enabled = enabled
        if not enabled:
            return
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("variance", torch.ones(1, channels, 1, 1))
        self.register_buffer("batches", torch.zeros(()))

    @torch.no_grad()
    def measure(self, feature: Tensor) -> None:
        """Take (B, C, H, W) or (B, C) into the statistics."""
        if not self.enabled:
            return
        channels = feature.to(self.mean.dtype).reshape(*feature.shape[:2], -1)
        variance, mean = (x[..., None] for x in torch.var_mean(channels, dim=(0, 2), correction=0, keepdim=True))
        self.batches = self.batches + 1
        share = (1 / self.batches).clamp(min=_MOMENTUM)
        shift = mean - self.mean
        # The statistics of both together: where the means differ, that is variance too.
        known = self.variance + share * shift**2
        self.variance = (1 - share) * known + share * variance
        self.mean = self.mean + share * shift

    def forward(self, feature: Tensor) -> Tensor:
        """(B, C, H, W) or (B, C)."""
        if not self.enabled:
            return feature
        shape = (-1, *(1 for _ in feature.shape[2:]))
        return (feature - self.mean.view(shape)) / self.deviation().view(shape)

    def deviation(self) -> Tensor:
        """(1, C, 1, 1): the standard deviation per channel, where it is not too small to divide by."""
        if not self.enabled:
            return torch.ones(())
        deviation = self.variance.sqrt()
        return deviation.maximum((_SMALLEST_SHARE * deviation.median()).clamp(min=1e-6))
