"""OFD: the partial distance, margins, and the authors' values."""

import pytest
import torch
from wave_maps import wave

from crossdistill.functional import ofd_loss
from crossdistill.methods.ofd import OFD, Connector, Margin
from crossdistill.testing import TINY, staged
from crossdistill.testing.contract import draw_batch

STUDENT, TEACHER = wave(2, 5, 3, 3, scale=1.5), wave(2, 5, 3, 3, phase=0.4, scale=1.2) - 0.1
MARGINS = -0.4 - 0.1 * torch.arange(5, dtype=torch.float64)


def test_by_loops() -> None:
    total = 0.0
    for c in range(5):
        margin = MARGINS[c].item()
        for s, t in zip(STUDENT[:, c].flatten().tolist(), TEACHER[:, c].flatten().tolist(), strict=True):
            target = max(t, margin)
            if s > target or t > 0:
                total += (s - target) ** 2
    assert ofd_loss(STUDENT, TEACHER, MARGINS).item() == pytest.approx(total / 2, rel=1e-12)


def test_value_of_the_authors_code() -> None:
    # `distillation_loss` of github.com/clovaai/overhaul-distillation (CIFAR-100/distiller.py) over the batch size.
    assert ofd_loss(STUDENT, TEACHER, MARGINS).item() == pytest.approx(6.12843681472044, rel=1e-12)


def test_the_student_is_free_below_a_silent_teacher() -> None:
    teacher, margins = torch.full((1, 1, 1, 1), -5.0), torch.tensor([-1.0])
    student = torch.full((1, 1, 1, 1), -7.0, requires_grad=True)
    loss = ofd_loss(student, teacher, margins)
    loss.backward()
    assert loss.item() == 0.0 and student.grad is not None and student.grad.item() == 0.0
    # Above, it is drawn to the margin, not to the teacher's -5.
    assert ofd_loss(torch.zeros(1, 1, 1, 1), teacher, margins).item() == 1.0


def test_gradient_matches_finite_differences() -> None:
    student = STUDENT[:1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: ofd_loss(s, TEACHER[:1], MARGINS), (student,))


def test_measured_margins_are_the_authors_closed_form() -> None:
    # `get_margin_from_BN` gives these for batch norms of weight 1, 0.5, 2 and bias 0.3, -0.2, 1.
    generator = torch.Generator().manual_seed(0)
    margin = Margin(3)
    for _ in range(4):
        normal = torch.randn(64, 40, 40, 3, generator=generator)
        responses = normal * torch.tensor([1.0, 0.5, 2.0]) + torch.tensor([0.3, -0.2, 1.0])
        margin.measure(responses.permute(0, 3, 1, 2))
    torch.testing.assert_close(margin(), torch.tensor([-0.698166, -0.480941, -1.282156]), rtol=0, atol=0.01)


def test_no_negative_response_no_margin() -> None:
    margin = Margin(2)
    margin.measure(torch.rand(3, 2, 4, 4))
    assert torch.equal(margin(), torch.zeros(2))


def test_scaling_keeps_signs() -> None:
    connector = Connector(3, 5, scale=True).double().train()
    connector.measure(100 * TEACHER)
    plain = Connector(3, 5, scale=False).double().train()
    plain.load_state_dict(connector.state_dict(), strict=False)
    plain.margin.mean = connector.margin.mean / 100
    ours, deviation = wave(2, 3, 3, 3, phase=0.2), TEACHER.std(dim=(0, 2, 3), correction=0)[:, None, None]
    plain.margin.mean = plain.margin.mean / deviation.flatten()
    torch.testing.assert_close(connector(ours, 100 * TEACHER), plain(ours, TEACHER / deviation))


def test_deeper_stages_weigh_twice_as_much() -> None:
    method = OFD(staged("vit", TINY["vit"]), staged("mlp", TINY["mlp"]), feature_weight=1.0).train()
    images, labels = draw_batch()
    method.prepare([images])
    method.eval()
    with torch.no_grad():
        terms, student = method(images, labels), method.student(images)
        teacher = method.alignment.teacher_maps(method.teach(images))
        for k, connector in enumerate(method.connectors):
            loss = connector(student.features[k], teacher[k])
            torch.testing.assert_close(terms[f"stage{k + 1}"], 0.5 ** (3 - k) * loss)
