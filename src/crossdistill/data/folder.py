"""Image folders: one folder per split, one folder per class in each."""

from pathlib import Path

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from crossdistill.data.paths import image_files, is_folder, readable
from crossdistill.data.soundness import sound_files
from crossdistill.data.sources import NO_LABEL, FileSource
from crossdistill.data.splits import Splits
from crossdistill.errors import UserError

# Where the images of a split may lie; the first that is there is read.
_FOLDERS = {"train": ("train",), "validation": ("val", "test")}


def has_splits(root: Path) -> bool:
    """Whether a folder holds splits; True too where there is no such folder."""
    return not is_folder(root) or any(is_folder(root / name) for names in _FOLDERS.values() for name in names)


def read_unlabelled(root: Path, on_bad_image: str) -> tuple[FileSource, int]:
    """All images in a folder and below it, without labels, and how many were left out.

    Raises:
        UserError: there is no image, a folder cannot be read, or a file cannot be decoded.
    """
    samples, skipped = sound_files([(path, NO_LABEL) for path in image_files(root)], on_bad_image)
    if not samples:
        raise UserError(f"{root} has no train/, nor any image ({' '.join(IMG_EXTENSIONS)}): check the path")
    return FileSource([path for path, _ in samples], torch.full((len(samples),), NO_LABEL), root), skipped


def read_folder(root: Path, wanted: tuple[str, ...], on_bad_image: str) -> Splits:
    """Read image folders.

    Args:
        root: the folder that holds the splits.
        wanted: `train` for `train/`, `validation` for `val/`, or `test/` where there is no `val/`. Validation images
            alone may also lie in `root` itself, where it has no folder of any split.
        on_bad_image: `stop` or `skip`.

    Raises:
        UserError: a split is missing or empty, the classes differ, a folder cannot be read, or a file cannot be
            decoded.
    """
    folders = {name: _folder_of(root, name, wanted) for name in wanted}
    first, *others = folders.values()
    classes = _classes(first)
    for other in others:
        _check_same_classes(first, classes, other)
    if len(classes) == 1:
        raise UserError(f"{first} has one class only, '{classes[0]}': there is nothing to tell apart")
    splits = Splits(classes)
    for name, folder in folders.items():
        splits.sources[name], skipped = _images(root, folder, classes, on_bad_image)
        splits.skipped += skipped
    return splits


def _folder_of(root: Path, name: str, wanted: tuple[str, ...]) -> Path:
    present = [folder for folder in _FOLDERS[name] if is_folder(root / folder)]
    if present:
        return root / present[0]
    if wanted == ("validation",) and not is_folder(root / "train"):
        return root
    missing = "train/" if name == "train" else "val/ (or test/)"
    asked = " and ".join("train/" if split == "train" else "val/" for split in wanted)
    raise UserError(f"{root} has no {missing}: --data wants a folder with {asked}, one folder per class in each")


def _check_same_classes(first: Path, classes: list[str], other: Path) -> None:
    only_one = sorted(set(classes) ^ set(_classes(other)))
    if only_one:
        more = f" and {len(only_one) - 1} more" if len(only_one) > 1 else ""
        present, absent = (first, other) if only_one[0] in classes else (other, first)
        raise UserError(f"the splits have different classes: '{only_one[0]}'{more}, in {present}, not in {absent}")


def _classes(split: Path) -> list[str]:
    with readable(split):
        classes = sorted(entry.name for entry in split.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"{split} has no class folders: put the images of each class into a folder of its own")
    return classes


def _images(root: Path, split: Path, classes: list[str], on_bad_image: str) -> tuple[FileSource, int]:
    samples = [(path, number) for number, name in enumerate(classes) for path in image_files(split / name)]
    samples, skipped = sound_files(samples, on_bad_image)
    labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
    present = set(labels.tolist())
    empty = next((name for number, name in enumerate(classes) if number not in present), None)
    if empty is not None:
        raise UserError(f"{split / empty} has no image ({' '.join(IMG_EXTENSIONS)}): add some or remove the class")
    return FileSource([path for path, _ in samples], labels, root), skipped
