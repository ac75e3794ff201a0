"""DeiT's term against the authors' code, what learns what, and that CSKD's is the same."""

import pytest
import torch
import torch.nn.functional as F
from waves import STUDENT_LOGITS, TEACHER_LOGITS

from crossdistill.errors import UserError
from crossdistill.functional import deit_loss, kd_loss
from crossdistill.methods.cskd import CSKD
from crossdistill.methods.deit import DeiT
from crossdistill.testing import TINY, draw_batch, staged
from crossdistill.testing.tiny_models import tiny_cnn


def test_agrees_with_the_authors() -> None:
    # github.com/facebookresearch/deit at 7e160fe, losses.py, alpha 0.5 and tau 3, without its term of the labels.
    soft = deit_loss(STUDENT_LOGITS, TEACHER_LOGITS, "soft", 3.0, "released")
    hard = deit_loss(STUDENT_LOGITS, TEACHER_LOGITS, "hard", 3.0)
    assert 0.5 * soft.item() == pytest.approx(0.20075498498292577, rel=1e-9)
    assert 0.5 * hard.item() == pytest.approx(0.8863434968378034, rel=1e-9)


def test_the_papers_soft_kind_is_kd() -> None:
    soft = deit_loss(STUDENT_LOGITS, TEACHER_LOGITS, "soft", 3.0)
    assert soft == kd_loss(STUDENT_LOGITS, TEACHER_LOGITS, 3.0)
    torch.testing.assert_close(soft / 7, deit_loss(STUDENT_LOGITS, TEACHER_LOGITS, "soft", 3.0, "released"))


def test_the_token_learns_the_teacher_and_the_class_token_the_labels() -> None:
    student, teacher = staged("distilled", TINY["distilled"]), staged("cnn", TINY["cnn"])
    method = DeiT(student, teacher).eval()
    images, labels = draw_batch()
    terms, outputs = method(images, labels), student(images)
    target = teacher(images).logits.argmax(dim=1)
    torch.testing.assert_close(terms["labels"], 0.5 * F.cross_entropy(outputs.head_logits["class"], labels))
    torch.testing.assert_close(terms["logits"], 0.5 * F.cross_entropy(outputs.head_logits["distillation"], target))


@pytest.mark.parametrize("kind", ["distilled", "cnn"])
def test_one_head_learns_both(kind: str) -> None:
    student, teacher = staged(kind, TINY[kind]), staged("vit", TINY["vit"])
    method = DeiT(student, teacher, kind="soft", through="head").eval()
    images, labels = draw_batch()
    terms, logits = method(images, labels), student(images).logits
    torch.testing.assert_close(terms["labels"], 0.9 * F.cross_entropy(logits, labels))
    torch.testing.assert_close(terms["logits"], 0.1 * kd_loss(logits, teacher(images).logits, 3.0))


def test_cskd_without_its_spatial_term_is_deit() -> None:
    student = staged("distilled", TINY["distilled"])
    teacher = staged("wide_cnn", lambda img_size: tiny_cnn(output_stride=8))
    batch = draw_batch()
    for kind in ("hard", "soft"):
        ours = DeiT(student, teacher, kind=kind, temperature=2.0, label_weight=0.4, teacher_weight=0.6).eval()
        theirs = CSKD(
            student, teacher, logit_kind=kind, temperature=2.0, label_weight=0.4, logit_weight=0.6, spatial_weight=0.0
        ).eval()
        terms = theirs(*batch)
        assert terms.pop("spatial") == 0
        torch.testing.assert_close(ours(*batch), terms)


def test_a_token_that_is_not_there_is_refused() -> None:
    student, teacher = staged("vit", TINY["vit"]), staged("cnn", TINY["cnn"])
    with pytest.raises(UserError, match="vit has no distillation token: choose .*method.kwargs.through head"):
        DeiT(student, teacher, through="token")
    assert not DeiT(student, teacher).through_token
