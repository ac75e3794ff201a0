"""Batches of boxes: what they depend on, and that boxes go where the pixels go."""

from pathlib import Path
from typing import Any

import pytest
import torch

from crossdistill.data import Batch
from crossdistill.detection import DetectionData, open_detection_data
from crossdistill.detection.loaders import SceneEvalLoader, SceneTrainLoader
from crossdistill.errors import UserError
from crossdistill.options import DataOptions


@pytest.fixture(scope="module")
def data(yolo: Path) -> DetectionData:
    return open_detection_data(str(yolo))


def loader(data: DetectionData, options: DataOptions | None = None, **changes: Any) -> SceneTrainLoader:
    values: dict[str, Any] = {"image_size": (64, 64), "batch_size": 4, "data_seed": 3, "device": "cpu"}
    return SceneTrainLoader(data.train, options=options or DataOptions(workers=0), **(values | changes))


def same(ours: Batch, theirs: Batch) -> bool:
    targets: list = list(zip(ours.labels, theirs.labels, strict=True))
    boxes = all(torch.equal(a[key], b[key]) for a, b in targets for key in ("boxes", "labels"))  # type: ignore[call-overload]
    return boxes and torch.equal(ours.images, theirs.images) and torch.equal(ours.indices, theirs.indices)


def joined(batches: list[Batch]) -> Batch:
    targets: Any = [target for batch in batches for target in batch.labels]
    return Batch(torch.cat([b.images for b in batches]), targets, torch.cat([b.indices for b in batches]))


def test_a_batch_depends_on_seed_epoch_and_step_alone(data: DetectionData) -> None:
    whole = list(loader(data).epoch(1))
    assert len(whole) == 3 and whole[0].images.shape == (4, 3, 64, 64)
    torch.rand(7)
    assert all(same(*pair) for pair in zip(loader(data).epoch(1, start_step=1), whole[1:], strict=True))
    parts = list(loader(data, accumulate=2).epoch(1))
    assert same(joined(parts[:2]), whole[0])
    ranks = [next(loader(data, rank=rank, world_size=2).epoch(1)) for rank in range(2)]
    assert same(joined(ranks), whole[0])
    assert not same(next(loader(data).epoch(2)), whole[0])
    assert not same(next(loader(data, data_seed=4).epoch(1)), whole[0])


@pytest.mark.parametrize("crop", ["resized", "none"])
def test_boxes_follow_their_pixels(data: DetectionData, crop: str) -> None:
    options = DataOptions(workers=0, crop=crop, flip=0.5)  # type: ignore[arg-type]
    seen = mirrored = 0
    for epoch in range(3):
        for batch in loader(data, options).epoch(epoch):
            for image, target, index in zip(batch.images, batch.labels, batch.indices, strict=True):
                before = data.train.annotations[int(index)].boxes[0]
                for box, label in zip(target["boxes"].int().tolist(), target["labels"].tolist(), strict=True):  # type: ignore[call-overload]
                    x, y = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
                    # Class 0 is blue, class 1 red.
                    assert image[2 - 2 * label, y, x] > 0.6, (epoch, box)
                    seen += 1
                # The red object is always in the left half.
                mirrored += bool(crop == "none" and len(target["boxes"]) and target["boxes"][0, 0] > 32)  # type: ignore[call-overload]
                assert before[0] < 32
    assert seen > 30 and (crop == "resized" or mirrored > 5)


def test_evaluation_batches_are_whole_and_in_order(data: DetectionData) -> None:
    batches = list(SceneEvalLoader(data.validation, image_size=(64, 64), batch_size=4, device="cpu", workers=0))
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]
    torch.testing.assert_close(batches[0].labels[1]["boxes"], data.validation.annotations[1].boxes)  # type: ignore[call-overload]
    share = SceneEvalLoader(
        data.validation, image_size=(64, 64), batch_size=4, device="cpu", workers=0, rank=1, world_size=2
    )
    assert [batch.indices.tolist() for batch in share] == [[1, 3, 5]]


def test_augmentation_of_classes_is_refused(data: DetectionData) -> None:
    for options in (DataOptions(mixup=0.2), DataOptions(rand_augment="rand-m9"), DataOptions(crop="shifted")):
        with pytest.raises(UserError, match="is for classification"):
            loader(data, options)
    with pytest.raises(UserError, match="fewer than --batch_size 16"):
        loader(data, batch_size=16)
