"""What all tests share: one seed, and a tiny folder of real image files."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from crossdistill.testing.tiny_models import SIDE

CLASSES = ["blue", "green", "red"]


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder that can be learnt: 3 classes of tinted noise, 20 training and 8 validation images of each."""
    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 20), ("val", 8)):
        for channel, name in enumerate(reversed(CLASSES)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(0, 160, (SIDE, SIDE, 3), generator=generator, dtype=torch.uint8)
                pixels[..., channel] += 90
                Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def flat_folder(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 60 training images of it without their labels, half of them two folders deep."""
    root = tmp_path_factory.mktemp("flat")
    (root / "more" / "deep").mkdir(parents=True)
    for number, file in enumerate(sorted((image_folder / "train").rglob("*.png"))):
        folder = root / "more" / "deep" if number % 2 else root
        (folder / f"{number:02d}.png").write_bytes(file.read_bytes())
    return root
