"""Data sets by folder, by name, or by the path of a function."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from crossdistill.data.folder import has_splits, read_folder, read_unlabelled
from crossdistill.data.functions import is_dotted_path, read_function
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
        classes: K class names; labels are positions in this list. Empty for images without labels.
        train: the training images.
        validation: the validation images; none, of images without labels, until some are held out.
        skipped: files left out because they could not be decoded.
    """

    name: str
    classes: list[str]
    train: ImageSource
    validation: ImageSource
    skipped: int = 0

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return bool(self.classes)


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

    @property
    def labelled(self) -> bool:
        """Whether the images have labels: a model is judged on no others."""
        return True


def open_data(data: str, *, on_bad_image: str = "stop", without_labels: bool = False) -> ImageData:
    """Open a data set to train with, and make sure that every image in it can be decoded.

    Args:
        data: one of three kinds.
            An image folder with `train/` and `val/` (or `test/`), each with one folder per class.
            A name: `fashion-mini` (in the package), `fashion-mnist`, `cifar10`, `cifar100`, `imagenet`. `NAME:FOLDER`
            says where the files of a named set lie or go; without it, below `CROSSDISTILL_DATA` or
            `~/.cache/crossdistill`. Fashion-MNIST and CIFAR are downloaded if need be.
            The dotted path of a function of no arguments that returns `(train, validation, classes)`, or `(train,
            validation)` where a data set has `.classes`, a list of text. A data set is map-style, and its item is
            `(image, label)`: a PIL image, a tensor (3, H, W) or (1, H, W) of uint8 or of floats in [0, 1], or a NumPy
            array (H, W, 3) of uint8; and a whole number from 0 to K - 1. Labels are read from `.targets` or `.labels`
            where those list N whole numbers, else from every item once.
        on_bad_image: `stop` or `skip` where a file cannot be decoded; a function's items are never skipped.
        without_labels: take a folder that has neither `train/` nor `val/` nor `test/` as images without labels,
            however they are laid out in it.

    Raises:
        UserError: there is no such set, folder or function, it is incomplete, it has a single class, its splits have
            different classes, a file cannot be decoded, or a function gives something else. Only some items of a
            function's data sets are read now; a bad one among the others raises when it is read.
    """
    if without_labels and is_unlabelled_folder(data):
        images, skipped = read_unlabelled(_expanded(data), on_bad_image)
        return ImageData(data, [], images, images.subset(torch.arange(0)), skipped)
    splits = _read(data, ("train", "validation"), on_bad_image)
    return ImageData(data, splits.classes, splits.sources["train"], splits.sources["validation"], splits.skipped)


def open_validation(data: str, *, on_bad_image: str = "stop") -> ValidationData:
    """Open what a model is judged on, and make sure that every image of it can be decoded.

    Training images are neither needed nor looked at.

    Args:
        data: as for `open_data`. Of a folder, `val/` (or `test/`) is enough, and a folder that holds neither those nor
            `train/`, but one folder per class, is the test set itself. A function may also return `(dataset, classes)`,
            or a data set that has `.classes`.
        on_bad_image: as for `open_data`.

    Raises:
        UserError: as for `open_data`.
    """
    splits = _read(data, ("validation",), on_bad_image)
    return ValidationData(data, splits.classes, splits.sources["validation"], splits.skipped)


def is_unlabelled_folder(data: str) -> bool:
    """Whether this is a folder of images without labels: it has neither `train/` nor `val/` nor `test/`."""
    return bool(data) and data.partition(":")[0] not in NAMED and not has_splits(_expanded(data))


def _read(data: str, wanted: tuple[str, ...], on_bad_image: str) -> Splits:
    name, _, folder = data.partition(":")
    if name in NAMED:
        return NAMED[name](data, _expanded(folder) if folder else cache_folder(), wanted, on_bad_image)
    if not data:
        raise UserError(f"--data is missing: give a folder with train/ and val/, or one of {', '.join(NAMED)}")
    root = _expanded(data)
    if is_folder(root):
        return read_folder(root, wanted, on_bad_image)
    if is_dotted_path(data):
        return read_function(data, wanted)
    raise UserError(f"--data {data} is neither a folder nor one of {', '.join(NAMED)}{nearest(name, NAMED)}")


def _expanded(path: str) -> Path:
    # Unlike the method of Path, this leaves the home of an unknown user as it is, which is then no folder.
    return Path(os.path.expanduser(path))
