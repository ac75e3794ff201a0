"""Data sets by name: Fashion-MNIST, CIFAR and ImageNet."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import datasets

from crossdistill.data.paths import readable
from crossdistill.data.soundness import sound_files
from crossdistill.data.sources import FileSource, TensorSource
from crossdistill.data.splits import Splits
from crossdistill.errors import UserError

_PACKAGED = Path(__file__).parent / "fashion_mini"
# Where the Debian package dataset-fashion-mnist puts its files.
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def _fashion_mini(data: str, root: Path, wanted: tuple[str, ...], on_bad_image: str) -> Splits:
    if ":" in data:
        raise UserError(f"--data {data}: fashion-mini lies in the package; leave the folder out, or give fashion-mnist")
    return _read_fashion(_PACKAGED, wanted)


def _fashion_mnist(data: str, root: Path, wanted: tuple[str, ...], on_bad_image: str) -> Splits:
    given = ":" in data
    for folder in (root, root / "FashionMNIST" / "raw", *([] if given else [_DEBIAN])):
        with readable(folder):
            found = any((folder / f"t10k-labels-idx1-ubyte{suffix}").is_file() for suffix in ("", ".gz"))
        if found:
            return _read_fashion(folder, wanted)
    _torchvision(data, datasets.FashionMNIST, root, download=True)
    return _read_fashion(root / "FashionMNIST" / "raw", wanted)


def _read_fashion(folder: Path, wanted: tuple[str, ...]) -> Splits:
    splits = Splits(list(datasets.FashionMNIST.classes))
    for name in wanted:
        prefix = "train" if name == "train" else "t10k"
        grey = _read_idx(folder / f"{prefix}-images-idx3-ubyte")
        labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte").long()
        # 28x28 padded to 32x32, which halves five times; the same grey in all three channels.
        pixels = F.pad(grey, (2, 2, 2, 2))[:, None].repeat(1, 3, 1, 1)
        splits.sources[name] = TensorSource(pixels, labels, name)
    return splits


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


def _cifar(kind: type[datasets.CIFAR10]) -> "Reader":
    def read(data: str, root: Path, wanted: tuple[str, ...], on_bad_image: str) -> Splits:
        splits = Splits()
        for name in wanted:
            dataset = _torchvision(data, kind, root, train=name == "train", download=True)
            pixels = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
            splits.classes = dataset.classes
            splits.sources[name] = TensorSource(pixels, torch.tensor(dataset.targets), name)
        return splits

    return read


def _imagenet(data: str, root: Path, wanted: tuple[str, ...], on_bad_image: str) -> Splits:
    splits = Splits()
    for name in wanted:
        split = "train" if name == "train" else "val"
        dataset = _torchvision(data, datasets.ImageNet, root, split=split)
        samples, skipped = sound_files(dataset.samples, on_bad_image)
        labels = torch.tensor([label for _, label in samples])
        # The readable names are not unique (there are two cranes).
        splits.classes = dataset.wnids
        splits.sources[name] = FileSource([path for path, _ in samples], labels, root)
        splits.skipped += skipped
    return splits


def _torchvision(
    data: str, kind: Callable[..., datasets.VisionDataset], root: Path, **arguments: Any
) -> datasets.VisionDataset:
    """Build a torchvision data set; what it says on missing files and failed downloads becomes one line."""
    try:
        return kind(root, **arguments)
    except (RuntimeError, OSError, ModuleNotFoundError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"--data {data} cannot be read ({reason}); put the files where torchvision wants them and say where: "
            f"--data {data.partition(':')[0]}:FOLDER"
        ) from error


# What `--data` says, the folder of the files, the splits that are wanted, and `stop` or `skip`.
Reader = Callable[[str, Path, tuple[str, ...], str], Splits]

NAMED: dict[str, Reader] = {
    "fashion-mini": _fashion_mini,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar(datasets.CIFAR10),
    "cifar100": _cifar(datasets.CIFAR100),
    "imagenet": _imagenet,
}
