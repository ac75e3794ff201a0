"""Scenes composed of the package's own clothes images: a first set of boxes without a download.

Scene number k of a split is a function of the split and k alone, and is made when it is read. The clothes of the three
splits are different ones: the training images of fashion-mini, and its validation images by turns for validation and
test.
"""

import random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crossdistill.data import ImageSource, draws, open_data
from crossdistill.detection.boxes import Annotation
from crossdistill.detection.sources import DetectionData, SceneSource

SIDE = 96
# Scenes of each split.
COUNTS = {"train": 1200, "validation": 200, "test": 200}
_MOST_CLOTHES = 5
# Side that a piece of clothing is shown at, in pixels of the scene.
_LEAST_SIDE, _LARGEST_SIDE = 18, 48
# What of a piece may be covered by later ones, and how often a place is tried.
_MOST_COVERED = 0.25
_TRIES = 20
# Grey values above this are clothing, not background.
_CLOTH = 20


class FashionScenes(SceneSource):
    """Coloured clothes of several sizes on a noisy background.

    Args:
        clothes: the images that scenes are composed of.
        split: `train`, `validation` or `test`.
        numbers: (N,) which scenes; default: all of the split.
    """

    side = SIDE

    def __init__(self, clothes: ImageSource, split: str, numbers: Tensor | None = None) -> None:
        self.clothes = clothes
        self.split = split
        self.numbers = torch.arange(COUNTS[split]) if numbers is None else numbers
        self.annotations = [self._compose(number, paint=False)[1] for number in self.numbers.tolist()]

    def read(self, index: int) -> Image.Image:
        image, _ = self._compose(int(self.numbers[index]), paint=True)
        assert image is not None
        return image

    def subset(self, indices: Tensor) -> "FashionScenes":
        return FashionScenes(self.clothes, self.split, self.numbers[indices])

    def _compose(self, number: int, paint: bool) -> tuple[Image.Image | None, Annotation]:
        """A scene and its boxes; `paint` leaves the pixels out."""
        draw = random.Random(draws.seed_of(draws.SUBSET, list(COUNTS).index(self.split), number))
        placed: list[tuple[list[float], int]] = []
        # The background has draws of its own: what is drawn next is the same with and without it.
        of_background = random.Random(draw.getrandbits(64))
        canvas = _background(of_background) if paint else None
        for _ in range(draw.randint(1, _MOST_CLOTHES)):
            piece = draw.randrange(len(self.clothes))
            side = draw.randint(_LEAST_SIDE, _LARGEST_SIDE)
            colour = np.array([draw.uniform(0.3, 1.0) for _ in range(3)])
            corners = [(draw.randint(0, SIDE - side), draw.randint(0, SIDE - side)) for _ in range(_TRIES)]
            image = self.clothes.read(piece).convert("L").resize((side, side), Image.Resampling.BILINEAR)
            grey = np.asarray(image, dtype=np.float32)
            rows, columns = (np.flatnonzero((grey > _CLOTH).any(axis=axis)) for axis in (1, 0))
            if not len(rows):
                continue
            own = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            for x, y in corners:
                box = [float(x + own[0]), float(y + own[1]), float(x + own[2]), float(y + own[3])]
                if all(_covered(other, box) <= _MOST_COVERED for other, _ in placed):
                    placed.append((box, int(self.clothes.labels[piece])))
                    if canvas is not None:
                        mask = np.clip((grey - _CLOTH) / _CLOTH, 0, 1)[..., None]
                        part = canvas[y : y + side, x : x + side]
                        part[:] = (1 - mask) * part + mask * grey[..., None] * colour
                    break
        annotation = Annotation(
            f"{self.split}/{number}",
            (SIDE, SIDE),
            torch.tensor([box for box, _ in placed], dtype=torch.float32).reshape(-1, 4),
            torch.tensor([label for _, label in placed], dtype=torch.int64),
            torch.zeros(len(placed), dtype=torch.bool),
        )
        return None if canvas is None else Image.fromarray(canvas.round().astype(np.uint8)), annotation


def open_fashion_scenes(name: str, validation: str) -> DetectionData:
    """The set `fashion-scenes`.

    Args:
        name: what it was opened as.
        validation: which split is validated on: `validation` or `test`.
    """
    clothes = open_data("fashion-mini")
    positions = torch.arange(len(clothes.validation))
    theirs = clothes.validation.subset(positions[1::2] if validation == "test" else positions[::2])
    return DetectionData(
        name, clothes.classes, FashionScenes(clothes.train, "train"), FashionScenes(theirs, validation)
    )


def _background(draw: random.Random) -> np.ndarray:
    """(SIDE, SIDE, 3) of a dark colour that changes from one side to the other, with noise."""
    ends = np.array([[draw.uniform(0, 110) for _ in range(3)] for _ in range(2)])
    share = np.linspace(0, 1, SIDE)[:, None, None]
    canvas = np.broadcast_to((1 - share) * ends[0] + share * ends[1], (SIDE, SIDE, 3)).copy()
    if draw.random() < 0.5:
        canvas = canvas.transpose(1, 0, 2).copy()
    noise = np.random.default_rng(draw.getrandbits(32)).normal(0, 8, canvas.shape)
    return np.clip(canvas + noise, 0, 255)


def _covered(below: list[float], above: list[float]) -> float:
    """Share of one box that another covers."""
    width = min(below[2], above[2]) - max(below[0], above[0])
    height = min(below[3], above[3]) - max(below[1], above[1])
    area = (below[2] - below[0]) * (below[3] - below[1])
    return max(0.0, width) * max(0.0, height) / area
