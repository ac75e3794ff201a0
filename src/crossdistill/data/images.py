"""From an image file to the pixels that a model is given."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from crossdistill.data.paths import reason
from crossdistill.errors import UserError

# Formats whose pixels Pillow calls 32-bit integers (mode I) although they have 16 bits.
_SIXTEEN_BITS = ("PNG", "PPM")


def decode(path: str | Path) -> Image.Image:
    """The image in a file as upright RGB; raises whatever Pillow raises on a file that it cannot decode.

    Sixteen bits become the upper eight of them; pixels whose white is not known raise a `ValueError`. Of an animation
    it is the first frame.
    """
    with Image.open(path) as image:
        return upright(image)


def read_image(path: str | Path) -> Image.Image:
    """The image in a file, as `decode` gives it.

    Raises:
        UserError: there is no such file, or it is no image that can be decoded.
    """
    try:
        return decode(path)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except Exception as error:  # See `fault_of`.
        raise UserError(f"{path} cannot be decoded ({reason(error)}): give an image file") from error


def fault_of(path: str | Path) -> str:
    """Why a file cannot be decoded, or an empty string.

    The whole file is read, a JPEG at an eighth of its size, which still finds a file that was cut short.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (1, 1))
            upright(image)
    except Exception as error:  # Pillow's decoders raise anything, from OSError to SyntaxError, on broken bytes.
        return reason(error)
    return ""


def fit(image: Image.Image, size: tuple[int, int], crop_fraction: float = 1.0) -> Image.Image:
    """The centre of an image, resized to `size` (height, width) with antialiasing; the aspect ratio is kept.

    Args:
        image: what is resized.
        size: height and width in pixels.
        crop_fraction: how much of the largest centred crop of that shape is kept, as a share of its sides.
    """
    height, width = size
    return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR, bleed=(1 - crop_fraction) / 2)


def to_input(images: Iterable[Image.Image], image_size: tuple[int, int], crop_fraction: float = 1.0) -> Tensor:
    """A batch as the models take it, prepared as for evaluation: (B, 3, H, W) float32 in [0, 1]."""
    return torch.stack([pil_to_tensor(fit(image, image_size, crop_fraction)) for image in images]).float() / 255


def upright(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, turned as its EXIF says; a `ValueError` where its white is not known."""
    sixteen_bits = image.format in _SIXTEEN_BITS
    # Cameras store a turned image and say so in EXIF; people label what they see.
    turned = ImageOps.exif_transpose(image)
    if turned.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose white is not known: save it with 8 or 16 bits")
    if turned.mode.startswith("I"):
        pixels = np.asarray(turned)
        low, high = int(pixels.min()), int(pixels.max())
        if turned.mode == "I" and not sixteen_bits and (low < 0 or not 255 < high < 1 << 16):
            raise ValueError(f"its 32-bit pixels go from {low} to {high}, so white is not known: save it with 16 bits")
        # Pillow's own conversion clips at 255, which makes nearly all of it white. The upper byte is what Pillow
        # takes of 16-bit colour, so grey and colour are read alike.
        turned = Image.fromarray((pixels >> 8).astype(np.uint8))
    return turned.convert("RGB")
