"""Changed views of images, and who sees them."""

import pytest
import torch
from torch import Tensor

from cakd.helpers import make
from crossdistill.methods.cakd.views import random_view
from crossdistill.testing import draw_batch


def test_views_change_some_images_and_move_nothing() -> None:
    images = torch.rand(200, 3, 16, 24)
    view = random_view(images, (2, 3), probability=0.5, strength=0.4, masked=0.25)
    same = (view == images).flatten(1).all(dim=1)
    assert 60 < same.sum() < 140
    assert view.min() >= 0 and view.max() <= 1
    assert torch.equal(random_view(images, (2, 3), probability=0.0, strength=0.4, masked=0.25), images)
    # Without change of colour, what is not hidden is what it was, and hidden patches are whole and of one colour.
    view = random_view(images, (2, 3), probability=1.0, strength=0.0, masked=0.25)
    changed = (view - images).abs().amax(dim=1).gt(1e-5).unfold(1, 8, 8).unfold(2, 8, 8).flatten(3)  # (B, 2, 3, 64)
    share = changed.float().mean(dim=3)
    assert share.mean() == pytest.approx(0.25, abs=0.04)
    assert ((share < 0.05) | (share > 0.95)).all()


def test_the_teacher_sees_the_images_and_the_student_a_view() -> None:
    method = make(view_probability=1.0, view_masked=1.0)
    seen: dict[str, Tensor] = {}
    for name, model in (("student", method.student), ("teacher", method.teacher)):
        assert model is not None
        model.register_forward_pre_hook(lambda m, args, name=name: seen.update({name: args[0]}))
    images, labels = draw_batch()
    method(images, labels)
    assert torch.equal(seen["teacher"], images)
    assert seen["student"].flatten(2).std(dim=2).max() < 1e-5  # every patch is hidden
    method.eval()(images, labels)
    assert torch.equal(seen["student"], images)
