"""ReviewKD: fusion from the deepest level up, against the authors' values; the ramp."""

import pytest
import torch
from wave_maps import wave

from crossdistill.functional import hcl_loss
from crossdistill.methods.reviewkd import Fusion, ReviewKD
from crossdistill.testing import TINY, staged
from crossdistill.testing.contract import draw_batch


def test_values_of_the_authors_code() -> None:
    # `hcl` and `ABF` of github.com/dvlab-research/ReviewKD (ImageNet/models/reviewkd.py), in float64.
    loss = hcl_loss(wave(2, 3, 7, 7), wave(2, 3, 7, 7, phase=0.6))
    assert loss.item() == pytest.approx(0.10826583066436608, rel=1e-10)
    fusion = Fusion(3, 4, 5, deepest=False).double().train()
    assert fusion.attention is not None
    fusion.enter.weight.data = wave(4, 3, 1, 1)
    fusion.leave.weight.data = wave(5, 4, 3, 3, phase=0.2)
    fusion.attention.weight.data = wave(2, 8, 1, 1, phase=0.4)
    fusion.attention.bias.data = wave(2, phase=0.8)  # type: ignore[union-attr]
    projection, fused = fusion(wave(2, 3, 4, 4), wave(2, 4, 2, 2, phase=1.1))
    assert projection.square().sum().item() == pytest.approx(159.99953588322666, rel=1e-10)
    assert (projection * wave(2, 5, 4, 4, phase=0.3)).sum().item() == pytest.approx(-0.5847046978371798, rel=1e-8)
    assert (fused * wave(2, 4, 4, 4, phase=0.3)).sum().item() == pytest.approx(-7.7047019231041425, rel=1e-10)


def test_every_level_learns_from_all_deeper_ones() -> None:
    method = ReviewKD(staged("vit", TINY["vit"]), staged("cnn", TINY["cnn"]), warm_up=0.0).eval()
    images, _ = draw_batch()
    student, teacher = method.student(images), method.teach(images)
    features = [feature.detach().requires_grad_() for feature in student.features]
    student.features, student.pooled = features, student.pooled.detach().requires_grad_()
    terms = method.terms(student, teacher, None)  # type: ignore[arg-type]
    assert list(terms) == ["pooled", "stage4", "stage3", "stage2", "stage1"]
    for level in range(1, 5):
        gradients = torch.autograd.grad(
            terms[f"stage{level}"], [*features, student.pooled], retain_graph=True, allow_unused=True
        )
        reached = [gradient is not None for gradient in gradients]
        assert reached == [number >= level for number in range(1, 5)] + [True]


def test_weight_ramps_up_with_progress() -> None:
    method = ReviewKD(staged("cnn", TINY["cnn"]), staged("vit", TINY["vit"]), warm_up=0.25).eval()
    images, labels = draw_batch()
    values = []
    with torch.no_grad():
        for progress in (0.0, 0.125, 0.25, 1.0):
            method.progress.fill_(progress)
            values.append(method(images, labels)["stage2"].item())
    assert values[0] == 0.0
    assert values[1] == pytest.approx(values[2] / 2) and values[2] == values[3] > 0
    method.warm_up = 0.0
    method.progress.fill_(0.0)
    assert method(images, labels)["stage2"].item() == pytest.approx(values[3])
