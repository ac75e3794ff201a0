"""Folders of images with boxes, as COCO, Pascal VOC and YOLO lay them out."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml
from PIL import Image

from crossdistill.data.paths import image_files, is_folder, readable
from crossdistill.errors import UserError

# Which splits may stand for the validation, the first that is there does.
_SPLITS = {"train": ("train",), "validation": ("val", "valid", "test"), "test": ("test",)}


@dataclass
class Listed:
    """One image as a set lists it, unchecked.

    Attributes:
        path: of the file, which may be missing.
        name: by which it is known.
        size: (height, width) where the set says it.
        boxes: x1, y1, x2, y2 in pixels; of YOLO in shares of the image.
        labels: positions in the class names, or names.
        crowd: of each box.
        relative: whether boxes are shares of the image.
    """

    path: Path
    name: str
    size: tuple[int, int] | None = None
    boxes: list[list[float]] = field(default_factory=list)
    labels: list[int | str] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    relative: bool = False


# Of Pascal VOC.
_CORNERS = ("xmin", "ymin", "xmax", "ymax")

# The class names, and the images.
Listing = tuple[list[str], list[Listed]]


def read_listing(root: Path, split: str) -> Listing:
    """What a folder lists of a split: `train`, `validation` or `test`.

    Raises:
        UserError: the layout is none of the three, the split is missing, or a file of the set cannot be read.
    """
    for mark, read in (("annotations", _read_coco), ("Annotations", _read_voc), ("labels", _read_yolo)):
        # Some file systems do not tell capitals apart.
        with readable(root):
            if any(entry.name == mark and entry.is_dir() for entry in root.iterdir()):
                return read(root, split)
    raise UserError(
        f"{root} is no set of boxes: give COCO (images/, annotations/instances_*.json), Pascal VOC (JPEGImages/, "
        "Annotations/, ImageSets/Main/) or YOLO (images/, labels/, data.yaml)"
    )


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) from the head of an image file."""
    with Image.open(path) as image:
        return image.height, image.width


def _read_coco(root: Path, split: str) -> Listing:
    files = [file for name in _SPLITS[split] for file in sorted((root / "annotations").glob(f"instances_{name}*.json"))]
    if not files:
        raise UserError(f"{root}/annotations has no instances_{_SPLITS[split][0]}*.json")
    with _no_damage(files[0]), readable(files[0]):
        content = json.loads(files[0].read_text(encoding="utf-8"))
        classes = sorted(content["categories"], key=lambda category: category["id"])
        position = {category["id"]: k for k, category in enumerate(classes)}
        folders = [root / "images" / files[0].stem.removeprefix("instances_"), root / "images"]
        folders += [root / folder.name for folder in folders[:1]]
        folder = next((one for one in folders if is_folder(one)), folders[1])
        images = {}
        for image in content["images"]:
            size = (image["height"], image["width"])
            images[image["id"]] = Listed(folder / image["file_name"], image["file_name"], size)
        for one in content["annotations"]:
            x, y, width, height = one["bbox"]
            listed = images[one["image_id"]]
            listed.boxes.append([x, y, x + width, y + height])
            listed.labels.append(position.get(one["category_id"], str(one["category_id"])))
            listed.crowd.append(bool(one.get("iscrowd", 0)))
    return [category["name"] for category in classes], list(images.values())


def _read_voc(root: Path, split: str) -> Listing:
    lists = [root / "ImageSets" / "Main" / f"{name}.txt" for name in _SPLITS[split]]
    found = next((file for file in lists if file.is_file()), None)
    if found is None:
        raise UserError(f"{root}/ImageSets/Main has no {_SPLITS[split][0]}.txt")
    train = lists[0].with_name("train.txt")
    with readable(found):
        images = [_read_voc_image(root, stem) for stem in _stems(found)]
        others = [] if found == train or not train.is_file() else _stems(train)
        # The classes are those of the training images, whichever split is read.
        named = [_read_voc_image(root, stem) for stem in others] or images
    return sorted({str(label) for image in named for label in image.labels}), images


def _stems(file: Path) -> list[str]:
    # Lists of one class have a second column.
    return [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _read_voc_image(root: Path, stem: str) -> Listed:
    file = root / "Annotations" / f"{stem}.xml"
    with _no_damage(file), readable(file):
        tree = ElementTree.parse(file).getroot()
        name = tree.findtext("filename") or f"{stem}.jpg"
        listed = Listed(root / "JPEGImages" / name, f"JPEGImages/{name}")
        for thing in tree.iter("object"):
            corners = [
                float(thing.findtext(f"bndbox/{corner}") or "nan") for corner in ("xmin", "ymin", "xmax", "ymax")
            ]
            # Pixels are counted from 1, and the last one is in the box.
            listed.boxes.append([corners[0] - 1, corners[1] - 1, *corners[2:]])
            listed.labels.append(thing.findtext("name") or "")
            listed.crowd.append(False)
    return listed


def _read_yolo(root: Path, split: str) -> Listing:
    file = next((root / name for name in ("data.yaml", "dataset.yaml") if (root / name).is_file()), None)
    if file is None:
        raise UserError(f"{root} has no data.yaml, which names the classes and the folders of a YOLO set")
    with _no_damage(file), readable(file):
        said: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        names = said["names"]
        classes = [str(names[key]) for key in sorted(names)] if isinstance(names, dict) else [str(n) for n in names]
        folder = next((root / said[key] for key in _SPLITS[split] if said.get(key)), None)
    if folder is None or not is_folder(folder):
        raise UserError(f"{file} names no folder of images for {_SPLITS[split][0]}")
    return classes, list(_read_yolo_images(root, folder))


def _read_yolo_images(root: Path, folder: Path) -> Iterator[Listed]:
    for path in map(Path, image_files(folder)):
        parts = list(path.relative_to(root).with_suffix(".txt").parts)
        # As everywhere in YOLO: the labels lie where the images do, with `labels` for `images`.
        parts[parts.index("images")] = "labels"
        labels = root.joinpath(*parts)
        listed = Listed(path, path.relative_to(root).as_posix(), relative=True)
        # An image without a file of labels has no objects.
        if labels.is_file():
            with _no_damage(labels), readable(labels):
                for line in labels.read_text(encoding="utf-8").splitlines():
                    if line.strip():
                        number, x, y, width, height = line.split()[:5]
                        half_x, half_y = float(width) / 2, float(height) / 2
                        listed.labels.append(int(number))
                        listed.boxes.append(
                            [float(x) - half_x, float(y) - half_y, float(x) + half_x, float(y) + half_y]
                        )
                        listed.crowd.append(False)
        yield listed


class _no_damage:
    """Turns what comes of a file of another form into a line that names it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, KeyError | ValueError | TypeError | AttributeError | SyntaxError | yaml.YAMLError) and (
            not isinstance(error, UserError)
        ):
            raise UserError(f"{self.file} is damaged ({type(error).__name__}: {' '.join(str(error).split())[:120]})")
