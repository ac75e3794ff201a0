"""PKT's neighbours pair by pair, against the authors' code, and what they do not see."""

import math

import pytest
import torch
from waves import STUDENT_POOLED, TEACHER_POOLED

from crossdistill.functional import pkt_loss


def neighbours(vectors: list[list[float]]) -> list[list[float]]:
    def cosine(a: list[float], b: list[float]) -> float:
        product = sum(x * y for x, y in zip(a, b, strict=True))
        return product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    affinities = [[(1 + cosine(a, b)) / 2 for b in vectors] for a in vectors]
    return [[a / sum(row) for a in row] for row in affinities]


def test_pair_by_pair() -> None:
    ours, theirs = neighbours(STUDENT_POOLED.tolist()), neighbours(TEACHER_POOLED.tolist())
    pairs = [pair for i in range(5) for pair in zip(theirs[i], ours[i], strict=True)]
    expected = sum(t * math.log((t + 1e-7) / (s + 1e-7)) for t, s in pairs) / 25
    assert pkt_loss(STUDENT_POOLED, TEACHER_POOLED).item() == pytest.approx(expected, rel=1e-6)


def test_agrees_with_the_authors() -> None:
    # github.com/passalis/probabilistic_kt at a58fd1b, nn/pkt.py, run on these inputs.
    assert pkt_loss(STUDENT_POOLED, TEACHER_POOLED).item() == pytest.approx(0.012487673465125559, rel=1e-6)


def test_zero_for_vectors_of_the_same_directions_and_above_for_others() -> None:
    lengths = torch.tensor([[1.0], [2.0], [0.5], [3.0], [9.0]], dtype=torch.float64)
    assert pkt_loss(lengths * TEACHER_POOLED, TEACHER_POOLED).item() == pytest.approx(0, abs=1e-9)
    # Each row is a divergence of two distributions.
    assert pkt_loss(STUDENT_POOLED, TEACHER_POOLED) > 0


def test_gradient_matches_finite_differences() -> None:
    student = STUDENT_POOLED.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: pkt_loss(s, TEACHER_POOLED), (student,))
