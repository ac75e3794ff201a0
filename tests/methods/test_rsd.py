"""RSD: the loss against loops, limits and the authors' values; its projector."""

import math

import pytest
import torch
from wave_maps import wave

from crossdistill.functional import rsd_loss
from crossdistill.methods.rsd import RSD
from crossdistill.testing import TINY, staged

STUDENT, TEACHER = wave(6, 4), wave(6, 4, phase=0.5) + 0.1 * wave(6, 4, phase=2.0) ** 2


def test_by_loops() -> None:
    def standardised(vectors: torch.Tensor) -> list[list[float]]:
        columns = []
        for c in range(4):
            column = vectors[:, c].tolist()
            mean = sum(column) / 6
            deviation = math.sqrt(sum((x - mean) ** 2 for x in column) / 6) + 1e-5
            columns.append([(x - mean) / deviation for x in column])
        return columns

    s, t = standardised(STUDENT), standardised(TEACHER)
    expected = 0.0
    for i in range(4):
        for j in range(4):
            correlation = sum(a * b for a, b in zip(t[i], s[j], strict=True)) / 6
            expected += (correlation - 1) ** 2 if i == j else 0.3 * correlation**2
    assert rsd_loss(STUDENT, TEACHER, 0.3).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("kappa", "value"), [(0.01, 0.1771685207875447), (0.5, 2.7823775448516415)])
def test_values_of_the_authors_code(kappa: float, value: float) -> None:
    # `distillers/rsd.py` of github.com/spacewanderx/RSD, in float64.
    assert rsd_loss(STUDENT, TEACHER, kappa).item() == pytest.approx(value, rel=1e-10)


def test_limits() -> None:
    # Uncorrelated channels (a Hadamard matrix' columns): the identity, whatever scale and offset each channel has.
    signs = torch.tensor([[1, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]], dtype=torch.float64)
    assert rsd_loss(signs * torch.tensor([5.0, 0.1, 2.0]) + 3, signs, 1.0).item() == pytest.approx(0.0, abs=1e-6)
    assert rsd_loss(-signs, signs, 1.0).item() == pytest.approx(3 * 4.0, rel=1e-3)
    # One channel everywhere: P is 1 everywhere.
    same = signs[:, :1].expand(-1, 3)
    assert rsd_loss(same, same, 0.5).item() == pytest.approx(0.5 * 6, rel=1e-3)
    # No deviation at all, as in a batch of one.
    assert rsd_loss(torch.ones(1, 3), torch.ones(1, 3), 0.5).item() == 3.0


def test_gradient_matches_finite_differences() -> None:
    student = wave(5, 3, phase=0.2).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: rsd_loss(s, wave(5, 3, phase=0.9) ** 2, 0.1), (student,))


def test_projector_is_the_released_one() -> None:
    method = RSD(staged("cnn", TINY["cnn"]), staged("vit", TINY["vit"]))
    width, teacher_width = method.student.pooled_size, method.teacher.pooled_size  # type: ignore[union-attr]
    assert method.extra_parameters() == 2 * width * width + 2 * 2 * width + 2 * width * teacher_width
    # One image has no batch statistics: the running ones serve, and are left alone.
    before = method.norm.running_mean.clone()  # type: ignore[union-attr]
    assert method.train().project(torch.rand(1, width)).shape == (1, teacher_width)
    assert torch.equal(method.norm.running_mean, before)  # type: ignore[arg-type]
    method.project(torch.rand(2, width))
    assert not torch.equal(method.norm.running_mean, before)  # type: ignore[arg-type]
