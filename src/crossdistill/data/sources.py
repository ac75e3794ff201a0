"""Where images come from: files that are decoded at every read, pixels in memory, or a user's data set."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from crossdistill.data.images import read_image
from crossdistill.data.items import as_image

# In the place of a class index, of images that have none.
NO_LABEL = -1


class ImageSource(ABC):
    """Images of one split, with labels or without.

    Attributes:
        labels: (N,) int64 class indices; `NO_LABEL` for images without labels, which are all or none.
        pixels: (N, 3, H, W) uint8, where all images are in memory anyway; else None.
    """

    labels: Tensor
    pixels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return not len(self.labels) or int(self.labels[0]) != NO_LABEL

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """N names by which the images are known whatever is chosen of the set: `val/cat/3.jpg` or `validation/17`."""

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """Image number `index`, RGB, at its own size; a `UserError` where it cannot be read."""

    @abstractmethod
    def subset(self, indices: Tensor) -> "ImageSource":
        """The images at these positions, in this order, as a source of their own."""


class FileSource(ImageSource):
    """Image files, decoded when they are read.

    Args:
        paths: N image files.
        labels: (N,) class indices.
        root: the folder of the data set, which all files lie below; names are relative to it. Without it, they are the
            paths.
    """

    def __init__(self, paths: Sequence[str | Path], labels: Tensor, root: str | Path | None = None) -> None:
        assert len(paths) == len(labels)
        self.paths = [str(path) for path in paths]
        self.labels = labels
        self.root = root

    @property
    def names(self) -> list[str]:
        if self.root is None:
            return list(self.paths)
        return [Path(path).relative_to(self.root).as_posix() for path in self.paths]

    def read(self, index: int) -> Image.Image:
        return read_image(self.paths[index])

    def subset(self, indices: Tensor) -> "FileSource":
        return FileSource([self.paths[i] for i in indices.tolist()], self.labels[indices], self.root)


class TensorSource(ImageSource):
    """Images of one size, in memory.

    Args:
        pixels: (N, 3, H, W) uint8.
        labels: (N,) class indices.
        split: `train` or `validation`, the part of the data set that they are; names begin with it, if given.
        positions: (N,) positions of the images in the split; default: they are all of it.
    """

    def __init__(self, pixels: Tensor, labels: Tensor, split: str = "", positions: Tensor | None = None) -> None:
        assert pixels.dtype == torch.uint8 and pixels.shape[1] == 3 and len(pixels) == len(labels)
        self.pixels: Tensor = pixels
        self.labels = labels
        self.split = split
        self.positions = torch.arange(len(labels)) if positions is None else positions

    @property
    def names(self) -> list[str]:
        return _numbered(self.split, self.positions)

    def read(self, index: int) -> Image.Image:
        return to_pil_image(self.pixels[index])

    def subset(self, indices: Tensor) -> "TensorSource":
        return TensorSource(self.pixels[indices], self.labels[indices], self.split, self.positions[indices])


class DatasetSource(ImageSource):
    """Images of a user's own map-style data set, read item by item.

    Args:
        dataset: M items `(image, label)`, as `docs/data.md` says; worker processes get a copy.
        labels: (N,) class indices.
        split: `train` or `validation`; names begin with it.
        origin: what the data set was opened as, for errors.
        positions: (N,) positions of the images in the data set; default: they are all of it.
    """

    def __init__(self, dataset: Any, labels: Tensor, split: str, origin: str, positions: Tensor | None = None) -> None:
        self.dataset = dataset
        self.labels = labels
        self.split = split
        self.origin = origin
        self.positions = torch.arange(len(labels)) if positions is None else positions

    @property
    def names(self) -> list[str]:
        return _numbered(self.split, self.positions)

    def read(self, index: int) -> Image.Image:
        position = int(self.positions[index])
        return as_image(self.dataset[position], f"--data {self.origin}: {self.split} item {position}")

    def subset(self, indices: Tensor) -> "DatasetSource":
        return DatasetSource(self.dataset, self.labels[indices], self.split, self.origin, self.positions[indices])


def _numbered(split: str, positions: Tensor) -> list[str]:
    return [f"{split}/{position}" if split else str(position) for position in positions.tolist()]
