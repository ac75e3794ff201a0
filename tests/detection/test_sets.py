"""Sets of boxes on disk: three layouts of one content, and what is wrong with them."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from crossdistill.detection import open_detection_data
from crossdistill.detection.sets import hold_out
from crossdistill.detection.sources import fingerprint
from crossdistill.errors import UserError


@pytest.mark.parametrize("layout", ["coco", "voc", "yolo"])
def test_every_layout_gives_the_same_boxes(layout: str, listed: dict, request: pytest.FixtureRequest) -> None:
    data = open_detection_data(str(request.getfixturevalue(layout)))
    assert data.classes == ["blue", "red"] and not data.faults and not data.skipped
    for source, split in ((data.train, "train"), (data.validation, "val")):
        expected = dict(listed[split])
        assert sorted(Path(name).name for name in source.names) == sorted(expected)
        for k, annotation in enumerate(source.annotations):
            objects = expected[Path(annotation.name).name]
            torch.testing.assert_close(annotation.boxes, torch.tensor([box for _, box in objects]).float())
            assert [data.classes[label] for label in annotation.labels] == [kind for kind, _ in objects]
            assert annotation.size == (48, 64) and source.read(k).size == (64, 48)


def broken(coco: Path, folder: Path) -> Path:
    """A copy with a box outside, one of an unknown class, and an image that is missing."""
    root = folder / "broken"
    shutil.copytree(coco, root)
    file = root / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [50, 10, 30, 10]
    content["annotations"][1]["category_id"] = 99
    file.write_text(json.dumps(content))
    (root / "images" / "train5.png").unlink()
    return root


def test_faults_are_refused_or_left_out_and_told(coco: Path, tmp_path: Path) -> None:
    root = broken(coco, tmp_path)
    with pytest.raises(UserError, match=r"train5.png is missing .*, and 2 more like it: .*--boxes skip"):
        open_detection_data(str(root))
    data = open_detection_data(str(root), boxes="skip")
    assert len(data.train) == 11 and "train/5" not in data.train.names
    assert [fault.partition(" ")[0] for fault in data.faults] == ["train5.png", "train0.png:", "train0.png:"]
    assert len(data.train.annotations[0].boxes) == 0
    # Nothing was wrong with the others.
    sound = open_detection_data(str(coco))
    assert torch.equal(data.train.annotations[1].boxes, sound.train.annotations[1].boxes)
    assert fingerprint(data.train) != fingerprint(sound.train)
    assert fingerprint(data.validation) == fingerprint(sound.validation)


def test_crowds_are_marked(coco: Path, tmp_path: Path) -> None:
    root = tmp_path / "crowd"
    shutil.copytree(coco, root)
    file = root / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(content))
    assert open_detection_data(str(root)).validation.annotations[0].crowd.tolist() == [True, False]


def test_what_is_no_set_is_refused_in_one_line(coco: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no set of boxes: give COCO"):
        open_detection_data(str(tmp_path))
    with pytest.raises(UserError, match="did you mean 'fashion-scenes'"):
        open_detection_data("fashion-scene")
    root = tmp_path / "damaged"
    shutil.copytree(coco, root)
    (root / "annotations" / "instances_train.json").write_text("{")
    with pytest.raises(UserError, match="instances_train.json is damaged"):
        open_detection_data(str(root))
    with pytest.raises(UserError, match="no instances_test"):
        open_detection_data(f"{coco}:test")


def test_held_out_images_are_training_images_of_their_own(yolo: Path) -> None:
    data = open_detection_data(str(yolo))
    held = hold_out(data, 0.25)
    assert len(held.validation) == 3 and len(held.train) == 9
    assert set(held.validation.names) | set(held.train.names) == set(data.train.names)
    assert hold_out(data, 0.25).validation.names == held.validation.names
