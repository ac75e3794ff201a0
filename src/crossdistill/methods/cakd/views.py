"""Changed views of images that keep every position where it is, so that features of both views can be compared."""

import torch
import torch.nn.functional as F
from torch import Tensor


def random_view(images: Tensor, grid: tuple[int, int], probability: float, strength: float, masked: float) -> Tensor:
    """A view of each image: brightness, contrast and saturation changed, patches hidden; some images stay as they are.

    Args:
        images: (B, 3, H, W) in [0, 1].
        grid: rows and columns of patches.
        probability: of an image to be changed at all.
        strength: factors are drawn from 1 - strength to 1 + strength.
        masked: share of patches that take the image's mean colour.
    """
    count, _, *side = images.shape

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, device=images.device, dtype=images.dtype)

    brightness, contrast, saturation = 1 + strength * (2 * draw(3, count, 1, 1, 1) - 1)
    view = images * brightness
    view = view.lerp(view.mean(dim=(1, 2, 3), keepdim=True), 1 - contrast)
    red, green, blue = view.split(1, dim=1)
    # The luma of ITU-R BT.601, as grey is usually taken.
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    view = view.lerp(grey, 1 - saturation).clamp(0, 1)
    hidden = F.interpolate((draw(count, 1, *grid) < masked).to(images.dtype), side, mode="nearest")
    view = view.lerp(view.mean(dim=(2, 3), keepdim=True), hidden)
    return torch.where(draw(count, 1, 1, 1) < probability, view, images)
