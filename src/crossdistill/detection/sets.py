"""Sets of images with boxes: opened by folder or by name, and checked."""

from dataclasses import replace
from pathlib import Path

import torch

from crossdistill.data import draws
from crossdistill.data.soundness import find_faults
from crossdistill.detection.boxes import Annotation, checked
from crossdistill.detection.formats import Listed, image_size, read_listing
from crossdistill.detection.scenes import open_fashion_scenes
from crossdistill.detection.sources import DetectionData, FileScenes
from crossdistill.errors import UserError, nearest

_TEST = ":test"
# The seed of what is held out is not a run's.
_HOLD_OUT_SEED = 0


def open_detection_data(data: str, *, boxes: str = "refuse", on_bad_image: str = "stop") -> DetectionData:
    """Open a set of images with boxes, and check every box and every image.

    Args:
        data: a folder as COCO, Pascal VOC or YOLO lay it out, or `fashion-scenes`, which is made on the fly. The
            validation images are those of `val`, or of `test` where there is no `val`; with `:test` behind the name, of
            `test`.
        boxes: `refuse`, or `skip` faulty boxes and missing images.
        on_bad_image: `stop` or `skip` where a file cannot be decoded.

    Raises:
        UserError: there is no such set, a part of it is missing or damaged, or, with `refuse`, a box is faulty.
    """
    test = data.endswith(_TEST)
    place = data.removesuffix(_TEST)
    if place == "fashion-scenes":
        return open_fashion_scenes(data, "test" if test else "validation")
    root = Path(place).expanduser()
    if not root.is_dir():
        raise UserError(
            f"--data {data} is neither a folder of boxes nor fashion-scenes{nearest(data, ['fashion-scenes'])}"
        )
    classes, listed = read_listing(root, "train")
    validation_classes, validation = read_listing(root, "test" if test else "validation")
    if classes != validation_classes:
        only = sorted(set(classes) ^ set(validation_classes))
        raise UserError(f"the splits of {root} have different classes: '{(only or classes)[0]}'")
    if not classes:
        raise UserError(f"{root} has no boxes in its training images")
    found = DetectionData(data, classes, FileScenes([], []), FileScenes([], []))
    for split, images in (("train", listed), ("validation", validation)):
        source, skipped = _source(images, classes, found.faults, boxes, on_bad_image)
        setattr(found, split, source)
        found.skipped += skipped
    return found


def hold_out(data: DetectionData, share: float) -> DetectionData:
    """Validate on a random share of the training images, the same in every run, and train on the rest."""
    order = draws.permutation(len(data.train), _HOLD_OUT_SEED, 0, draws.HOLD_OUT)
    count = min(len(order) - 1, max(1, round(share * len(order))))
    held, left = order[:count].sort().values, order[count:].sort().values
    return replace(data, train=data.train.subset(left), validation=data.train.subset(held))


def _source(
    images: list[Listed], classes: list[str], faults: list[str], boxes: str, on_bad_image: str
) -> tuple[FileScenes, int]:
    """The sound part of a split; adds to `faults`, or refuses the first."""
    present = [image for image in images if image.path.is_file()]
    here = [f"{image.name} is missing ({image.path})" for image in images if not image.path.is_file()]
    undecodable = find_faults([str(image.path) for image in present])
    if undecodable and on_bad_image == "stop":
        path, reason = next(iter(undecodable.items()))
        more = f", nor can {len(undecodable) - 1} more" if len(undecodable) > 1 else ""
        raise UserError(f"{path} cannot be decoded ({reason}){more}: mend or remove it, or give --on_bad_image skip")
    paths: list[str] = []
    annotations: list[Annotation] = []
    for image in present:
        if str(image.path) in undecodable:
            continue
        size = image.size or image_size(image.path)
        corners = image.boxes
        if image.relative:
            corners = [[x1 * size[1], y1 * size[0], x2 * size[1], y2 * size[0]] for x1, y1, x2, y2 in corners]
        annotation, found = checked(image.name, size, corners, image.labels, classes, image.crowd)
        here += found
        paths.append(str(image.path))
        annotations.append(annotation)
    if here and boxes == "refuse":
        more = f", and {len(here) - 1} more like it" if len(here) > 1 else ""
        raise UserError(f"{here[0]}{more}: mend it, or leave such boxes and images out with --boxes skip")
    faults += here
    if not annotations or not torch.tensor([len(one.boxes) for one in annotations]).any():
        raise UserError("a split has no image with a sound box")
    return FileScenes(paths, annotations), len(undecodable)
