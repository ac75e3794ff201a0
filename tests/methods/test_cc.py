"""CC's kernel pair by pair, its series against the kernel itself, and the released loss against the code it is from."""

import math

import pytest
import torch
from waves import STUDENT_POOLED, TEACHER_POOLED, wave

from crossdistill.functional import cc_loss
from crossdistill.methods.cc import CC, neighbour_loss
from crossdistill.testing import TINY, draw_batch, staged


def kernel(vectors: list[list[float]], gamma: float, order: int | None) -> list[float]:
    """All pairs; the Gaussian kernel itself without an order."""
    unit = [[x / math.sqrt(sum(y * y for y in a)) for x in a] for a in vectors]
    values = []
    for a in unit:
        for b in unit:
            cosine = sum(x * y for x, y in zip(a, b, strict=True))
            if order is None:
                values.append(math.exp(-gamma * sum((x - y) ** 2 for x, y in zip(a, b, strict=True))))
            else:
                series = sum((2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1))
                values.append(math.exp(-2 * gamma) * series)
    return values


@pytest.mark.parametrize(("gamma", "order", "series"), [(0.4, 2, 2), (0.4, 1, 1), (1.3, 30, None)])
def test_pair_by_pair(gamma: float, order: int, series: int | None) -> None:
    ours, theirs = (kernel(x.tolist(), gamma, series) for x in (STUDENT_POOLED, TEACHER_POOLED))
    expected = sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / 25
    assert cc_loss(STUDENT_POOLED, TEACHER_POOLED, gamma, order).item() == pytest.approx(expected, rel=1e-9)


def test_zero_for_vectors_of_the_same_directions() -> None:
    assert cc_loss(3 * TEACHER_POOLED, TEACHER_POOLED).item() == pytest.approx(0, abs=1e-12)


def test_gradient_matches_finite_differences() -> None:
    student = STUDENT_POOLED.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: cc_loss(s, TEACHER_POOLED), (student,))


def test_the_released_loss_agrees_with_repdistiller() -> None:
    # github.com/HobbitLong/RepDistiller at b84f547, distiller_zoo/CC.py, run on these inputs.
    actual = neighbour_loss(wave(5, 4, 0.5), wave(5, 4, 2.0))
    assert actual.item() == pytest.approx(3.5941211529242567, rel=1e-12)
    # Two images, two values each: |1 - 0| |3 - 1| + |2 - 4| |0 - 5|.
    pair = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[0.0, 4.0], [1.0, 5.0]])
    assert neighbour_loss(*pair).item() == 12
    assert neighbour_loss(pair[0][:1], pair[1][:1]).item() == 0


def test_only_the_released_variant_has_embeddings() -> None:
    student, teacher = staged("cnn", TINY["cnn"]), staged("vit", TINY["vit"])
    assert CC(student, teacher).extra_parameters() == 0
    released = CC(student, teacher, variant="released", width=8)
    assert released.extra_parameters() == 8 * (student.pooled_size + teacher.pooled_size + 2)
    torch.stack(list(released(*draw_batch()).values())).sum().backward()
    assert released.teacher_embedding.weight.grad is not None
    assert (released.correlation_weight, CC(student, teacher).correlation_weight) == (0.02, 100.0)
