"""Prompts: small networks that correct a feature map inside a frozen model, and the memory of what they are told."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from crossdistill.methods.pat.projectors import MapToMap
from crossdistill.modules.initialization import initialise

_SQUEEZE = 16
_GROUPS = 4


class SqueezeExcite(nn.Module):
    """Channel gates from the map's mean over positions.

    Args:
        channels: C.
        gate_only: return the gates (B, C, 1, 1) instead of the gated map.
    """

    def __init__(self, channels: int, gate_only: bool = False) -> None:
        super().__init__()
        self.gate_only = gate_only
        hidden = max(1, channels // _SQUEEZE)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, feature: Tensor) -> Tensor:
        gates = torch.sigmoid(self.excite(torch.relu(self.squeeze(feature.mean(dim=(2, 3))))))[:, :, None, None]
        return gates if self.gate_only else feature * gates


class PromptBlock(nn.Module):
    """x + scale * prompt(fuse(x, feedback)), with a learnt scale that starts at 0, so that nothing changes at first.

    Args:
        channels: C of the map that is prompted.
        size: (H, W) of that map.
        feedback_shape: (C, H, W) of the feedback, brought to the map's shape position by position; None: no feedback.
        gate_only: squeeze-and-excitation returns its gates and does not apply them, as PAT was released. The prompt is
            then one number per channel for the whole map.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        feedback_shape: tuple[int, int, int] | None,
        gate_only: bool = False,
    ) -> None:
        super().__init__()
        self.feedback_aligner: nn.Module | None = None
        self.fusion: nn.Module | None = None
        if feedback_shape is not None:
            same = feedback_shape == (channels, *size)
            self.feedback_aligner = nn.Identity() if same else MapToMap(feedback_shape[0], channels, size)
            self.feedback_aligner.apply(initialise)
            self.fusion = nn.Sequential(
                nn.Conv2d(2 * channels, channels, kernel_size=1),
                nn.Conv2d(channels, channels, kernel_size=5, padding=2),
                nn.Conv2d(channels, channels, kernel_size=1),
                SqueezeExcite(channels, gate_only),
                nn.Conv2d(channels, channels, kernel_size=1),
            )
        groups = math.gcd(channels, _GROUPS)
        self.prompt = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=1, groups=groups),
            nn.Conv2d(channels, channels, kernel_size=5, padding=2, groups=channels),
            nn.Conv2d(channels, channels, kernel_size=1),
            SqueezeExcite(channels, gate_only),
            nn.Conv2d(channels, channels, kernel_size=1, groups=groups),
        )
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, feature: Tensor, feedback: Tensor | None = None) -> Tensor:
        """(B, C, H, W), and feedback of its own shape -> (B, C, H, W)."""
        prompted = feature
        if self.fusion is not None:
            assert self.feedback_aligner is not None and feedback is not None
            prompted = self.fusion(torch.cat([feature, self.feedback_aligner(feedback)], dim=1))
        return feature + self.scale * self.prompt(prompted)


class FeedbackMemory(nn.Module):
    """The gap between two maps in the last batch; before the first, empty or zero.

    Args:
        shape: (C, H, W) of the gap.
    """

    gap: Tensor

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("gap", torch.zeros(0, *shape))
        self.register_load_state_dict_pre_hook(_take_size)

    def store(self, gap: Tensor) -> None:
        """Keep a gap, (B, C, H, W), already detached."""
        # A new tensor, not a copy into the old one: the graph of this step still needs what it was told.
        self.gap = gap.to(self.gap.dtype)

    def recall(self, size: int, cycle: bool = False) -> Tensor:
        """The gap for a batch of `size` images, (size, C, H, W); zero where it is of another number of images.

        Args:
            size: B of the batch.
            cycle: repeat the images' gaps instead, until there are enough.
        """
        kept = len(self.gap)
        if kept == size:
            return self.gap
        if cycle and kept:
            return self.gap[torch.arange(size, device=self.gap.device) % kept]
        return self.gap.new_zeros(size, *self.gap.shape[1:])


def _take_size(module: nn.Module, state: dict[str, Any], prefix: str, *arguments: Any) -> None:
    """The number of images in a batch is the training's, not the memory's: take it from what is loaded."""
    assert isinstance(module, FeedbackMemory)
    if (gap := state.get(f"{prefix}gap")) is not None and gap.shape[1:] == module.gap.shape[1:]:
        module.gap = module.gap.new_zeros(gap.shape)
