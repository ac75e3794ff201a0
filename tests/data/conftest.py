"""Small image folders for the tests of the data."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from crossdistill.data import FileSource, TensorSource


def noise(index: int, height: int, width: int) -> Image.Image:
    """Smooth random colours, the same for the same index, so that a JPEG keeps them about right."""
    generator = torch.Generator().manual_seed(index)
    coarse = torch.rand(1, 3, 3, 3, generator=generator)
    return to_pil_image(torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0])


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing that a test finds out about files is written into the user's own cache."""
    monkeypatch.setenv("CROSSDISTILL_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes an image folder: classes x images in each split."""

    def make(
        splits: tuple[str, ...] = ("train", "val"),
        classes: tuple[str, ...] = ("cat", "dog"),
        images: int = 3,
        size: tuple[int, int] = (24, 20),
        name: str = "photos",
    ) -> Path:
        root = tmp_path / name
        for split in splits:
            for number, label in enumerate(classes):
                (root / split / label).mkdir(parents=True)
                for i in range(images):
                    noise(100 * number + i, *size).save(root / split / label / f"{i}.jpg", quality=95)
        return root

    return make


@pytest.fixture
def tensor_source() -> TensorSource:
    """24 images of 16x16 pixels in 3 classes, in memory."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return TensorSource(pixels, torch.arange(24) % 3)


@pytest.fixture
def file_source(tmp_path: Path) -> FileSource:
    """12 files of various sizes, all longer than what is kept in memory unasked."""
    paths = []
    for i in range(12):
        paths.append(tmp_path / f"{i}.png")
        noise(i, 130 + i, 150).save(paths[-1])
    return FileSource(paths, torch.arange(12) % 2)
