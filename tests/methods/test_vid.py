"""VID: the likelihood, the variances that are best, and the values of other code."""

import math

import pytest
import torch
from wave_maps import wave

from crossdistill.functional import vid_loss
from crossdistill.methods.vid import VID
from crossdistill.testing import TINY, staged
from crossdistill.testing.contract import draw_batch

MEAN, TEACHER, RAW = wave(2, 5, 4, 4), wave(2, 5, 4, 4, phase=0.3) + 0.2, wave(5, phase=1.0) + 1


def test_by_loops() -> None:
    total = 0.0
    for c in range(5):
        variance = math.log(1 + math.exp(RAW[c].item())) + 1e-5
        for s, t in zip(MEAN[:, c].flatten().tolist(), TEACHER[:, c].flatten().tolist(), strict=True):
            total += 0.5 * ((s - t) ** 2 / variance + math.log(variance))
    assert vid_loss(MEAN, TEACHER, RAW).item() == pytest.approx(total / TEACHER.numel(), rel=1e-12)


def test_is_the_gaussian_likelihood_without_its_constant() -> None:
    deviation = (torch.nn.functional.softplus(RAW) + 1e-5).sqrt()[:, None, None]
    expected = -torch.distributions.Normal(MEAN, deviation).log_prob(TEACHER).mean() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(vid_loss(MEAN, TEACHER, RAW), expected)


def test_the_best_variance_is_the_mean_squared_error() -> None:
    raw = RAW.clone().requires_grad_()
    error = (MEAN - TEACHER).square().mean(dim=(0, 2, 3))
    with torch.no_grad():
        raw.copy_((error - 1e-5).expm1().log())
    vid_loss(MEAN, TEACHER, raw).backward()
    assert raw.grad is not None and raw.grad.abs().max() < 1e-12


def test_value_of_the_benchmark() -> None:
    # `VID.py` of github.com/HobbitLong/RepDistiller (the authors' loss), with these weights, in float64.
    student = staged("cnn", TINY["cnn"])
    method = VID(student, staged("vit", TINY["vit"]), stages=[4])
    convolutions = [torch.nn.Conv2d(i, 5, kernel_size=1, bias=False).double() for i in (3, 5, 5)]
    for i, convolution in enumerate(convolutions):
        convolution.weight.data = wave(*convolution.weight.shape, phase=0.1 * i, scale=0.5)
    # The layers in between are the method's own.
    regressor = method.means[0]
    for place, convolution in zip((0, 2, 4), convolutions, strict=True):
        regressor[place] = convolution  # type: ignore[operator]
    mean = regressor(wave(2, 3, 4, 4))
    assert vid_loss(mean, TEACHER, RAW).item() == pytest.approx(0.410258529935618, rel=1e-12)


def test_variances_begin_where_asked() -> None:
    method = VID(staged("cnn", TINY["cnn"]), staged("vit", TINY["vit"]))
    assert method.raw_variances[0][0].item() == pytest.approx(4.9932291827136215, rel=1e-6)
    other = VID(staged("cnn", TINY["cnn"]), staged("vit", TINY["vit"]), initial_variance=0.5)
    torch.testing.assert_close(torch.nn.functional.softplus(other.raw_variances[0][0]) + 1e-5, torch.tensor(0.5))


def test_variances_are_learnt() -> None:
    method = VID(staged("cnn", TINY["cnn"]), staged("vit", TINY["vit"])).train()
    images, labels = draw_batch()
    method.prepare([images])
    sum(method(images, labels).values()).backward()  # type: ignore[union-attr]
    # From 5, with targets of deviation 1, they want to shrink.
    assert all((raw.grad > 0).all() for raw in method.raw_variances)


def test_gradient_matches_finite_differences() -> None:
    mean, raw = wave(2, 3, 2, 2).requires_grad_(), wave(3, phase=1.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, r: vid_loss(m, wave(2, 3, 2, 2, phase=0.5), r), (mean, raw))
