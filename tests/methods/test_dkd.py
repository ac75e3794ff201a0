"""DKD's loss image by image, against the authors' code and against KD, and its ramp."""

import math

import pytest
import torch
import torch.nn.functional as F
from waves import LABELS, STUDENT_LOGITS, TEACHER_LOGITS

from crossdistill.functional import dkd_loss, kd_loss
from crossdistill.methods.dkd import DKD
from crossdistill.testing import TINY, draw_batch, staged


def by_hand(student: list[float], teacher: list[float], target: int, alpha: float, beta: float, t: float) -> float:
    """One image, in plain arithmetic."""

    def softmax(logits: list[float]) -> list[float]:
        powers = [math.exp(logit / t) for logit in logits]
        return [power / sum(powers) for power in powers]

    def divergence(p: list[float], q: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))

    ours, theirs = softmax(student), softmax(teacher)
    of_target = divergence([theirs[target], 1 - theirs[target]], [ours[target], 1 - ours[target]])
    others = [k for k in range(len(student)) if k != target]
    of_others = divergence(softmax([teacher[k] for k in others]), softmax([student[k] for k in others]))
    return t**2 * (alpha * of_target + beta * of_others)


def test_image_by_image() -> None:
    rows = zip(STUDENT_LOGITS.tolist(), TEACHER_LOGITS.tolist(), LABELS.tolist(), strict=True)
    expected = sum(by_hand(*row, 1.5, 3.0, 2.0) for row in rows) / len(LABELS)
    assert dkd_loss(STUDENT_LOGITS, TEACHER_LOGITS, LABELS, 1.5, 3.0, 2.0).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "expected"), [((1.0, 8.0, 4.0), 24.35019968948694), ((0.5, 2.0, 1.0), 2.374144010134641)]
)
def test_agrees_with_the_authors(arguments: tuple[float, float, float], expected: float) -> None:
    # github.com/megvii-research/mdistiller at a08d46f, mdistiller/distillers/DKD.py, run on these inputs.
    actual = dkd_loss(STUDENT_LOGITS, TEACHER_LOGITS, LABELS, *arguments)
    assert actual.item() == pytest.approx(expected, rel=1e-9)


def test_a_weight_of_one_minus_the_target_is_kd() -> None:
    for image in range(5):
        student, teacher, label = (x[image : image + 1] for x in (STUDENT_LOGITS, TEACHER_LOGITS, LABELS))
        beta = 1 - (teacher / 3).softmax(dim=1)[0, label].item()
        torch.testing.assert_close(dkd_loss(student, teacher, label, 1.0, beta, 3.0), kd_loss(student, teacher, 3.0))


def test_equal_logits_and_two_classes() -> None:
    assert dkd_loss(TEACHER_LOGITS + 2, TEACHER_LOGITS, LABELS, 1.0, 8.0, 4.0).item() == pytest.approx(0, abs=1e-12)
    # Of two classes there is one other, so nothing is left to rank.
    two = STUDENT_LOGITS[:, :2], TEACHER_LOGITS[:, :2], torch.tensor([0, 1, 1, 0, 0])
    assert dkd_loss(*two, 1.0, 8.0, 1.0) == dkd_loss(*two, 1.0, 0.0, 1.0)


def test_soft_labels_mean_their_most_likely_class() -> None:
    soft = 0.7 * F.one_hot(LABELS, 7).double() + 0.3 / 7
    expected = dkd_loss(STUDENT_LOGITS, TEACHER_LOGITS, LABELS, 1.0, 8.0, 4.0)
    assert dkd_loss(STUDENT_LOGITS, TEACHER_LOGITS, soft, 1.0, 8.0, 4.0) == expected


def test_gradient_matches_finite_differences() -> None:
    student = STUDENT_LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: dkd_loss(s, TEACHER_LOGITS, LABELS, 1.0, 2.0, 2.0), (student,))


def test_very_sure_models_have_a_finite_loss_and_gradient() -> None:
    # The probability of all other classes is 0 in float32 here.
    student = torch.tensor([[3000.0, 0.0, 10.0], [-3000.0, 0.0, 1.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 2000.0, 5.0], [2000.0, 0.0, 5.0]])
    loss = dkd_loss(student, teacher, torch.tensor([0, 0]), 1.0, 1.0, 1.0)
    loss.backward()
    assert student.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_the_ramp_rises_over_its_share_of_the_training() -> None:
    student, teacher = staged("cnn", TINY["cnn"]), staged("vit", TINY["vit"])
    method = DKD(student, teacher, warmup=0.2).eval()
    seen = {}
    for progress in (0.0, 0.1, 0.2, 1.0):
        method.progress.fill_(progress)
        seen[progress] = method(*draw_batch())["logits"].item()
    assert seen[0.0] == 0
    assert seen[0.1] == pytest.approx(seen[1.0] / 2, rel=1e-5)
    assert seen[0.2] == pytest.approx(seen[1.0], rel=1e-5)
    method.warmup = 0.0
    method.progress.fill_(0.0)
    assert method(*draw_batch())["logits"].item() == pytest.approx(seen[1.0], rel=1e-5)
