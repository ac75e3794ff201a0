"""What CAKD shows to whom: labels and matching see the image, the critic the changed view; and where h_S is taken."""

import warnings

import pytest
import torch
from torch import Tensor

from crossdistill.errors import UserCaution
from crossdistill.methods.cakd import CAKD
from crossdistill.staged import StagedModel
from crossdistill.testing.tiny_models import SIDE, tiny_cnn, tiny_vit


def make(**hyperparameters: object) -> CAKD:
    torch.manual_seed(0)
    student = StagedModel(tiny_cnn(), name="cnn", image_size=SIDE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserCaution)
        return CAKD(student, StagedModel(tiny_vit(), name="vit", image_size=SIDE), **hyperparameters).train()  # type: ignore[arg-type]


def terms(method: CAKD, monkeypatch: pytest.MonkeyPatch, blind: bool) -> dict[str, Tensor]:
    """Terms of a batch; with `blind`, a changed view shows nothing."""
    if blind:
        monkeypatch.setattr(method, "view", torch.zeros_like)
    else:
        monkeypatch.setattr(method, "view", lambda images: images)
    torch.manual_seed(1)
    images = torch.rand(4, 3, SIDE, SIDE)
    torch.manual_seed(2)
    return method(images, torch.tensor([0, 1, 2, 0]))


@pytest.mark.parametrize(
    ("views", "seen_by"),
    [("critic", {"adversarial"}), ("everywhere", {"labels", "attention", "gram", "adversarial", "gl"})],
)
def test_a_changed_view_reaches_only_the_terms_that_it_is_for(
    views: str, seen_by: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without dropout, whose draws would differ.
    own = terms(make(views=views, dropout=0.0), monkeypatch, blind=False)
    blind = terms(make(views=views, dropout=0.0), monkeypatch, blind=True)
    assert {name for name in own if not torch.equal(own[name], blind[name])} == seen_by


@pytest.mark.parametrize("views", ["critic", "everywhere"])
def test_statistics_are_updated_once_a_step(views: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = make(views=views)
    terms(method, monkeypatch, blind=False)
    counts = [b for name, b in method.student.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts and all(count == 1 for count in counts)


def test_without_views_the_student_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    method, calls = make(view_probability=0.0), []
    method.student.register_forward_hook(lambda *_: calls.append(1))
    terms(method, monkeypatch, blind=False)
    assert len(calls) == 1


@pytest.mark.parametrize(("stem", "stage", "advised"), [(4, 0, 1), (1, 2, None)])
def test_a_stem_with_which_a_later_stage_has_the_teachers_positions_is_named(
    stem: int, stage: int, advised: int | None
) -> None:
    from crossdistill.models import lower_stem_stride

    module = tiny_cnn()
    lower_stem_stride(module, stem)
    student = StagedModel(module, name="cnn", image_size=SIDE)
    teacher = StagedModel(tiny_vit(patch_size=4), name="vit", image_size=SIDE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserCaution)
        assert CAKD(student, teacher).stage == stage
    told = [str(warning.message) for warning in caught if issubclass(warning.category, UserCaution)]
    assert len(told) == (0 if advised is None else 1)
    if advised is not None:
        assert f"with --stem_stride {advised} layer3 has the teacher's 8x8 positions" in told[0]
