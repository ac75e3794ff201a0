"""Augmentation of a batch on its device, every image with its own draw.

Each function takes (B, 3, H, W) images and (B,) keys, and treats an image by its key alone: neither the other images
of the batch nor their number changes the outcome, bit for bit.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from crossdistill.data.draws import uniforms

# As in torchvision's RandomResizedCrop: aspect ratios of a crop are log-uniform in this range.
CROP_RATIO = (3 / 4, 4 / 3)
# Random erasing: Zhong et al., "Random erasing data augmentation", AAAI 2020, with the greatest area of timm's recipes.
ERASED_AREA = (0.02, 1 / 3)
ERASED_RATIO = (0.3, 1 / 0.3)
# The shifted crop pads by an eighth of the side: the usual 4 pixels of a 32-pixel image.
PADDING_SHARE = 8


def to_float(pixels: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1]."""
    return pixels.float() / 255


def coin(keys: Tensor, probability: float) -> Tensor:
    """(B,) booleans, true with this probability."""
    return uniforms(keys, 1)[0] < probability


def random_box(
    keys: Tensor, size: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A rectangle of whole pixels within an image of this size, for each key.

    The area is uniform, the aspect ratio log-uniform; a rectangle that would stick out is cut to the image's side.

    Args:
        keys: (B,).
        size: height and width of the image.
        area: least and greatest share of the image's area.
        ratio: least and greatest width over height.

    Returns:
        top, left, height, width: (B,) float32, whole numbers.
    """
    image_height, image_width = size
    u_area, u_ratio, u_top, u_left = uniforms(keys, 4)
    pixels = (area[0] + (area[1] - area[0]) * u_area) * (image_height * image_width)
    aspect = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * u_ratio)
    # Whole pixels also hide the last bit of exp, which depends on where in a vector register a number lies.
    height = (pixels / aspect).sqrt().round().clamp(1, image_height)
    width = (pixels * aspect).sqrt().round().clamp(1, image_width)
    return (u_top * (image_height - height + 1)).floor(), (u_left * (image_width - width + 1)).floor(), height, width


def resized_crop(images: Tensor, keys: Tensor, size: tuple[int, int], scale: float, flipped: Tensor) -> Tensor:
    """Random resized crop and flip in one bilinear sampling.

    Without antialiasing, so meant for images of at most twice the output's sides.

    Args:
        images: (B, 3, h, w) float.
        keys: (B,).
        size: height and width of the output.
        scale: least share of the image's area that is kept.
        flipped: (B,) booleans: mirror left and right.

    Returns:
        (B, 3, H, W) float.
    """
    source = (images.shape[-2], images.shape[-1])
    top, left, height, width = random_box(keys, source, (scale, 1.0), CROP_RATIO)
    rows = torch.arange(size[0], device=images.device, dtype=images.dtype)
    columns = torch.arange(size[1], device=images.device, dtype=images.dtype).expand(len(images), -1)
    columns = torch.where(flipped[:, None], size[1] - 1 - columns, columns)
    # Pixel centres, in grid_sample's coordinates: -1 and 1 are the outer edges of the image.
    y = (top[:, None] + (rows + 0.5) * (height[:, None] / size[0])) * (2 / source[0]) - 1
    x = (left[:, None] + (columns + 0.5) * (width[:, None] / size[1])) * (2 / source[1]) - 1
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def shifted_crop(images: Tensor, keys: Tensor, flipped: Tensor) -> Tensor:
    """Pad with black by an eighth of the sides, cut out the old size at a random place, and flip; values stay exact.

    Args:
        images: (B, 3, H, W) of any dtype.
        keys: (B,).
        flipped: (B,) booleans: mirror left and right.

    Returns:
        (B, 3, H, W), same dtype.
    """
    height, width = images.shape[-2:]
    pad_y, pad_x = height // PADDING_SHARE, width // PADDING_SHARE
    u_top, u_left = uniforms(keys, 2)
    top = (u_top * (2 * pad_y + 1)).long()
    left = (u_left * (2 * pad_x + 1)).long()
    return _cut(F.pad(images, (pad_x, pad_x, pad_y, pad_y)), top, left, (height, width), flipped)


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror left and right the images whose entry in `flipped` (B,) is true."""
    return torch.where(flipped[:, None, None, None], images.flip(-1), images)


def erase(images: Tensor, keys: Tensor, probability: float) -> Tensor:
    """Random erasing: with this probability, one rectangle is filled with one random colour.

    Args:
        images: (B, 3, H, W) float in [0, 1].
        keys: (B,).
        probability: of an image to lose a rectangle.

    Returns:
        (B, 3, H, W).
    """
    height, width = images.shape[-2:]
    top, left, box_height, box_width = random_box(keys, (height, width), ERASED_AREA, ERASED_RATIO)
    # The box has used the first four numbers of each key.
    chance, *colour = uniforms(keys, 8)[4:]
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    in_rows = (rows >= top[:, None]) & (rows < (top + box_height)[:, None]) & (chance < probability)[:, None]
    in_columns = (columns >= left[:, None]) & (columns < (left + box_width)[:, None])
    inside = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    return torch.where(inside, torch.stack(colour, dim=1)[:, :, None, None].to(images.dtype), images)


def _cut(images: Tensor, top: Tensor, left: Tensor, size: tuple[int, int], flipped: Tensor) -> Tensor:
    """Windows of one size at each image's own (top, left), mirrored where `flipped`."""
    rows = top[:, None] + torch.arange(size[0], device=images.device)
    columns = torch.arange(size[1], device=images.device).expand(len(images), -1)
    columns = left[:, None] + torch.where(flipped[:, None], size[1] - 1 - columns, columns)
    # Positions in the flattened image: one gather costs a third of indexing by four tensors.
    places = (rows[:, :, None] * images.shape[-1] + columns[:, None, :]).flatten(1)
    window = images.flatten(2).gather(2, places[:, None, :].expand(-1, images.shape[1], -1))
    return window.unflatten(2, size)
