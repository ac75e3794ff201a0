"""What the tests of detection share: a set of coloured rectangles, in each of the three layouts."""

import json
import random
from pathlib import Path

import pytest
import yaml
from PIL import Image

from detection.tiny import CLASSES

COLOURS = {"blue": (30, 40, 220), "red": (220, 40, 30)}
WIDTH, HEIGHT = 64, 48
COUNTS = {"train": 12, "val": 6}

# Of each split: file name, and class and box of each object.
Listed = dict[str, list[tuple[str, list[tuple[str, tuple[int, int, int, int]]]]]]


@pytest.fixture(scope="session")
def listed() -> Listed:
    """One red object in the left half of each image, and mostly a blue one in the right half."""
    draw = random.Random(0)
    found: Listed = {}
    for split, count in COUNTS.items():
        images = []
        for k in range(count):
            objects = []
            for name, left in (("red", 0), ("blue", 32))[: 1 if k % 4 == 3 else 2]:
                x, y = left + draw.randint(0, 8), draw.randint(0, 16)
                objects.append((name, (x, y, x + draw.randint(14, 22), y + draw.randint(14, 30))))
            images.append((f"{split}{k}.png", objects))
        found[split] = images
    return found


def _save(folder: Path, images: list) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, objects in images:
        image = Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90))
        for kind, (x1, y1, x2, y2) in objects:
            image.paste(COLOURS[kind], (x1, y1, x2, y2))
        image.save(folder / name)


@pytest.fixture(scope="session")
def coco(listed: Listed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    for split, images in listed.items():
        _save(root / "images", images)
        content = {
            # Numbers of categories are no positions.
            "categories": [{"id": 7, "name": "red"}, {"id": 3, "name": "blue"}],
            "images": [{"id": k, "file_name": n, "width": WIDTH, "height": HEIGHT} for k, (n, _) in enumerate(images)],
            "annotations": [
                {"image_id": k, "category_id": {"red": 7, "blue": 3}[kind], "bbox": [x1, y1, x2 - x1, y2 - y1]}
                for k, (_, objects) in enumerate(images)
                for kind, (x1, y1, x2, y2) in objects
            ],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def voc(listed: Listed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("voc")
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, images in listed.items():
        _save(root / "JPEGImages", images)
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(name.removesuffix(".png") for name, _ in images))
        for name, objects in images:
            things = "".join(
                f"<object><name>{kind}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax>"
                f"<ymax>{y2}</ymax></bndbox></object>"
                for kind, (x1, y1, x2, y2) in objects
            )
            file = root / "Annotations" / name.replace(".png", ".xml")
            file.write_text(f"<annotation><filename>{name}</filename>{things}</annotation>")
    return root


@pytest.fixture(scope="session")
def yolo(listed: Listed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("yolo")
    for split, images in listed.items():
        _save(root / "images" / split, images)
        (root / "labels" / split).mkdir(parents=True)
        for name, objects in images:
            lines = [
                f"{CLASSES.index(kind)} {(x1 + x2) / 2 / WIDTH} {(y1 + y2) / 2 / HEIGHT} {(x2 - x1) / WIDTH} "
                f"{(y2 - y1) / HEIGHT}"
                for kind, (x1, y1, x2, y2) in objects
            ]
            (root / "labels" / split / name.replace(".png", ".txt")).write_text("\n".join(lines))
    (root / "data.yaml").write_text(yaml.safe_dump({"names": CLASSES, "train": "images/train", "val": "images/val"}))
    return root
