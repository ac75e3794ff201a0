"""Features brought to zero mean and unit deviation by what was seen of them so far."""

import torch
from torch import Tensor, nn

# The weight of the latest batch in the running statistics; until that many batches were seen, their plain mean.
_MOMENTUM = 0.01
# Standard deviations below this share of the median channel's count as that: dead channels would be blown up.
_SMALLEST_SHARE = 0.03


class Standardizer(nn.Module):
    """Standardises a map per channel with running statistics over images and positions.

    Args:
        channels: C of the map.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("variance", torch.ones(1, channels, 1, 1))
        self.register_buffer("batches", torch.zeros(()))

    @torch.no_grad()
    def measure(self, feature: Tensor) -> None:
        """Take (B, C, H, W) into the statistics."""
        variance, mean = torch.var_mean(feature.to(self.mean.dtype), dim=(0, 2, 3), correction=0, keepdim=True)
        self.batches = self.batches + 1
        share = (1 / self.batches).clamp(min=_MOMENTUM)
        shift = mean - self.mean
        # The statistics of both together: where the means differ, that is variance too.
        known = self.variance + share * shift**2
        self.variance = (1 - share) * known + share * variance
        self.mean = self.mean + share * shift

    def forward(self, feature: Tensor) -> Tensor:
        deviation = self.variance.sqrt()
        smallest = (_SMALLEST_SHARE * deviation.median()).clamp(min=1e-6)
        return (feature - self.mean) / deviation.maximum(smallest)
