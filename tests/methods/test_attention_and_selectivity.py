"""AT and NST: what positions say, whatever the channels; against loops, limits, and the values of other code."""

import math

import pytest
import torch
from wave_maps import wave

from crossdistill.functional import at_loss, nst_loss
from crossdistill.methods.at import AT
from crossdistill.modules.alignment import match_grids
from crossdistill.testing import TINY, staged
from crossdistill.testing.contract import draw_batch

STUDENT, TEACHER = wave(2, 3, 4, 4), wave(2, 5, 4, 4, phase=0.3) + 0.2


def test_attention_transfer_by_loops() -> None:
    total = 0.0
    for image in range(2):
        maps = []
        for features in (STUDENT[image], TEACHER[image]):
            channels = features.shape[0]
            energy = [
                sum(features[c, place // 4, place % 4].item() ** 2 for c in range(channels)) / channels
                for place in range(16)
            ]
            length = math.sqrt(sum(e * e for e in energy))
            maps.append([e / length for e in energy])
        total += sum((a - b) ** 2 for a, b in zip(*maps, strict=True))
    assert at_loss(STUDENT, TEACHER).item() == pytest.approx(total / 32, rel=1e-12)


def test_selectivity_by_loops() -> None:
    def unit(features: torch.Tensor) -> list[list[float]]:
        rows = features.flatten(1).tolist()
        return [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows]

    def kernel(one: list[list[float]], other: list[list[float]]) -> float:
        values = [sum(a * b for a, b in zip(x, y, strict=True)) ** 2 for x in one for y in other]
        return sum(values) / len(values)

    total = 0.0
    for image in range(2):
        s, t = unit(STUDENT[image]), unit(TEACHER[image])
        total += kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)
    assert nst_loss(STUDENT, TEACHER).item() == pytest.approx(total / 2, rel=1e-12)


# Computed with `AT.py` and `NST.py` of github.com/HobbitLong/RepDistiller on these inputs, in float64.
@pytest.mark.parametrize(
    ("loss", "same_grid", "finer_student"),
    [(at_loss, 0.002505295532318944, 0.002797017770174211), (nst_loss, 0.056744144034459154, 0.9512073494713736)],
)
def test_values_of_the_benchmark(loss, same_grid: float, finer_student: float) -> None:  # type: ignore[no-untyped-def]
    assert loss(STUDENT, TEACHER).item() == pytest.approx(same_grid, rel=1e-12)
    assert loss(*match_grids(wave(2, 3, 8, 8), TEACHER)).item() == pytest.approx(finer_student, rel=1e-12)


@pytest.mark.parametrize("loss", [at_loss, nst_loss])
def test_channels_may_be_permuted_scaled_and_repeated(loss) -> None:  # type: ignore[no-untyped-def]
    other = 3.0 * TEACHER[:, [4, 2, 0, 1, 3]].repeat(1, 2, 1, 1)
    assert loss(other, TEACHER).item() == pytest.approx(0.0, abs=1e-15)
    assert loss(STUDENT, TEACHER).item() > 1e-3


@pytest.mark.parametrize("loss", [at_loss, nst_loss])
def test_one_position_teaches_nothing(loss) -> None:  # type: ignore[no-untyped-def]
    student = wave(2, 3, 1, 1, phase=0.1).requires_grad_()
    value = loss(student, wave(2, 5, 1, 1, phase=0.3))
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-15)
    assert student.grad is not None and student.grad.abs().max() < 1e-10


@pytest.mark.parametrize("loss", [at_loss, nst_loss])
def test_gradients_match_finite_differences(loss) -> None:  # type: ignore[no-untyped-def]
    student = wave(2, 3, 3, 2, phase=0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, wave(2, 4, 3, 2, phase=0.6)), (student,))


def test_the_loss_is_exact_under_autocast() -> None:
    exact = at_loss(STUDENT.float(), TEACHER.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(at_loss(STUDENT.float(), TEACHER.float()), exact)
        torch.testing.assert_close(nst_loss(STUDENT.float(), TEACHER.float()), nst_loss(STUDENT, TEACHER).float())


def test_weight_shrinks_on_maps_smaller_than_it_was_made_for() -> None:
    method = AT(staged("vit", TINY["vit"]), staged("mlp", TINY["mlp"])).eval()
    images, labels = draw_batch()
    with torch.no_grad():
        terms = method(images, labels)
        loss = at_loss(method.student(images).features[2], method.teach(images).features[2])
    # 4x4 patches beside the 7x7 of ImageNet's last map.
    torch.testing.assert_close(terms["stage3"], 1000 * 16 / 49 * loss)
