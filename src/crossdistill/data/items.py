"""Items of a user's own data set: what counts as an image and as a label. `docs/data.md` states the contract."""

import operator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from crossdistill.data.images import upright
from crossdistill.data.paths import reason
from crossdistill.errors import UserError

# How far resizing floats may lead beyond [0, 1]; what lies farther out was normalised.
_ROUNDING = 1e-3


def as_image(item: Any, where: str) -> Image.Image:
    """The image of an item, RGB.

    Args:
        item: a pair whose first entry is a PIL image of any mode, a tensor (3, H, W) or (1, H, W) of uint8 or of floats
            in [0, 1], or a NumPy array (H, W, 3) of uint8.
        where: what the item is called in an error.

    Raises:
        UserError: it is something else.
    """
    image = _pair(item, where)[0]
    if isinstance(image, Image.Image):
        try:
            return upright(image)
        except Exception as error:  # A file that was only opened is decoded here; see `fault_of`.
            raise UserError(f"{where} cannot be read: {reason(error)}") from error
    if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] in (1, 3) and image.numel():
        if image.dtype == torch.uint8:
            return to_pil_image(image.expand(3, -1, -1))
        if image.is_floating_point():
            low, high = image.min().item(), image.max().item()
            if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
                raise UserError(
                    f"{where} is an image of floats from {low:.3g} to {high:.3g}: give them in [0, 1], not normalised"
                )
            return to_pil_image((image.float() * 255).round().clamp(0, 255).byte().expand(3, -1, -1))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,) and image.size:
        return Image.fromarray(image)
    raise UserError(
        f"{where} is no image, but {_described(image)}: give a PIL image, a tensor (3, H, W) or (1, H, W) of uint8 or "
        "of floats in [0, 1], or an array (H, W, 3) of uint8"
    )


def as_label(item: Any, where: str) -> int:
    """The label of an item, a whole number of any kind.

    Raises:
        UserError: it is something else.
    """
    label = _pair(item, where)[1]
    try:
        return operator.index(label)
    except TypeError as error:
        raise UserError(f"{where} has the label {_described(label)}: give the position of its class, an int") from error


def _pair(item: Any, where: str) -> tuple[Any, Any]:
    if not (isinstance(item, tuple | list) and len(item) == 2):
        raise UserError(f"{where} is {_described(item)}: give (image, label)")
    return item[0], item[1]


def _described(value: Any) -> str:
    """A value in a few words: its type, with shape and element type where it has them."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, tuple | list) else type(value).__name__
