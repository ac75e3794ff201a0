from pathlib import Path

import torch
from PIL import Image

from crossdistill.data import DatasetSource, FileSource, ImageSource, TensorSource, fingerprint


def pixels(seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def files(folder: Path, images: torch.Tensor) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{i}.jpg" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path, quality=95)
    return paths


LABELS = torch.tensor([0, 1, 0, 1, 0, 1])


class Items:
    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], int(LABELS[index])


def sources(tmp_path: Path, name: str, images: torch.Tensor) -> list[ImageSource]:
    """The same images as pixels in memory, as files and as a user's data set."""
    paths = files(tmp_path / name, images)
    return [
        TensorSource(images, LABELS, "train"),
        FileSource(paths, LABELS, tmp_path / name),
        DatasetSource(Items(images), LABELS, "train", "lab.data"),
    ]


def test_where_the_images_lie_does_not_count(tmp_path: Path) -> None:
    for here, there in zip(sources(tmp_path, "here", pixels()), sources(tmp_path, "there", pixels()), strict=True):
        assert fingerprint(here) == fingerprint(there)


def test_a_pixel_a_label_and_the_order_count(tmp_path: Path) -> None:
    changed = pixels()
    changed[3, 1, 4, 4] ^= 64
    for here, other in zip(sources(tmp_path, "here", pixels()), sources(tmp_path, "changed", changed), strict=True):
        reordered = here.subset(torch.tensor([1, 0, 2, 3, 4, 5]))
        fewer = here.subset(torch.arange(5))
        relabelled = here.subset(torch.arange(6))
        relabelled.labels = 1 - LABELS
        names = {fingerprint(source) for source in (here, other, reordered, fewer, relabelled)}
        assert len(names) == 5
