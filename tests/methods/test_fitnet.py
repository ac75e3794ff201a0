"""FitNet: its loss, and what it matches with what."""

import pytest
import torch
from wave_maps import wave

from crossdistill.errors import UserError
from crossdistill.functional import fitnet_loss
from crossdistill.methods.fitnet import FitNet
from crossdistill.testing import TINY, staged
from crossdistill.testing.contract import draw_batch


def test_loss_is_the_mean_squared_error() -> None:
    student, teacher = wave(2, 3, 2, 2), wave(2, 3, 2, 2, phase=0.4)
    pairs = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    expected = sum((s - t) ** 2 for s, t in pairs) / 24
    assert fitnet_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_terms_are_those_of_the_standardised_maps_on_the_coarser_grid() -> None:
    method = FitNet(staged("cnn", TINY["cnn"]), staged("vit", TINY["vit"]), feature_weight=3.0).train()
    images, labels = draw_batch()
    method.prepare([images])
    with torch.no_grad():
        student, teacher = method.student(images), method.teacher(images)  # type: ignore[misc]
        terms = method(images, labels)
    assert list(terms) == ["labels", "stage1", "stage2", "stage3", "stage4"]
    # The last stages: the CNN has one position there, so the ViT's are averaged; and what is measured has deviation 1.
    assert student.features[-1].shape[2:] == (1, 1)
    theirs = teacher.features[-1].mean(dim=(2, 3), keepdim=True)
    target = (theirs - theirs.mean(dim=0)) / theirs.std(dim=0, correction=0)
    ours = method.projectors[-1](student.features[-1])
    torch.testing.assert_close(terms["stage4"], 3.0 * (ours - target).square().mean(), rtol=1e-4, atol=1e-5)
    # Projectors begin small beside targets of unit deviation.
    assert all(0.5 < terms[f"stage{k}"].item() / 3 < 2 for k in range(1, 5))


def test_matching_as_in_the_tables_is_offered() -> None:
    method = FitNet(staged("vit", TINY["vit"]), staged("mlp", TINY["mlp"]), stages=[2], standardize_features=False)
    assert not method.rank_local
    images, labels = draw_batch()
    with torch.no_grad():
        terms = method.eval()(images, labels)
        expected = (
            (
                method.projectors[0](method.student(images).features[1]) - method.teacher(images).features[1]  # type: ignore[misc]
            )
            .square()
            .mean()
        )
    assert list(terms) == ["labels", "stage2"]
    torch.testing.assert_close(terms["stage2"], expected)


def test_a_stage_without_a_partner_is_refused() -> None:
    with pytest.raises(UserError, match=r"fitnet: stages=\[5\], but vit has stages 1 to 4"):
        FitNet(staged("vit", TINY["vit"]), staged("cnn", TINY["cnn"]), stages=[5])
