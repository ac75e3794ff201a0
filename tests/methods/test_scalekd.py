"""ScaleKD: both views, the projector, and the path through the teacher."""

import math

import pytest
import torch
from wave_maps import wave

from crossdistill.functional import scalekd_loss
from crossdistill.methods.scalekd import AttentionProjector, ScaleKD
from crossdistill.staged import Stage
from crossdistill.testing import TINY, staged
from crossdistill.testing.contract import draw_batch, total

STUDENT, TEACHER = wave(2, 4, 7, 7) + 0.5, wave(2, 4, 7, 7, phase=0.7, scale=2.0) + 1


def by_loops(student: torch.Tensor, teacher: torch.Tensor) -> float:
    result = 0.0
    for image in range(len(student)):
        for y in range(7):
            for x in range(7):
                s, t = (f[image, :, y, x].tolist() for f in (student, teacher))
                length_s, length_t = (math.sqrt(sum(v * v for v in vector)) for vector in (s, t))
                result += sum((a / length_s - b / length_t) ** 2 for a, b in zip(s, t, strict=True))
    return result / len(student)


def test_spatial_view_by_loops() -> None:
    assert scalekd_loss(STUDENT, TEACHER, "spatial").item() == pytest.approx(by_loops(STUDENT, TEACHER), rel=1e-12)


def test_frequency_view_is_a_cosine_transform_without_its_constant() -> None:
    fft = pytest.importorskip("scipy.fft")

    def without_constant(features: torch.Tensor) -> torch.Tensor:
        coefficients = fft.dctn(features.numpy(), axes=(2, 3))
        coefficients[:, :, 0, 0] = 0
        return torch.from_numpy(fft.idctn(coefficients, axes=(2, 3)))

    expected = by_loops(without_constant(STUDENT), without_constant(TEACHER))
    assert scalekd_loss(STUDENT, TEACHER, "frequency").item() == pytest.approx(expected, rel=1e-10)


def test_values_of_the_authors_code() -> None:
    # The losses and the cosine transform of github.com/deep-optimization/ScaleKD (dis_losses/fmdv2.py), in float64.
    assert scalekd_loss(STUDENT, TEACHER, "spatial").item() == pytest.approx(17.38429664664841, rel=1e-10)
    assert scalekd_loss(STUDENT, TEACHER, "frequency").item() == pytest.approx(31.984815625387053, rel=1e-10)


def test_projector_has_the_authors_values() -> None:
    # `AttentionProjector` of the same file, all parameters set so, with two layers and a sum for mmcv's FFN.
    stage = Stage("", 3, (4, 4), 3, (4, 4), "NCHW", 0, ("convolution",))
    projector = AttentionProjector(stage, 8, (4, 4), heads=2, learnt_queries=True).double().train()
    assert projector.queries is not None
    parameters = [
        projector.position_code,
        *projector.query_projection.parameters(),
        *projector.convolution.parameters(),
        *projector.norm.parameters(),
        *projector.to_query.parameters(),
        *projector.to_key.parameters(),
        *projector.to_value.parameters(),
        *projector.mixed.parameters(),
        *projector.mlp.parameters(),
        *projector.token_norm.parameters(),
    ]
    for i, parameter in enumerate(parameters):
        parameter.data = wave(*parameter.shape, phase=0.3 * i, scale=0.6)
    # There an embedding of (positions, channels).
    projector.queries.data = wave(16, 8, phase=0.3 * len(parameters), scale=0.6).mT.reshape(1, 8, 4, 4)
    tokens = projector(wave(2, 3, 4, 4)).flatten(2).mT
    assert tokens.square().sum().item() == pytest.approx(3444.882934910827, rel=1e-9)
    assert (tokens * wave(2, 16, 8, phase=0.5)).sum().item() == pytest.approx(9.06782167926677, rel=1e-9)


def test_gradients_match_finite_differences() -> None:
    student = wave(1, 3, 2, 3, phase=0.1).requires_grad_()
    for view in ("spatial", "frequency"):
        teacher = wave(1, 3, 2, 3, phase=0.8) + 0.3
        assert torch.autograd.gradcheck(lambda s, t=teacher, v=view: scalekd_loss(s, t, v), (student,))


def test_positions_that_do_not_differ_have_a_gradient_all_the_same() -> None:
    student = torch.ones(1, 4, 2, 2, requires_grad=True)
    scalekd_loss(student, wave(1, 4, 2, 2).float(), "frequency").backward()
    assert student.grad is not None and student.grad.abs().max() < 1e3


@pytest.mark.parametrize(("student", "teacher"), [("cnn", "vit"), ("cnn", "swin"), ("vit", "mlp")])
def test_the_path_through_the_teacher_ends_in_its_own_map(student: str, teacher: str) -> None:
    method = ScaleKD(staged(student, TINY[student]), staged(teacher, TINY[teacher]), spatial_weight=2.0).eval()
    images, labels = draw_batch()
    assert method.teacher is not None
    with torch.no_grad():
        theirs = method.teacher(images)
        # A projector that gives what the teacher has there leaves nothing to learn.
        for projector in method.into_last_stage.values():
            projector.forward = lambda feature: theirs.features[-2]  # type: ignore[method-assign]
        terms = method(images, labels)
        assert terms["spatial_through_teacher"].item() == pytest.approx(0.0, abs=1e-6)
        assert terms["frequency_through_teacher"].item() == pytest.approx(0.0, abs=1e-4)
        asked = method.into_last_map["spatial"](method.student(images).features[-1], theirs.final)
        torch.testing.assert_close(terms["spatial"], 2.0 * scalekd_loss(asked, theirs.final, "spatial"))


def test_a_teacher_without_a_head() -> None:
    teacher = staged("headless", lambda img_size: TINY["vit"](0, img_size))
    method = ScaleKD(staged("cnn", TINY["cnn"]), teacher, logit_weight=0.0, label_weight=1.0)
    assert torch.isfinite(total(method(*draw_batch())))
