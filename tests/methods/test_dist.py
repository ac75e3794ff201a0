"""DIST's correlations element by element, against the authors' code, and what they do not see."""

import math

import pytest
import torch
from torch import Tensor
from waves import STUDENT_LOGITS, TEACHER_LOGITS

from crossdistill.functional import dist_loss


def pearson(one: list[float], other: list[float]) -> float:
    a = [x - sum(one) / len(one) for x in one]
    b = [x - sum(other) / len(other) for x in other]
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def softmax(row: list[float], t: float) -> list[float]:
    powers = [math.exp(x / t) for x in row]
    return [power / sum(powers) for power in powers]


def test_element_by_element() -> None:
    ours = [softmax(row, 2.0) for row in STUDENT_LOGITS.tolist()]
    theirs = [softmax(row, 2.0) for row in TEACHER_LOGITS.tolist()]
    between = 1 - sum(pearson(a, b) for a, b in zip(ours, theirs, strict=True)) / 5
    columns = zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True)
    within = 1 - sum(pearson(list(a), list(b)) for a, b in columns) / 7
    for beta, gamma in ((1.0, 0.0), (0.0, 1.0), (2.0, 0.5)):
        actual = dist_loss(STUDENT_LOGITS, TEACHER_LOGITS, beta, gamma, 2.0).item()
        assert actual == pytest.approx(4 * (beta * between + gamma * within), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "expected"), [((2.0, 2.0, 1.0), 3.3108291162984624), ((1.0, 0.5, 4.0), 14.611383559734387)]
)
def test_agrees_with_the_authors(arguments: tuple[float, float, float], expected: float) -> None:
    # github.com/hunto/image_classification_sota at 6f7a70a, lib/models/losses/dist_kd.py, run on these inputs.
    assert dist_loss(STUDENT_LOGITS, TEACHER_LOGITS, *arguments).item() == pytest.approx(expected, rel=1e-9)


def test_zero_for_equal_logits_and_for_any_linear_function_of_the_probabilities() -> None:
    assert dist_loss(TEACHER_LOGITS, TEACHER_LOGITS, 1.0, 1.0, 1.0).item() == pytest.approx(0, abs=1e-5)
    # Mixed with uniform probabilities the student is less sure, by the same factor everywhere.
    unsure = (0.3 * TEACHER_LOGITS.softmax(dim=1) + 0.7 / 7).log()
    assert dist_loss(unsure, TEACHER_LOGITS, 1.0, 1.0, 1.0).item() == pytest.approx(0, abs=1e-5)


def test_between_classes_each_row_may_have_a_scale_of_its_own() -> None:
    shares = torch.tensor([[0.1], [0.9], [0.5], [0.3], [0.7]], dtype=torch.float64)
    unsure = (shares * TEACHER_LOGITS.softmax(dim=1) + (1 - shares) / 7).log()
    assert dist_loss(unsure, TEACHER_LOGITS, 1.0, 0.0, 1.0).item() == pytest.approx(0, abs=1e-5)
    assert dist_loss(unsure, TEACHER_LOGITS, 0.0, 1.0, 1.0).item() > 0.01


def test_gradient_matches_finite_differences() -> None:
    def loss(student: Tensor) -> Tensor:
        return dist_loss(student, TEACHER_LOGITS, 1.0, 2.0, 1.0)

    assert torch.autograd.gradcheck(loss, (STUDENT_LOGITS.clone().requires_grad_(),))


def test_logits_that_do_not_vary_have_no_correlation_and_a_finite_gradient() -> None:
    # What a head that starts at zero says; and a batch of one has no relations within classes.
    student = torch.zeros(1, 4, requires_grad=True)
    loss = dist_loss(student, torch.tensor([[4.0, 0.0, 1.0, 2.0]]), 1.0, 1.0, 1.0)
    loss.backward()
    assert student.grad is not None
    assert loss.item() == pytest.approx(2, abs=1e-5)
    assert torch.isfinite(student.grad).all()
