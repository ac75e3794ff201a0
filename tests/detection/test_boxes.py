"""Boxes: what is refused, and the way into a batch and back."""

import pytest
import torch
from PIL import Image

from crossdistill.detection.boxes import checked, fit, to_image


def test_faulty_boxes_are_named_and_the_others_kept() -> None:
    boxes = [[1.0, 2, 5, 6], [4, 4, 4, 9], [2, 2, 31, 9], [-1, 0, 5, 20.5], [1, 1, 3, 3], [float("nan"), 1, 3, 3]]
    labels = ["cat", "cat", "cat", "dog", "cow", "cat"]
    annotation, faults = checked("a.png", (20, 30), boxes, labels, ["cat", "dog"])  # type: ignore[arg-type]
    # What sticks out by no more than a pixel is cut.
    assert annotation.boxes.tolist() == [[1, 2, 5, 6], [2, 2, 30, 9], [0, 0, 5, 20]]
    assert annotation.labels.tolist() == [0, 0, 1]
    assert [fault.partition(": ")[2] for fault in faults] == [
        "box 2 (4, 4, 4, 9) is empty",
        "box 5 (1, 1, 3, 3) has the unknown class 'cow'",
        "box 6 (nan, 1, 3, 3) is empty",
    ]


def test_a_box_outside_is_named_with_the_size_of_the_image() -> None:
    _, faults = checked("a.png", (20, 30), [[2, 2, 32, 9]], [0], ["cat"])
    assert faults == ["a.png: box 1 (2, 2, 32, 9) sticks out of the image of 30x20 pixels"]


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (10, 31), (200, 90)])
def test_the_way_back_is_the_inverse(size: tuple[int, int]) -> None:
    boxes = torch.tensor([[1.0, 2, size[1] - 3, size[0] - 4], [0, 0, size[1], size[0]]])
    image, fitted = fit(Image.new("RGB", (size[1], size[0])), boxes, (64, 96))
    assert image.size == (96, 64)
    assert (fitted[:, 2] <= 96).all() and (fitted[:, 3] <= 64).all()
    torch.testing.assert_close(to_image(fitted, size, (64, 96)), boxes, rtol=1e-5, atol=1e-4)


def test_a_box_follows_its_pixels_and_the_rest_is_padding() -> None:
    image = Image.new("RGB", (40, 20))
    image.paste((255, 0, 0), (10, 5, 20, 15))
    fitted, boxes = fit(image, torch.tensor([[10.0, 5, 20, 15]]), (80, 80))
    assert boxes.tolist() == [[20, 10, 40, 30]]
    assert fitted.getpixel((30, 20)) == (255, 0, 0) and fitted.getpixel((60, 20)) == (0, 0, 0)
    assert fitted.getpixel((5, 60)) == (128, 128, 128)
