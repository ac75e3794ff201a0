"""Foundation: the loss, teachers without a head, images without labels."""

import math

import pytest
import torch
from wave_maps import wave

from crossdistill.data import Batch
from crossdistill.functional import foundation_loss
from crossdistill.methods.foundation import Foundation
from crossdistill.staged import StagedModel
from crossdistill.testing import TINY, staged
from crossdistill.testing.contract import draw_batch, total

STUDENT, TEACHER = wave(2, 4, 6, phase=0.9), wave(2, 4, 6, phase=1.4, scale=2.5)


def headless(kind: str) -> StagedModel:
    return staged(f"headless {kind}", lambda img_size: TINY[kind](0, img_size))


def test_by_loops() -> None:
    cosine = smooth = 0.0
    for s, t in zip(STUDENT.flatten(0, 1).tolist(), TEACHER.flatten(0, 1).tolist(), strict=True):
        dot = sum(a * b for a, b in zip(s, t, strict=True))
        cosine += 1 - dot / math.sqrt(sum(a * a for a in s) * sum(b * b for b in t))
        for a, b in zip(s, t, strict=True):
            gap = abs(a - b)
            smooth += (0.5 * gap**2 if gap < 1 else gap - 0.5) / 6
    assert foundation_loss(STUDENT, TEACHER, 0.3, 0.9).item() == pytest.approx((0.3 * cosine + 0.9 * smooth) / 8)


def test_value_of_the_authors_code() -> None:
    # `loss_per_teacher` of github.com/naver/unic (modeling/losses.py) with a class token and patches, in float64.
    pooled = foundation_loss(wave(2, 6), wave(2, 6, phase=0.2, scale=1.7))
    value = 0.5 * pooled + 0.5 * foundation_loss(STUDENT, TEACHER)
    assert value.item() == pytest.approx(0.23224303866524776, rel=1e-10)


def test_limits_and_gradient() -> None:
    assert foundation_loss(TEACHER, TEACHER).item() == pytest.approx(0.0, abs=1e-12)
    assert foundation_loss(3 * TEACHER, TEACHER, 1.0, 0.0).item() == pytest.approx(0.0, abs=1e-12)
    assert foundation_loss(-TEACHER, TEACHER, 1.0, 0.0).item() == pytest.approx(2.0)
    student = wave(2, 3, 4, phase=0.2).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: foundation_loss(s, wave(2, 3, 4, phase=0.8, scale=3.0)), (student,))


@pytest.mark.parametrize(("student", "teacher"), [("cnn", "vit"), ("vit", "cnn"), ("mlp", "swin")])
def test_a_teacher_without_a_head_teaches_without_labels(student: str, teacher: str) -> None:
    method = Foundation(staged(student, TINY[student]), headless(teacher)).train()
    images, _ = draw_batch()
    method.prepare([images])
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(12):
        terms = method(images, None)
        optimizer.zero_grad()
        total(terms).backward()
        optimizer.step()
        losses.append(total(terms).item())
    assert list(terms) == ["pooled", "patches"]
    assert losses[-1] < 0.8 * losses[0]


def test_terms_are_those_of_standardised_vectors() -> None:
    method = Foundation(staged("cnn", TINY["cnn"]), headless("vit"), pooled_weight=2.0, patch_weight=3.0).train()
    images, _ = draw_batch()
    method.prepare([images])
    with torch.no_grad():
        terms, student, teacher = method(images), method.student(images), method.teacher(images)  # type: ignore[misc]
    # One position of the CNN: its map is its pooled vector, and the ViT's patches are averaged.
    target = (teacher.pooled - teacher.pooled.mean(dim=0)) / teacher.pooled.std(dim=0, correction=0)
    expected = 2.0 * foundation_loss(method.project_pooled(student.pooled), target)
    torch.testing.assert_close(terms["pooled"], expected, rtol=1e-4, atol=1e-5)
    patches = teacher.final.flatten(2)
    mean, deviation = patches.mean(dim=(0, 2)), patches.std(dim=(0, 2), correction=0)
    target = ((patches.mean(dim=2) - mean) / deviation)[:, None]
    expected = 3.0 * foundation_loss(method.project_patches(student.final.flatten(2).mT), target)
    torch.testing.assert_close(terms["patches"], expected, rtol=1e-4, atol=1e-5)


def test_the_head_is_trained_only_when_asked() -> None:
    images, labels = draw_batch()
    for weight in (0.0, 1.0):
        method = Foundation(staged("vit", TINY["vit"]), headless("cnn"), label_weight=weight)
        total(method(images, labels)).backward()
        head = method.student.model.head.weight.grad
        assert head is not None and (head.abs().max() > 0) == (weight > 0)


def test_how_near_the_student_is_to_the_teacher_is_watched() -> None:
    method = Foundation(staged("cnn", TINY["cnn"]), headless("vit"), hidden_size=16)
    images, labels = draw_batch()
    method.prepare([images])
    batch = Batch(images, labels, torch.arange(4))
    near = method.validation_metrics(batch, method.student, method.student(images))["teacher_cosine"]
    assert near.shape == (4,) and near.abs().max() <= 1
