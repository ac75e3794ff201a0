"""What a study judges by, against values worked out by hand."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from crossdistill.data import Batch
from crossdistill.errors import UserError
from crossdistill.options import TrainingOptions
from crossdistill.study.engines import Outcome
from crossdistill.study.metrics import TopK, accuracy_of_classes, agreement, calibration_error
from crossdistill.study.progress import Progress
from crossdistill.study.runs import Run
from crossdistill.study.shuffled import ShuffledKD
from crossdistill.study.study import Row
from crossdistill.study.workers import visible_device
from crossdistill.testing import SIDE, TINY, staged
from crossdistill.training.run_folder import Predictions


def predictions(student: list[list[float]], labels: list[int], teacher: list[list[float]] | None = None) -> Predictions:
    return Predictions(
        torch.tensor(student),
        torch.tensor(teacher) if teacher is not None else None,
        torch.tensor(labels),
        [str(i) for i in range(len(labels))],
        ["a", "b", "c"],
    )


THREE = [[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [0.0, 1.0, 2.0]]


def test_top_k() -> None:
    said = predictions(THREE, [0, 2, 2, 0])
    assert TopK(1).evidence(said).tolist() == [True, False, False, False]
    assert TopK(2).evidence(said).tolist() == [True, True, True, False]
    assert TopK(2).value(TopK(2).evidence(said)[:, None]).tolist() == [75.0]
    with pytest.raises(UserError, match="metric top5: the data has 3 classes"):
        TopK(5).evidence(said)


def test_agreement_where_the_teacher_is_right_and_wrong() -> None:
    # The teacher answers 0, 0, 1, 1: right, wrong, wrong, wrong; the student answers 0, 0, 1, 2.
    teacher = [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]
    assert agreement(predictions(THREE, [0, 2, 2, 0], teacher)) == (75.0, 100.0, pytest.approx(200 / 3))
    assert agreement(predictions(THREE, [0, 0, 1, 1], teacher)) == (75.0, 75.0, None)
    assert agreement(predictions(THREE, [0, 2, 2, 0])) is None


def test_accuracy_of_classes() -> None:
    found = accuracy_of_classes(predictions(THREE, [0, 0, 2, 0]))
    np.testing.assert_allclose(found, [200 / 3, np.nan, 0.0])


def test_calibration_error_by_hand() -> None:
    # Confidences of 0.9 (three of four right) and of 0.6 (one of two right).
    probabilities = torch.tensor([[0.9, 0.1]] * 4 + [[0.6, 0.4]] * 2)
    labels = torch.tensor([0, 0, 0, 1, 0, 1])
    expected = 100 * (4 / 6 * abs(0.75 - 0.9) + 2 / 6 * abs(0.5 - 0.6))
    assert calibration_error(probabilities.log(), labels) == pytest.approx(expected, abs=1e-3)


def test_a_shuffled_teacher_answers_for_the_image_before() -> None:
    method = ShuffledKD(staged("cnn", TINY["cnn"]), staged("vit", TINY["vit"])).eval()
    images = torch.rand(4, 3, SIDE, SIDE)
    batch = Batch(images, torch.tensor([0, 1, 2, 0]), None)  # type: ignore[arg-type]
    assert method.teacher is not None
    with torch.no_grad():
        _, shuffled = method.run_models(batch, None)
        torch.testing.assert_close(shuffled.logits, method.teacher(images.roll(1, 0)).logits)
        given = method.teacher(images)
        torch.testing.assert_close(method.run_models(batch, given)[1].logits, given.logits.roll(1, 0))
    terms = method(images, batch.labels)
    assert set(terms) == {"labels", "logits"} and terms["logits"] > 0


@pytest.mark.parametrize(
    ("place", "count", "visible", "device"),
    [(0, 1, None, None), (3, 2, None, "1"), (1, 2, "4,6", "6"), (2, 0, None, None)],
)
def test_workers_take_gpus_in_turn(place: int, count: int, visible: str | None, device: str | None) -> None:
    assert visible_device(place, count, visible) == device


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_has_a_line_for_each_run(terminal: bool, tmp_path: object) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=200)
    run = Run("pair", Row("kd"), 0, TrainingOptions(output=str(tmp_path), epochs=3))
    with Progress(console, 2, ["pair/scratch/0"]) as progress:
        progress.began(run)
        progress.ended(Outcome(run, {"top1": 81.25, "seconds": 3.4}))
        progress.ended(Outcome(run, {}, "it is [broken]"))
    said = text.getvalue()
    assert "1 runs are there already" in said
    assert "1/2  pair/kd/0  top-1 81.25 %, 3 s" in said
    assert "2/2  pair/kd/0  failed: it is [broken]" in said
