"""A student as one graph, from images in [0, 1] to logits: what all formats but timm's are made of."""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from crossdistill.staged import StagedModel

# Of the example that the graph is recorded with. A batch of 1 would be taken for a constant.
_EXAMPLE = 2


class Deployed(nn.Module):
    """Normalisation and the bare model; in eval mode.

    Args:
        student: copied; its hooks are left behind.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, student: StagedModel) -> None:
        super().__init__()
        self.model = student.bare_module()
        self.register_buffer("mean", student.mean.clone())
        self.register_buffer("std", student.std.clone())
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, K)."""
        return self.model((images - self.mean) / self.std)


def example_images(student: StagedModel, batch: int = _EXAMPLE) -> Tensor:
    """Images to record a graph with, (batch, 3, H, W) float32."""
    return torch.full((batch, 3, *student.image_size), 0.5)


def exported_program(student: StagedModel, largest_batch: int | None = None) -> ExportedProgram:
    """The graph of a student, for any batch size.

    Args:
        student: on the CPU.
        largest_batch: what the batch may be at most, for runtimes that plan their memory ahead.
    """
    batch = Dim("batch", min=1, max=largest_batch) if largest_batch else Dim("batch", min=1)
    # With the largest batch as the example: recorded with 2, a lowered graph was planned for 15 images at most. It
    # seems that PyTorch's convolutions, which choose by a batch of 16 how they compute, bound it when it is lowered.
    example = example_images(student, largest_batch or _EXAMPLE)
    return torch.export.export(Deployed(student), (example,), dynamic_shapes=({0: batch},))
