"""The logit loss against the closed form and against another implementation."""

import math

import pytest
import torch
import torch.nn.functional as F
from waves import STUDENT_LOGITS, TEACHER_LOGITS

from crossdistill.data import Batch
from crossdistill.functional import kd_loss
from crossdistill.methods.kd import KD, standardize_logits
from crossdistill.staged import Outputs
from crossdistill.testing import TINY, draw_batch, staged


def test_two_classes_by_hand() -> None:
    # Teacher odds 3:1, student odds 1:1: KL = 3/4 log(3/2) + 1/4 log(1/2).
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kd_loss(torch.zeros(1, 2), teacher, 1.0).item() == pytest.approx(expected, rel=1e-6)
    assert kd_loss(torch.zeros(1, 2), 2 * teacher, 2.0).item() == pytest.approx(4 * expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_agrees_with_timm(temperature: float) -> None:
    import timm
    from timm.task import LogitDistillationTask

    student = timm.create_model("test_resnet", num_classes=7).eval()
    teacher = timm.create_model("test_resnet", num_classes=7)
    task = LogitDistillationTask(
        student,
        teacher,
        criterion=torch.nn.CrossEntropyLoss(),
        distill_loss_weight=1.0,
        task_loss_weight=1.0,
        temperature=temperature,
    )
    images, labels = torch.randn(6, 3, 32, 32), torch.randint(7, (6,))
    with torch.no_grad():
        expected = task(images, labels)["loss"]
        logits = student(images)
        ours = F.cross_entropy(logits, labels) + kd_loss(logits, teacher.eval()(images), temperature)
    torch.testing.assert_close(ours, expected)


def test_gradient_matches_finite_differences() -> None:
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: kd_loss(s, teacher, 3.0), (student,))


def test_standardized_logits_by_hand() -> None:
    # Mean 2, deviation sqrt((1 + 0 + 1) / 2) = 1.
    actual = standardize_logits(torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [5.0, 5.0, 5.0]]))
    torch.testing.assert_close(actual, torch.tensor([[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))


def test_standardized_loss_agrees_with_its_authors() -> None:
    # github.com/sunshangquan/logit-standardization-KD at f6e5aa5, mdistiller/distillers/KD.py, run on these inputs.
    actual = kd_loss(standardize_logits(STUDENT_LOGITS), standardize_logits(TEACHER_LOGITS), 2.0)
    assert actual.item() == pytest.approx(0.5198598827502262, rel=1e-6)


def test_standardized_loss_does_not_see_the_scale_of_the_logits() -> None:
    method = KD(staged("vit", TINY["vit"]), staged("cnn", TINY["cnn"]), temperature=2.0, standardize=True).eval()
    student, teacher = Outputs(logits=STUDENT_LOGITS), Outputs(logits=TEACHER_LOGITS)
    expected = method.terms(student, teacher, Batch(*draw_batch(), None))  # type: ignore[arg-type]
    scaled = Outputs(logits=0.2 * STUDENT_LOGITS + 7)
    torch.testing.assert_close(method.terms(scaled, teacher, Batch(*draw_batch(), None)), expected)  # type: ignore[arg-type]


def test_a_head_that_starts_at_zero_has_a_finite_standardized_gradient() -> None:
    student = torch.zeros(2, 5, requires_grad=True)
    kd_loss(standardize_logits(student), standardize_logits(torch.randn(2, 5)), 2.0).backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().max() > 0


def test_standardization_matches_finite_differences() -> None:
    student = STUDENT_LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(standardize_logits, (student,))
