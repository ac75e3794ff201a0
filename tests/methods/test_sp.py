"""SP's similarities pair by pair, against other code that its authors verified, and what they do not see."""

import math

import pytest
import torch
from waves import STUDENT_POOLED, TEACHER_POOLED

from crossdistill.errors import UserError
from crossdistill.functional import sp_loss
from crossdistill.methods.sp import SP
from crossdistill.testing import TINY, draw_batch, staged


def similarities(vectors: list[list[float]]) -> list[list[float]]:
    rows = []
    for a in vectors:
        row = [sum(x * y for x, y in zip(a, b, strict=True)) for b in vectors]
        length = math.sqrt(sum(x * x for x in row))
        rows.append([x / length for x in row])
    return rows


def test_pair_by_pair() -> None:
    ours, theirs = similarities(STUDENT_POOLED.tolist()), similarities(TEACHER_POOLED.tolist())
    expected = sum((a - b) ** 2 for i in range(5) for a, b in zip(ours[i], theirs[i], strict=True)) / 25
    assert sp_loss(STUDENT_POOLED, TEACHER_POOLED).item() == pytest.approx(expected, rel=1e-12)


def test_agrees_with_mdistiller() -> None:
    # github.com/megvii-research/mdistiller at a08d46f, mdistiller/distillers/SP.py, run on these inputs.
    assert sp_loss(STUDENT_POOLED, TEACHER_POOLED).item() == pytest.approx(0.08665733797932028, rel=1e-10)


def test_maps_are_compared_as_vectors_whatever_their_scale() -> None:
    student, teacher = STUDENT_POOLED.reshape(5, 1, 2, 2), 4 * TEACHER_POOLED.reshape(5, 1, 3, 3)
    torch.testing.assert_close(sp_loss(student, teacher), sp_loss(STUDENT_POOLED, TEACHER_POOLED))
    assert sp_loss(2 * teacher, teacher).item() == pytest.approx(0, abs=1e-12)


def test_gradient_matches_finite_differences() -> None:
    student = STUDENT_POOLED.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: sp_loss(s, TEACHER_POOLED), (student,))


def test_what_is_compared() -> None:
    student, teacher = staged("cnn", TINY["cnn"]), staged("vit", TINY["vit"])
    images, labels = draw_batch()
    for feature, field in (("map", "final"), ("pooled", "pooled")):
        method = SP(student, teacher, similarity_weight=10.0, feature=feature).eval()
        expected = 10 * sp_loss(getattr(student(images), field), getattr(teacher(images), field))
        torch.testing.assert_close(method(images, labels)["similarities"], expected)


def test_a_headless_teacher_is_taken() -> None:
    student = staged("cnn", TINY["cnn"])
    teacher = staged("headless", lambda img_size: TINY["vit"](num_classes=0, img_size=img_size))
    assert teacher.num_classes == 0
    try:
        terms = SP(student, teacher)(*draw_batch())
    except UserError as error:
        raise AssertionError("SP reads no logits") from error
    assert torch.isfinite(terms["similarities"])
