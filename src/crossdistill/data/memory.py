"""Which images are kept in memory, decoded, and at what size."""

import torch
from torch import Tensor

from crossdistill.data.sources import ImageSource
from crossdistill.data.workers import FittedImages, Workers

# Longest side, in pixels, of an image that is kept without being asked: decoding it costs more than holding it.
SMALL_SIDE = 128
# Bytes of one split that are kept without being asked.
MOST_BYTES = 2 << 30
_SAMPLE = 64
# Images that a process decodes before it hands them over.
_SHARE = 256


def keeps(source: ImageSource, size: tuple[int, int], cache_images: str) -> bool:
    """Whether the images are kept in memory.

    Args:
        source: the images.
        size: height and width at which they would be kept.
        cache_images: `true`, `false`, or `auto`: where they are in memory anyway, or where a sample of them is at most
            `SMALL_SIDE` pixels long and all of them together take at most `MOST_BYTES`.
    """
    if cache_images != "auto":
        return cache_images == "true"
    small = source.pixels is not None or max(max(side) for side in sample_sizes(source)) <= SMALL_SIDE
    return small and 3 * size[0] * size[1] * len(source) <= MOST_BYTES


def natural_size(source: ImageSource, target: tuple[int, int]) -> tuple[int, int]:
    """The size (height, width) at which images are kept for a random resized crop to `target`.

    That is their own where they all share one of at most twice the target's sides, which is as far as a bilinear
    sampling without antialiasing goes; else the target.
    """
    sizes = set(sample_sizes(source))
    own = sizes.pop()
    return own if not sizes and own[0] <= 2 * target[0] and own[1] <= 2 * target[1] else target


def keep(source: ImageSource, size: tuple[int, int], workers: int, crop_fraction: float = 1.0) -> Tensor:
    """All images, decoded by `workers` processes, their centres resized to `size`: (N, 3, H, W) uint8."""
    if source.pixels is not None and tuple(source.pixels.shape[-2:]) == size and crop_fraction == 1:
        return source.pixels
    kept = torch.empty(len(source), 3, *size, dtype=torch.uint8)
    decoded = Workers(FittedImages(source, size, crop_fraction), batch_size=_SHARE, num_workers=workers)
    for share, pixels in zip(kept.split(_SHARE), decoded, strict=True):
        share.copy_(pixels)
    return kept


def on_device(pixels: Tensor, device: torch.device) -> Tensor:
    """Kept images on the device, or where they are if they are so many that they could crowd the model out."""
    return pixels.to(device) if pixels.nbytes <= MOST_BYTES else pixels


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device; the host does not wait for the copy."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def sample_sizes(source: ImageSource) -> list[tuple[int, int]]:
    """Heights and widths of some images, evenly spread over the source."""
    if source.pixels is not None:
        return [(source.pixels.shape[-2], source.pixels.shape[-1])]
    picks = torch.linspace(0, len(source) - 1, min(_SAMPLE, len(source))).long().unique().tolist()
    return [(image.height, image.width) for image in map(source.read, picks)]
