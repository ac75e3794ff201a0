"""Image folders: one folder per split, one folder per class in each."""

from pathlib import Path

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from crossdistill.data.paths import image_files, is_folder, readable
from crossdistill.data.soundness import sound_files
from crossdistill.data.sources import FileSource
from crossdistill.errors import UserError


def read_folder(root: Path, on_bad_image: str) -> tuple[list[str], FileSource, FileSource, int]:
    """Read `train/` and `val/` (or `test/` where there is no `val/`).

    Args:
        root: the folder that holds them.
        on_bad_image: `stop` or `skip`.

    Returns:
        Class names, training and validation images, and the number of files that were skipped.

    Raises:
        UserError: a split is missing or empty, the classes differ, a folder cannot be read, or a file cannot be
            decoded.
    """
    train = root / "train"
    validation = next((root / name for name in ("val", "test") if is_folder(root / name)), None)
    if not is_folder(train) or validation is None:
        missing = "train/" if not is_folder(train) else "val/ (or test/)"
        raise UserError(
            f"{root} has no {missing}: --data wants a folder with train/ and val/, one folder per class in each"
        )
    classes = _classes(train)
    only_one = sorted(set(classes) ^ set(_classes(validation)))
    if only_one:
        more = f" and {len(only_one) - 1} more" if len(only_one) > 1 else ""
        present, absent = (train, validation) if only_one[0] in classes else (validation, train)
        raise UserError(f"the splits have different classes: '{only_one[0]}'{more}, in {present}, not in {absent}")
    if len(classes) == 1:
        raise UserError(f"{train} has one class only, '{classes[0]}': there is nothing to tell apart")
    train_source, train_skipped = _split(root, train, classes, on_bad_image)
    validation_source, validation_skipped = _split(root, validation, classes, on_bad_image)
    return classes, train_source, validation_source, train_skipped + validation_skipped


def _classes(split: Path) -> list[str]:
    with readable(split):
        classes = sorted(entry.name for entry in split.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"{split} has no class folders: put the images of each class into a folder of its own")
    return classes


def _split(root: Path, split: Path, classes: list[str], on_bad_image: str) -> tuple[FileSource, int]:
    samples = [(path, number) for number, name in enumerate(classes) for path in image_files(split / name)]
    samples, skipped = sound_files(samples, on_bad_image)
    labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
    present = set(labels.tolist())
    empty = next((name for number, name in enumerate(classes) if number not in present), None)
    if empty is not None:
        raise UserError(f"{split / empty} has no image ({' '.join(IMG_EXTENSIONS)}): add some or remove the class")
    return FileSource([path for path, _ in samples], labels, root), skipped
