"""AB: the hinge on both sides of a boundary, and the two parts of a training."""

import pytest
import torch
from wave_maps import wave

from crossdistill.functional import ab_loss
from crossdistill.methods.ab import AB
from crossdistill.testing import TINY, draw_batch, staged

STUDENT, TEACHER = wave(2, 5, 3, 3, scale=1.5), wave(2, 5, 3, 3, phase=0.4, scale=1.2) - 0.1


@pytest.mark.parametrize("margin", [1.0, 0.3])
def test_by_loops(margin: float) -> None:
    total = 0.0
    for s, t in zip(STUDENT.flatten().tolist(), TEACHER.flatten().tolist(), strict=True):
        if t > 0 and s < margin:
            total += (margin - s) ** 2
        if t <= 0 and s > -margin:
            total += (margin + s) ** 2
    assert ab_loss(STUDENT, TEACHER, margin).item() == pytest.approx(total / 2, rel=1e-12)


def test_values_of_the_benchmark() -> None:
    # `ABLoss` of github.com/HobbitLong/RepDistiller (distiller_zoo/AB.py) on these inputs in float64: one stage, and
    # two of which the first weighs half. It multiplies by 3 / 1000, which is `feature_weight`.
    assert 3e-3 * ab_loss(STUDENT, TEACHER).item() == pytest.approx(0.04357010567239028, rel=1e-12)
    assert 3e-3 * 0.5 * ab_loss(STUDENT, TEACHER).item() == pytest.approx(0.02178505283619514, rel=1e-12)
    assert 3e-3 * ab_loss(STUDENT * 0.5, TEACHER + 0.3).item() == pytest.approx(0.054145977862498654, rel=1e-12)


def test_beyond_the_margin_on_the_right_side_nothing_is_asked() -> None:
    teacher = torch.tensor([0.1, -0.1, 0.0]).reshape(1, 3, 1, 1)
    student = torch.tensor([1.5, -1.5, -1.0]).reshape(1, 3, 1, 1).requires_grad_()
    loss = ab_loss(student, teacher)
    loss.backward()
    assert loss.item() == 0.0 and student.grad is not None and not student.grad.any()
    # Of the teacher the sign counts alone.
    torch.testing.assert_close(ab_loss(STUDENT, TEACHER), ab_loss(STUDENT, 100 * TEACHER))


def test_gradient_matches_finite_differences() -> None:
    student = STUDENT.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: ab_loss(s, TEACHER), (student,))


def test_boundaries_come_first_and_labels_behind_them() -> None:
    method = AB(staged("cnn", TINY["cnn"]), staged("vit", TINY["vit"]), initialization=0.25).train()
    images, labels = draw_batch()
    for progress, labels_count in ((0.0, False), (0.24, False), (0.25, True), (1.0, True)):
        method.set_progress(progress, 0.0)
        terms = method(images, labels)
        assert bool(terms["labels"] > 0) is labels_count
        assert bool(terms["stage4"] > 0) is not labels_count
        method.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    always = AB(staged("cnn", TINY["cnn"]), staged("vit", TINY["vit"]), initialization=1.0).train()
    terms = always(images, labels)
    assert terms["labels"] > 0 and terms["stage1"] > 0


def test_a_stage_nearer_the_answer_weighs_twice_as_much() -> None:
    method = AB(staged("cnn", TINY["cnn"]), staged("vit", TINY["vit"]), initialization=1.0).train()
    images, labels = draw_batch()
    student, teacher = method.student(images), method.teacher(images)  # type: ignore[misc]
    terms = method(images, labels)
    pairs = method.alignment(student, teacher)
    for k, weight in ((3, 1.0), (2, 0.5), (0, 0.125)):
        ours, theirs = pairs[k]
        expected = 3e-3 * weight * ab_loss(method.connectors[k](ours), theirs)
        torch.testing.assert_close(terms[f"stage{k + 1}"], expected, rtol=1e-4, atol=1e-5)
