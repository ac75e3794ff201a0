"""Small copies of validation images, as data URIs."""

import base64
import io
from collections.abc import Sequence

from PIL import Image

from crossdistill.data import ImageSource, open_validation
from crossdistill.errors import UserError
from crossdistill.options import TrainingOptions
from crossdistill.training.ingredients import open_run_data

# Pixels of the longer side; the page shows them at this size.
_SIDE = 96
_QUALITY = 80


def open_judged(options: TrainingOptions, names: Sequence[str]) -> tuple[ImageSource, list[int]]:
    """The images that a run was judged on, and where in them each of these names is.

    Raises:
        UserError: the data cannot be opened, or holds other images now.
    """
    try:
        if options.held_out:
            images = open_run_data(options.data, options).validation
        else:
            images = open_validation(options.data, on_bad_image=options.on_bad_image).images
    except OSError as error:
        raise UserError(f"{options.data} cannot be read: {error.strerror or error}") from error
    places = {name: place for place, name in enumerate(images.names)}
    missing = next((name for name in names if name not in places), None)
    if missing is not None:
        raise UserError(f"{options.data} holds other images now: '{missing}' is not among them")
    return images, [places[name] for name in names]


def data_uri(image: Image.Image) -> str:
    """A small copy of an image, within the text of the page."""
    image = image.convert("RGB")
    image.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    # A tiny image is smaller, and sharper, without loss.
    kind = "png" if max(image.size) <= _SIDE // 2 else "jpeg"
    image.save(content, kind, **({"optimize": True} if kind == "png" else {"quality": _QUALITY}))
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
