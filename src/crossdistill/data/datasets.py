"""Data sets by name or folder."""

import os
from dataclasses import dataclass
from pathlib import Path

from crossdistill.data.folder import read_folder
from crossdistill.data.named import NAMED
from crossdistill.data.paths import is_folder
from crossdistill.data.soundness import cache_folder
from crossdistill.data.sources import ImageSource
from crossdistill.data.splits import Splits
from crossdistill.errors import UserError, nearest


@dataclass
class ImageData:
    """A data set to train with.

    Attributes:
        name: what it was opened as.
        classes: K class names; labels are positions in this list.
        train: the training images.
        validation: the validation images.
        skipped: files left out because they could not be decoded.
    """

    name: str
    classes: list[str]
    train: ImageSource
    validation: ImageSource
    skipped: int = 0


@dataclass
class ValidationData:
    """The images of a data set that a model is judged on.

    Attributes:
        name: what it was opened as.
        classes: K class names; labels are positions in this list.
        images: the validation images.
        skipped: files left out because they could not be decoded.
    """

    name: str
    classes: list[str]
    images: ImageSource
    skipped: int = 0


def open_data(data: str, *, on_bad_image: str = "stop") -> ImageData:
    """Open a data set to train with, and make sure that every image in it can be decoded.

    Args:
        data: an image folder with `train/` and `val/` (or `test/`), each with one folder per class; or a name:
            `fashion-mini` (in the package), `fashion-mnist`, `cifar10`, `cifar100`, `imagenet`. `NAME:FOLDER` says
            where the files of a named set lie or go; without it, below `CROSSDISTILL_DATA` or `~/.cache/crossdistill`.
            Fashion-MNIST and CIFAR are downloaded if need be.
        on_bad_image: `stop` or `skip` where a file cannot be decoded.

    Raises:
        UserError: there is no such set or folder, it is incomplete, it has a single class, its splits have different
            classes, or a file cannot be decoded.
    """
    splits = _read(data, ("train", "validation"), on_bad_image)
    return ImageData(data, splits.classes, splits.sources["train"], splits.sources["validation"], splits.skipped)


def open_validation(data: str, *, on_bad_image: str = "stop") -> ValidationData:
    """Open what a model is judged on, and make sure that every image of it can be decoded.

    Training images are neither needed nor looked at.

    Args:
        data: as for `open_data`; of a folder, `val/` (or `test/`) is enough, and a folder that holds neither those nor
            `train/`, but one folder per class, is the test set itself.
        on_bad_image: `stop` or `skip` where a file cannot be decoded.

    Raises:
        UserError: there is no such set or folder, it is incomplete, it has a single class, or a file cannot be decoded.
    """
    splits = _read(data, ("validation",), on_bad_image)
    return ValidationData(data, splits.classes, splits.sources["validation"], splits.skipped)


def _read(data: str, wanted: tuple[str, ...], on_bad_image: str) -> Splits:
    name, _, folder = data.partition(":")
    if name in NAMED:
        return NAMED[name](data, _expanded(folder) if folder else cache_folder(), wanted, on_bad_image)
    if not data:
        raise UserError(f"--data is missing: give a folder with train/ and val/, or one of {', '.join(NAMED)}")
    root = _expanded(data)
    if not is_folder(root):
        raise UserError(f"--data {data} is neither a folder nor one of {', '.join(NAMED)}{nearest(name, NAMED)}")
    return read_folder(root, wanted, on_bad_image)


def _expanded(path: str) -> Path:
    # Unlike the method of Path, this leaves the home of an unknown user as it is, which is then no folder.
    return Path(os.path.expanduser(path))
