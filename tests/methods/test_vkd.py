"""VkD: the projector stays orthogonal, the target is normalised, heads learn what is theirs."""

import pytest
import torch
import torch.nn.functional as F
from wave_maps import wave

from crossdistill.errors import UserError
from crossdistill.functional import kd_loss, vkd_loss
from crossdistill.methods.vkd import OrthogonalProjection, VkD
from crossdistill.testing import TINY, staged
from crossdistill.testing.contract import draw_batch


def test_loss_by_loops() -> None:
    student, teacher = wave(2, 4, scale=3.0), wave(2, 4, phase=0.4)
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        mean = sum(t) / 4
        deviation = (sum((x - mean) ** 2 for x in t) / 4 + 1e-5) ** 0.5
        for a, b in zip(s, t, strict=True):
            gap = abs(a - (b - mean) / deviation)
            total += 0.5 * gap**2 if gap < 1 else gap - 0.5
    assert vkd_loss(student, teacher).item() == pytest.approx(total / 8, rel=1e-10)


def test_gradient_matches_finite_differences() -> None:
    student = wave(3, 4, phase=0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: vkd_loss(s, wave(3, 4, phase=0.7)), (student,))


@pytest.mark.parametrize("widths", [(3, 7), (7, 3), (5, 5)])
def test_projector_stays_orthogonal_under_weight_decay(widths: tuple[int, int]) -> None:
    projector = OrthogonalProjection(*widths).double()
    optimizer = torch.optim.AdamW(projector.parameters(), lr=0.1, weight_decay=0.5)
    before = projector.weight().detach().clone()
    for step in range(5):
        optimizer.zero_grad()
        (projector(wave(6, widths[0])) - wave(6, widths[1], phase=step)).square().mean().backward()
        optimizer.step()
    weight = projector.weight().detach()
    assert weight.shape == (widths[1], widths[0])
    gram = weight.mT @ weight if widths[1] >= widths[0] else weight @ weight.mT
    torch.testing.assert_close(gram, torch.eye(min(widths), dtype=torch.float64))
    assert (weight - before).abs().max() > 0.01, "it is not trained"


def test_widening_keeps_lengths_and_angles() -> None:
    vectors = wave(4, 3)
    projected = OrthogonalProjection(3, 8).double()(vectors)
    torch.testing.assert_close(projected @ projected.mT, vectors @ vectors.mT)


def test_terms_of_a_student_with_two_heads() -> None:
    method = VkD(staged("distilled", TINY["distilled"]), staged("cnn", TINY["cnn"]), feature_weight=2.0).eval()
    images, labels = draw_batch()
    with torch.no_grad():
        terms, student, teacher = method(images, labels), method.student(images), method.teacher(images)  # type: ignore[misc]
    pooled = method.projector(student.final.mean(dim=(2, 3)))
    torch.testing.assert_close(terms["features"], 2.0 * vkd_loss(pooled, teacher.final.mean(dim=(2, 3))))
    torch.testing.assert_close(terms["labels"], F.cross_entropy(student.head_logits["class"], labels))
    torch.testing.assert_close(terms["logits"], kd_loss(student.head_logits["distillation"], teacher.logits, 1.0))


def test_a_teacher_without_a_head() -> None:
    student, teacher = staged("vit", TINY["vit"]), staged("headless", lambda img_size: TINY["cnn"](0, img_size))
    with pytest.raises(UserError, match="has no head"):
        VkD(student, teacher)
    assert list(VkD(student, teacher, logit_weight=0.0)(*draw_batch())) == ["labels", "features"]
