"""RKD's distances and angles pair by pair, against the authors' code, and what they do not see."""

import math

import pytest
import torch
from waves import STUDENT_POOLED, TEACHER_POOLED

from crossdistill.functional import rkd_loss
from crossdistill.methods.rkd import angle_loss, distance_loss

Vectors = list[list[float]]


def huber(x: float) -> float:
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def difference(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def norm(a: list[float]) -> float:
    return math.sqrt(sum(x * x for x in a))


def distances(vectors: Vectors) -> Vectors:
    all_pairs = [[norm(difference(a, b)) for b in vectors] for a in vectors]
    positive = [d for row in all_pairs for d in row if d > 0]
    mean = sum(positive) / len(positive)
    return [[d / mean for d in row] for row in all_pairs]


def cosine(vectors: Vectors, i: int, j: int, k: int) -> float:
    """Of the angle at j; 0 where a side has no length."""
    a, b = difference(vectors[i], vectors[j]), difference(vectors[k], vectors[j])
    return sum(x * y for x, y in zip(a, b, strict=True)) / (norm(a) * norm(b)) if norm(a) * norm(b) else 0.0


def test_pair_by_pair() -> None:
    ours, theirs = STUDENT_POOLED.tolist(), TEACHER_POOLED.tolist()
    rows = zip(distances(ours), distances(theirs), strict=True)
    expected_distance = sum(huber(a - b) for row in rows for a, b in zip(*row, strict=True)) / 25
    triples = [(i, j, k) for i in range(5) for j in range(5) for k in range(5)]
    expected_angle = sum(huber(cosine(ours, *triple) - cosine(theirs, *triple)) for triple in triples) / 125
    assert distance_loss(STUDENT_POOLED, TEACHER_POOLED).item() == pytest.approx(expected_distance, rel=1e-10)
    assert angle_loss(STUDENT_POOLED, TEACHER_POOLED).item() == pytest.approx(expected_angle, rel=1e-10)
    whole = rkd_loss(STUDENT_POOLED, TEACHER_POOLED, 3.0, 7.0).item()
    assert whole == pytest.approx(3 * expected_distance + 7 * expected_angle, rel=1e-10)


def test_agrees_with_the_authors() -> None:
    # github.com/lenscloth/RKD at 0a6c3c0, metric/loss.py; the sum, mdistiller at a08d46f, distillers/RKD.py.
    assert distance_loss(STUDENT_POOLED, TEACHER_POOLED).item() == pytest.approx(0.01601276236050913, rel=1e-8)
    assert angle_loss(STUDENT_POOLED, TEACHER_POOLED).item() == pytest.approx(0.017573952243375535, rel=1e-8)
    assert rkd_loss(STUDENT_POOLED, TEACHER_POOLED, 25.0, 50.0).item() == pytest.approx(1.279016671181505, rel=1e-8)


def test_zero_for_embeddings_that_are_scaled_moved_or_turned() -> None:
    rotation = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64)).Q
    same = 3.5 * TEACHER_POOLED @ rotation + 2
    assert rkd_loss(same, TEACHER_POOLED, 25.0, 50.0).item() == pytest.approx(0, abs=1e-12)
    wider = torch.cat([TEACHER_POOLED, torch.full((5, 3), 0.7, dtype=torch.float64)], dim=1)
    assert rkd_loss(wider, TEACHER_POOLED, 25.0, 50.0).item() == pytest.approx(0, abs=1e-12)


def test_gradient_matches_finite_differences() -> None:
    student = STUDENT_POOLED.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: rkd_loss(s, TEACHER_POOLED, 25.0, 50.0), (student,))


def test_angles_at_some_images_are_a_part_of_the_mean() -> None:
    parts = []
    for turn in range(0, 5):
        ours, theirs = STUDENT_POOLED.roll(-turn, dims=0), TEACHER_POOLED.roll(-turn, dims=0)
        parts.append(angle_loss(ours, theirs, vertices=1))
    torch.testing.assert_close(torch.stack(parts).mean(), angle_loss(STUDENT_POOLED, TEACHER_POOLED))


def test_one_image_and_two_images_alike_have_a_finite_gradient() -> None:
    for student in (STUDENT_POOLED[:1].clone(), STUDENT_POOLED[[0, 0, 1]].clone()):
        student.requires_grad_()
        loss = rkd_loss(student, student.detach() * 2, 25.0, 50.0)
        loss.backward()
        assert student.grad is not None
        assert loss.item() == pytest.approx(0, abs=1e-12)
        assert torch.isfinite(student.grad).all()
