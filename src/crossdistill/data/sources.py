"""Where images come from: files that are decoded at every read, or pixels in memory."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from crossdistill.data.images import read_image


class ImageSource(ABC):
    """Labelled images of one split.

    Attributes:
        labels: (N,) int64 class indices.
        pixels: (N, 3, H, W) uint8, where all images are in memory anyway; else None.
    """

    labels: Tensor
    pixels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

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
    """

    def __init__(self, paths: Sequence[str | Path], labels: Tensor) -> None:
        assert len(paths) == len(labels)
        self.paths = [str(path) for path in paths]
        self.labels = labels

    def read(self, index: int) -> Image.Image:
        return read_image(self.paths[index])

    def subset(self, indices: Tensor) -> "FileSource":
        return FileSource([self.paths[i] for i in indices.tolist()], self.labels[indices])


class TensorSource(ImageSource):
    """Images of one size, in memory.

    Args:
        pixels: (N, 3, H, W) uint8.
        labels: (N,) class indices.
    """

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        assert pixels.dtype == torch.uint8 and pixels.shape[1] == 3 and len(pixels) == len(labels)
        self.pixels: Tensor = pixels
        self.labels = labels

    def read(self, index: int) -> Image.Image:
        return to_pil_image(self.pixels[index])

    def subset(self, indices: Tensor) -> "TensorSource":
        return TensorSource(self.pixels[indices], self.labels[indices])
