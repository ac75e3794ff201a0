"""CSKD's fused target and loss by hand, and the grid on which both answers meet."""

import pytest
import torch
import torch.nn.functional as F

from crossdistill.methods.cskd import cskd_loss, fuse
from crossdistill.methods.kd import kd_loss


@pytest.mark.parametrize(
    ("schedule", "progress", "share"),
    [
        ("linear", 0.0, 1.0),
        ("linear", 0.25, 0.75),
        ("quadratic", 0.25, 0.5625),
        ("cosine", 1 / 3, 0.75**0.5),
        ("linear", 1.0, 0.0),
        ("quadratic", 1.0, 0.0),
        ("cosine", 1.0, 0.0),
    ],
)
def test_the_local_share_falls_as_scheduled(schedule: str, progress: float, share: float) -> None:
    dense, logits = torch.randn(2, 4, 3, 5), torch.randn(2, 4)
    expected = share * dense + (1 - share) * logits[:, :, None, None]
    torch.testing.assert_close(fuse(dense, logits, progress, schedule), expected)
    torch.testing.assert_close(fuse(dense, logits, torch.tensor(progress), schedule), expected)


def test_hard_loss_by_hand() -> None:
    student = torch.log(torch.tensor([[[[0.7, 0.2]], [[0.3, 0.8]]]]))  # (1, 2, 1, 2)
    # The left position says class 0, the right one class 1, and their mean (0.5, 1.5) class 1. The left target is
    # (1 + a, 3 - 3 a) / 2: class 0 until a = 1/2.
    teacher = torch.tensor([[[[1.0, 0.0]], [[0.0, 3.0]]]])
    expected = {
        label: -(torch.tensor(left).log() + torch.tensor(0.8).log()) / 2 for label, left in enumerate([0.7, 0.3])
    }
    for progress, label in ((0.0, 0), (0.4, 0), (0.6, 1), (1.0, 1)):
        actual = cskd_loss(student, teacher, progress, "hard", "linear", 1.0)
        torch.testing.assert_close(actual, expected[label], msg=f"progress {progress}")


def test_soft_loss_is_a_mean_over_positions_and_images() -> None:
    student, teacher = torch.randn(3, 4, 2, 5), torch.randn(3, 4, 2, 5)
    target = fuse(teacher, teacher.mean((2, 3)), 0.3, "quadratic")
    expected = torch.stack(
        [kd_loss(student[:, :, i, j], target[:, :, i, j], temperature=2.0) for i in range(2) for j in range(5)]
    ).mean()
    actual = cskd_loss(student, teacher, 0.3, "soft", "quadratic", 2.0)
    torch.testing.assert_close(actual, expected)


def test_the_global_answer_is_the_mean_unless_given() -> None:
    student, teacher = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    mean = cskd_loss(student, teacher, 0.5, "soft", "linear", 1.0, teacher.mean((2, 3)))
    torch.testing.assert_close(cskd_loss(student, teacher, 0.5, "soft", "linear", 1.0), mean)
    other = cskd_loss(student, teacher, 0.5, "soft", "linear", 1.0, torch.randn(2, 4))
    assert not torch.allclose(other, mean)


def test_at_the_end_the_hard_loss_is_deits_at_every_position() -> None:
    student, teacher = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    label = teacher.mean((2, 3)).argmax(1)[:, None, None].expand(2, 3, 3)
    torch.testing.assert_close(cskd_loss(student, teacher, 1.0, "hard", "linear", 1.0), F.cross_entropy(student, label))


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_gradient_matches_finite_differences(kind: str) -> None:
    student = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: cskd_loss(s, teacher, 0.3, kind, "cosine", 2.0), (student,))
