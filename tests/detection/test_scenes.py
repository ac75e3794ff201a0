"""Scenes of clothes: the same ones every time, with boxes where the clothes are."""

import numpy as np
import pytest
import torch

from crossdistill.detection import DetectionData, open_detection_data
from crossdistill.detection.scenes import COUNTS, SIDE, FashionScenes


@pytest.fixture(scope="module")
def scenes(monkeypatch_module: pytest.MonkeyPatch) -> DetectionData:
    monkeypatch_module.setitem(COUNTS, "train", 40)
    monkeypatch_module.setitem(COUNTS, "validation", 40)
    return open_detection_data("fashion-scenes")


@pytest.fixture(scope="module")
def monkeypatch_module():  # type: ignore[no-untyped-def]
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_a_scene_is_a_function_of_its_split_and_number(scenes: DetectionData) -> None:
    again = open_detection_data("fashion-scenes")
    assert np.array_equal(scenes.train.read(7), again.train.read(7))
    part = scenes.train.subset(torch.tensor([7, 3]))
    assert part.names == ["train/7", "train/3"]
    assert np.array_equal(part.read(0), scenes.train.read(7))
    assert torch.equal(part.annotations[1].boxes, scenes.train.annotations[3].boxes)
    assert not np.array_equal(scenes.train.read(7), scenes.validation.read(7))


def test_boxes_lie_within_the_scene_and_hold_what_was_put_there(scenes: DetectionData) -> None:
    counts = [len(annotation.boxes) for annotation in scenes.train.annotations]
    assert min(counts) >= 1 and max(counts) > 2
    for annotation in scenes.train.annotations:
        assert annotation.boxes.min() >= 0 and annotation.boxes.max() <= SIDE
        assert ((annotation.boxes[:, 2:] - annotation.boxes[:, :2]) > 1).all()
    # Where nothing is, neighbours differ by noise alone; clothes have edges.
    for index in [k for k, count in enumerate(counts) if count == 1][:5]:
        pixels = np.asarray(scenes.train.read(index)).astype(float)
        x1, y1, x2, y2 = scenes.train.annotations[index].boxes[0].int().tolist()
        outside = np.ones(pixels.shape[:2], dtype=bool)
        outside[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = False
        steps = np.abs(np.diff(pixels, axis=1)).max(axis=2)
        assert steps[y1:y2, x1 : x2 - 1].max() > 1.2 * steps[outside[:, :-1]].max()


def test_the_clothes_of_the_splits_are_different_ones() -> None:
    def clothes(name: str, split: str) -> set[bytes]:
        source = getattr(open_detection_data(name), split)
        assert isinstance(source, FashionScenes) and source.clothes.pixels is not None
        return {image.numpy().tobytes() for image in source.clothes.pixels[:, 0]}

    train, validation = clothes("fashion-scenes", "train"), clothes("fashion-scenes", "validation")
    test = clothes("fashion-scenes:test", "validation")
    assert not train & validation and not train & test and not validation & test
