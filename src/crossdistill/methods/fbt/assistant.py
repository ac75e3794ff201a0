"""A network made of two others: whose stages come first, and the block between front and tail."""

from collections.abc import Sequence

import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from crossdistill.modules.initialization import initialise
from crossdistill.staged import Stage

# As in Swin: channels of one attention head, and the side of a window.
_HEAD_CHANNELS = 32
_WINDOW = 7


def teacher_is_front(student: Sequence[Stage], teacher: Sequence[Stage], tail_stages: int = 1) -> bool:
    """Whether the teacher gives the front of the assistant and the student its tail.

    What mixes positions in the stages decides. Convolution is to come first and attention or an MLP over positions
    last; only if the teacher's front with the student's tail is such a network and the student's front with the
    teacher's tail is not, the teacher is the front. In all other cases the student is, so that the assistant ends in
    the teacher's own head.

    Args:
        student: the student's stages.
        teacher: the teacher's stages.
        tail_stages: how many stages at the end are the tail.
    """

    def local_to_global(front: Sequence[Stage], tail: Sequence[Stage]) -> bool:
        first = {kind for stage in front[:-tail_stages] for kind in stage.mixing}
        last = {kind for stage in tail[-tail_stages:] for kind in stage.mixing}
        return first == {"convolution"} and bool(last & {"attention", "mlp"})

    return local_to_global(teacher, student) and not local_to_global(student, teacher)


class LocalToGlobal(nn.Module):
    """A convolutional map becomes what another network's late stage takes: patch embedding, then Swin blocks.

    The embedding's windows do not overlap (kernel = stride), so a grid can only shrink by whole factors. Where the two
    grids are no multiples of each other, the map is first resized to the nearest multiple of the target grid.

    Args:
        channels: C of the map that comes in.
        size: (H, W) of that map.
        out_channels: D of the map that goes out.
        out_size: (H, W) of that map.
        blocks: number of Swin blocks, every second one with shifted windows; 0 leaves the patch embedding alone.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], out_channels: int, out_size: tuple[int, int], blocks: int = 1
    ) -> None:
        super().__init__()
        stride = tuple(max(1, int(side / target + 0.5)) for side, target in zip(size, out_size, strict=True))
        self.embedded_size = tuple(target * step for target, step in zip(out_size, stride, strict=True))
        self.embedding = nn.Conv2d(channels, out_channels, kernel_size=stride, stride=stride)  # type: ignore[arg-type]
        self.norm = nn.LayerNorm(out_channels)
        window = (_window(out_size[0]), _window(out_size[1]))
        self.blocks = nn.Sequential(
            *(
                SwinTransformerBlock(
                    out_channels,
                    input_resolution=out_size,
                    num_heads=_heads(out_channels),
                    window_size=window,
                    shift_size=min(window) // 2 if i % 2 else 0,
                )
                for i in range(blocks)
            )
        )
        self.blocks.apply(initialise)

    def forward(self, feature: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, *out_size)."""
        if feature.shape[2:] != self.embedded_size:
            feature = F.interpolate(feature, self.embedded_size, mode="bilinear", align_corners=False)
        grid = self.norm(self.embedding(feature).permute(0, 2, 3, 1))
        return self.blocks(grid).permute(0, 3, 1, 2)


def _heads(channels: int) -> int:
    """The number of heads that divides the channels and comes nearest to Swin's channels per head."""
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    return min(divisors, key=lambda heads: abs(channels / heads - _HEAD_CHANNELS))


def _window(side: int) -> int:
    """A window of about Swin's side that covers a grid's side with as little padding as can be."""
    return -(-side // max(1, round(side / _WINDOW)))
