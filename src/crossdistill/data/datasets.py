"""Data sets by name or folder."""

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import datasets

from crossdistill.data.folder import read_folder
from crossdistill.data.paths import is_folder, readable
from crossdistill.data.soundness import cache_folder, sound_files
from crossdistill.data.sources import FileSource, ImageSource, TensorSource
from crossdistill.errors import UserError, nearest

_PACKAGED = Path(__file__).parent / "fashion_mini"
# Where the Debian package dataset-fashion-mnist puts its files.
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@dataclass
class ImageData:
    """A data set.

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


def open_data(data: str, *, on_bad_image: str = "stop") -> ImageData:
    """Open a data set and make sure that every image in it can be decoded.

    Args:
        data: an image folder with `train/` and `val/` (or `test/`), each with one folder per class; or a name:
            `fashion-mini` (in the package), `fashion-mnist`, `cifar10`, `cifar100`, `imagenet`. `NAME:FOLDER` says
            where the files of a named set lie or go; without it, below `CROSSDISTILL_DATA` or `~/.cache/crossdistill`.
            Fashion-MNIST and CIFAR are downloaded if need be.
        on_bad_image: `stop` or `skip` where a file cannot be decoded.

    Raises:
        UserError: there is no such set or folder, it is incomplete, its splits have different classes, or a file
            cannot be decoded.
    """
    name, _, folder = data.partition(":")
    if name in _NAMED:
        root = _expanded(folder) if folder else cache_folder()
        return _NAMED[name](data, root, on_bad_image)
    if not data:
        raise UserError(f"--data is missing: give a folder with train/ and val/, or one of {', '.join(_NAMED)}")
    root = _expanded(data)
    if not is_folder(root):
        raise UserError(f"--data {data} is neither a folder nor one of {', '.join(_NAMED)}{nearest(name, _NAMED)}")
    classes, train, validation, skipped = read_folder(root, on_bad_image)
    return ImageData(data, classes, train, validation, skipped)


def _expanded(path: str) -> Path:
    # Unlike the method of Path, this leaves the home of an unknown user as it is, which is then no folder.
    return Path(os.path.expanduser(path))


def _fashion_mini(data: str, root: Path, on_bad_image: str) -> ImageData:
    if ":" in data:
        raise UserError(f"--data {data}: fashion-mini lies in the package; leave the folder out, or give fashion-mnist")
    return _read_fashion(data, _PACKAGED)


def _fashion_mnist(data: str, root: Path, on_bad_image: str) -> ImageData:
    given = ":" in data
    for folder in (root, root / "FashionMNIST" / "raw", *([] if given else [_DEBIAN])):
        with readable(folder):
            found = any((folder / f"t10k-labels-idx1-ubyte{suffix}").is_file() for suffix in ("", ".gz"))
        if found:
            return _read_fashion(data, folder)
    _torchvision(data, lambda: datasets.FashionMNIST(root, download=True))
    return _read_fashion(data, root / "FashionMNIST" / "raw")


def _read_fashion(data: str, folder: Path) -> ImageData:
    def split(name: str, prefix: str) -> TensorSource:
        grey = _read_idx(folder / f"{prefix}-images-idx3-ubyte")
        labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte").long()
        # 28x28 padded to 32x32, which halves five times; the same grey in all three channels.
        return TensorSource(F.pad(grey, (2, 2, 2, 2))[:, None].repeat(1, 3, 1, 1), labels, name)

    classes = list(datasets.FashionMNIST.classes)
    return ImageData(data, classes, split("train", "train"), split("validation", "t10k"))


def _read_idx(path: Path) -> Tensor:
    """The uint8 array in an IDX file, which may be packed (`.gz`)."""
    packed = path.with_name(path.name + ".gz")
    with readable(path):
        if not (path.is_file() or packed.is_file()):
            raise UserError(f"{path.parent} is not a complete Fashion-MNIST: {packed.name} is missing")
        content = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
    # Two zero bytes, the type (8: unsigned bytes), the number of dimensions, then each as a big-endian int32.
    dimensions = content[3]
    shape = np.frombuffer(content, dtype=">i4", count=dimensions, offset=4)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * dimensions).view(*shape.tolist())


def _cifar(kind: type[datasets.CIFAR10]) -> Callable[[str, Path, str], ImageData]:
    def read(data: str, root: Path, on_bad_image: str) -> ImageData:
        def split(name: str) -> tuple[list[str], TensorSource]:
            dataset = _torchvision(data, lambda: kind(root, train=name == "train", download=True))
            pixels = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
            return dataset.classes, TensorSource(pixels, torch.tensor(dataset.targets), name)

        classes, train = split("train")
        return ImageData(data, classes, train, split("validation")[1])

    return read


def _imagenet(data: str, root: Path, on_bad_image: str) -> ImageData:
    def split(name: str) -> tuple[list[str], FileSource, int]:
        dataset = _torchvision(data, lambda: datasets.ImageNet(root, split=name))
        samples, skipped = sound_files(dataset.samples, on_bad_image)
        source = FileSource([path for path, _ in samples], torch.tensor([label for _, label in samples]), root)
        # The readable names are not unique (there are two cranes).
        return dataset.wnids, source, skipped

    classes, train, skipped_train = split("train")
    _, validation, skipped_validation = split("val")
    return ImageData(data, classes, train, validation, skipped_train + skipped_validation)


def _torchvision(data: str, build: Callable[[], datasets.VisionDataset]) -> datasets.VisionDataset:
    """Build a torchvision data set; what it says on missing files and failed downloads becomes one line."""
    try:
        return build()
    except (RuntimeError, OSError, ModuleNotFoundError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"--data {data} cannot be read ({reason}); put the files where torchvision wants them and say where: "
            f"--data {data.partition(':')[0]}:FOLDER"
        ) from error


_NAMED: dict[str, Callable[[str, Path, str], ImageData]] = {
    "fashion-mini": _fashion_mini,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar(datasets.CIFAR10),
    "cifar100": _cifar(datasets.CIFAR100),
    "imagenet": _imagenet,
}
