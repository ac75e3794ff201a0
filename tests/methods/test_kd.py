"""The logit loss against the closed form and against another implementation."""

import math

import pytest
import torch
import torch.nn.functional as F

from crossdistill.functional import kd_loss


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
