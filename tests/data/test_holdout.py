from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossdistill.data import ImageData, TensorSource, first_of_each_class, hold_out, open_data
from crossdistill.errors import UserError


def make_data(*counts: int) -> ImageData:
    """So many training images of each class, in an order that mixes the classes; pixel values are the positions."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    pixels = (torch.arange(len(labels)) % 256).byte()[:, None, None, None].expand(-1, 3, 2, 2)
    own = TensorSource(torch.full((4, 3, 2, 2), 7, dtype=torch.uint8), torch.arange(4) % len(counts), "validation")
    names = [f"class {label}" for label in range(len(counts))]
    return ImageData("numbers", names, TensorSource(pixels, labels, "train"), own, skipped=2)


def test_a_share_of_each_class_is_held_out():
    data = make_data(100, 40, 10)
    held = hold_out(data, 0.2)
    assert held.validation.labels.bincount().tolist() == [20, 8, 2]
    assert held.train.labels.bincount().tolist() == [80, 32, 8]
    assert (held.name, held.classes, held.skipped) == (data.name, data.classes, 2)


@given(counts=st.lists(st.integers(2, 30), min_size=1, max_size=5), share=st.floats(0.01, 0.99))
def test_every_training_image_is_on_one_side_and_every_class_on_both(counts: list[int], share: float):
    data = make_data(*counts)
    held = hold_out(data, share)
    assert sorted(held.train.names + held.validation.names) == sorted(data.train.names)
    for source in (held.train, held.validation):
        assert source.labels.bincount(minlength=len(counts)).min() >= 1
        positions = torch.tensor([int(name.removeprefix("train/")) for name in source.names])
        assert torch.equal(positions, positions.sort().values)
        assert torch.equal(source.pixels, data.train.pixels[positions])
        assert torch.equal(source.labels, data.train.labels[positions])


def test_the_choice_is_the_same_everywhere():
    pixels, labels = torch.zeros(24, 3, 2, 2, dtype=torch.uint8), torch.arange(24) % 2
    data = ImageData("numbers", ["even", "odd"], TensorSource(pixels, labels), TensorSource(pixels, labels))
    # In plain Python integers: the first three of each class by the splitmix64 hash of (8, 0, 0, position, 0).
    expected = ["3", "4", "5", "9", "16", "20"]
    assert hold_out(data, 0.25).validation.names == expected
    assert hold_out(data, 0.25, seed=1).validation.names != expected


def test_a_class_without_training_images_is_no_obstacle():
    data = make_data(4, 0, 4)
    assert hold_out(data, 0.5).validation.labels.bincount().tolist() == [2, 0, 2]


def test_a_class_of_one_image_is_refused():
    with pytest.raises(UserError, match="--held_out 0.2: class 'class 1' has one training image") as refusal:
        hold_out(make_data(5, 1), 0.2)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_no_share_is_refused(share: float):
    with pytest.raises(UserError, match="--held_out .*: give a number above 0 and below 1"):
        hold_out(make_data(5, 5), share)


def test_files_are_held_out_by_name(make_folder):
    held = hold_out(open_data(str(make_folder(images=4))), 0.25)
    assert len(held.validation) == 2 and len(held.train) == 6
    assert all(name.startswith("train/") for name in held.validation.names)


def test_the_first_images_of_each_class(image_folder: Path):
    data = open_data(str(image_folder))
    fewer = first_of_each_class(data, 3)
    assert fewer.train.names == [f"train/{name}/{i}.png" for name in data.classes for i in ("0", "1", "10")]
    assert fewer.validation is data.validation
    with pytest.raises(UserError, match="--images_per_class 21: class 'blue' has 20 training images"):
        first_of_each_class(data, 21)
