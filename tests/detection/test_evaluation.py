"""Average precision of known answers, and pictures of them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from crossdistill.data import Batch
from crossdistill.detection.boxes import Annotation
from crossdistill.detection.drawing import FOUND, INVENTED, MISSED, draw_judged, judge
from crossdistill.detection.evaluation import evaluate_boxes
from crossdistill.staged import Outputs

pytest.importorskip("faster_coco_eval")
# In images of 200 x 100 pixels, which a batch of 100 x 100 shows at half their size.
SIZE, BATCH = (100, 200), (100, 100)
SMALL, LARGE = [10.0, 10, 30, 30], [60.0, 0, 190, 90]


class Known(nn.Module):
    """In the place of a detector: finds in each image what it is told, in pixels of the batch."""

    def __init__(self, found: list[dict[str, torch.Tensor]]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.found, self.classes, self.image_size = found, ["cat", "dog", "cow"], BATCH

    def forward(self, images: torch.Tensor) -> Outputs:
        return Outputs()

    def detect(self, outputs: Outputs) -> list[dict[str, torch.Tensor]]:
        return self.found


def found(boxes: list[list[float]], scores: list[float], labels: list[int]) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4) / 2,
        "scores": torch.tensor(scores),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


def evaluate(answers: list[dict[str, torch.Tensor]], crowd: bool = False) -> dict[str, float]:
    truth = Annotation("a", SIZE, torch.tensor([SMALL, LARGE]), torch.tensor([0, 1]), torch.tensor([False, crowd]))
    source: Any = SimpleNamespace(annotations=[truth] * len(answers))
    batch = Batch(torch.zeros(len(answers), 3, *BATCH), [], torch.arange(len(answers)))  # type: ignore[arg-type]
    kept: dict[int, dict[str, torch.Tensor]] = {}
    result = evaluate_boxes(Known(answers), [batch], source, found=kept)  # type: ignore[arg-type]
    assert list(kept) == list(range(len(answers)))
    return result


def test_perfect_answers_in_pixels_of_the_images() -> None:
    result = evaluate([found([SMALL, LARGE], [0.9, 0.8], [0, 1])] * 2)
    assert result["images"] == 2
    assert result["ap"] == result["ap50"] == pytest.approx(100)
    # Sizes are those of the images, not of the batch: 20 x 20 is small, 130 x 90 large, and nothing is between them.
    assert result["ap_small"] == result["ap_large"] == pytest.approx(100) and "ap_medium" not in result
    assert result["ap/cat"] == pytest.approx(100) and "ap/cow" not in result


def test_a_class_that_is_never_found_counts_as_nothing() -> None:
    result = evaluate([found([SMALL], [0.9], [0])])
    assert result["ap"] == pytest.approx(50) and result["ap/dog"] == 0


def test_a_loose_box_counts_at_loose_thresholds_only() -> None:
    # 20 x 20 against 20 x 28: an overlap of 0.714, which 0.50, 0.55, 0.60, 0.65 and 0.70 allow.
    result = evaluate([found([[10, 10, 30, 38], LARGE], [0.9, 0.8], [0, 1])])
    assert result["ap50"] == pytest.approx(100) and result["ap/cat"] == pytest.approx(50)


def test_a_better_scored_invention_halves_the_precision() -> None:
    result = evaluate([found([[100, 60, 120, 80], SMALL, LARGE], [0.95, 0.9, 0.8], [0, 0, 1])])
    assert result["ap/cat"] == pytest.approx(50) and result["ap/dog"] == pytest.approx(100)


def test_a_crowd_is_not_missed() -> None:
    assert evaluate([found([SMALL], [0.9], [0])], crowd=True)["ap"] == pytest.approx(100)


def test_each_object_is_found_once_and_by_its_own_class() -> None:
    truth = {"boxes": torch.tensor([SMALL, LARGE]), "labels": torch.tensor([0, 1])}
    boxes = torch.tensor([SMALL, SMALL, LARGE])
    right, missed = judge(boxes, torch.tensor([0, 0, 2]), truth)
    assert right.tolist() == [True, False, False] and missed.tolist() == [False, True]
    assert judge(boxes[:0], torch.zeros(0, dtype=torch.int64), truth)[1].all()


def test_found_missed_and_invented_have_colours_of_their_own() -> None:
    from PIL import Image, ImageColor

    truth = {"boxes": torch.tensor([SMALL, LARGE]), "labels": torch.tensor([0, 1])}
    answer = {
        "boxes": torch.tensor([SMALL, [40.0, 50, 55, 80], LARGE]),
        "scores": torch.tensor([0.9, 0.8, 0.1]),
        "labels": torch.tensor([0, 2, 1]),
    }
    picture = draw_judged(Image.new("RGB", (200, 100)), answer, truth, ["cat", "dog", "cow"], min_score=0.5)
    assert picture.size == (400, 200)
    # At the lower right corners, which no label hides; the box of a low score counts as not found.
    for box, colour in ((SMALL, FOUND), ([40, 50, 55, 80], INVENTED), (LARGE, MISSED)):
        assert picture.getpixel((int(2 * box[2]), int(2 * box[3]) - 2)) == ImageColor.getrgb(colour)
